"""Devices that the tests' kernel lacks, in a machine with Debian's: each packet is mirrored once, in VXLAN and files.

The machine only runs mirrord, ping and iperf3 (devices.sh), since there everything takes long; what they left is looked
at here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.captures import about, fields
from tests.support.metrics import Metrics
from tests.support.sniffer import Recording
from tests.support.vm import run
from tests.support.wire import decapsulated

SCRIPT = Path(__file__).with_name("devices.sh")
PINGS = 3
STREAM = 200 << 10  # bytes that the peer sends


class Kind(NamedTuple):
    """A source: what is mirrored of it, and what is seen there of three pings, (sent, received)."""

    name: str
    raw: bool = False
    pings: tuple[int, int] = (PINGS, PINGS)
    source: str = ""  # TOML; "": the device


KINDS = [
    Kind("wg0", raw=True),
    Kind("ipip1", raw=True),
    Kind("gre1", raw=True),
    Kind("sit1", raw=True),
    Kind("ppp0", raw=True),
    Kind("bond0"),
    Kind("parent"),  # of an ipvlan device
    Kind("child", pings=(PINGS, 0)),  # the ipvlan device, in mode l3s: what it receives never comes to its tap
    Kind("vrf0", pings=(2 * PINGS, 0)),  # what it receives is tapped as sent
    Kind("eth0.5"),
    Kind("br0", source='{ type = "bridge", bridge = "br0" }', pings=(0, 2 * PINGS)),
]
DAEMON = """
[daemon]
socket = "/run/mirrord.sock"
state = "/tmp/state.db"
include = []
capture_directories = ["/tmp/shared"]

[[mirrors.refused.sessions]]
name = "gre2"
source = "gre2"
destination = { type = "vxlan", remote = "192.0.2.2", vni = 99 }

[[mirrors.refused.sessions]]
name = "vrf0"
source = "vrf0"
direction = "ingress"
destination = { type = "vxlan", remote = "192.0.2.2", vni = 98 }

[[mirrors.twice.sessions]]
name = "bonds"
source = { device = ["bond0", "slave*"] }
destination = { type = "vxlan", remote = "192.0.2.2", vni = 97 }
"""
SESSIONS = """
[[mirrors.copies.sessions]]
name = "{number}"
source = {source}
destination = {{ type = "vxlan", remote = "192.0.2.2", vni = {number} }}

[[mirrors.files.sessions]]
name = "{number}"
source = {source}
destination = {{ type = "file", path = "/tmp/shared/{name}.pcapng" }}
"""


def echoes(copies: Recording) -> list[tuple[str, str]]:
    """The echo requests and replies, as (type, sequence number)."""
    names = ("icmp.type", "icmp.seq", "icmpv6.type", "icmpv6.echo.sequence_number")
    rows = copies.fields(*names, expression="icmp.type in {0,8} || icmpv6.type in {128,129}")
    return sorted((kind or kind6, number or number6) for kind, number, kind6, number6 in rows)


def vnis(copies: Recording) -> dict[int, Recording]:
    """The copies by their VNI, out of VXLAN."""
    found = {}
    for number in range(1, len(KINDS) + 1):
        chosen = copies.file.with_name(f"vni{number}.pcap")
        copies.tshark("-w", str(chosen), "-F", "pcap", expression=f"vxlan.vni == {number}")
        found[number] = decapsulated(Recording(chosen))
    return found


@pytest.mark.timeout(400)
def test_each_packet_is_mirrored_once(tmp_path: Path) -> None:
    parts = [DAEMON]
    for number, kind in enumerate(KINDS, start=1):
        parts.append(SESSIONS.format(number=number, name=kind.name, source=kind.source or f'"{kind.name}"'))
    (tmp_path / "mirrord.toml").write_text("\n".join(parts))
    run(SCRIPT, tmp_path)
    said = (tmp_path / "pings").read_text()
    assert said.count(f"{PINGS} packets transmitted, {PINGS} received") == len(KINDS) - 1, said
    by_number = vnis(Recording(tmp_path / "copies.pcap"))
    metrics = Metrics.parse((tmp_path / "metrics.txt").read_text())
    told = json.loads((tmp_path / "status.json").read_text())["sessions"]
    assert metrics.total("mirrord_dropped_frames_total") == 0
    assert metrics.unaccounted() == 0
    for number, kind in enumerate(KINDS, start=1):
        _check(kind, number, by_number[number], tmp_path, metrics)
        links = {one.get("link") for one in told if one["session"] == str(number)}
        assert links == {"ip" if kind.raw else None}
    _check_streams(by_number, metrics)
    _check_doctor(tmp_path, told)


def _check(kind: Kind, number: int, copies: Recording, directory: Path, metrics: Metrics) -> None:
    request, reply = ("128", "129") if kind.name == "sit1" else ("8", "0")
    sequences = [str(n) for n in range(1, PINGS + 1)]
    kinds = [request, reply] if sum(kind.pings) > PINGS else [request]
    expected = [(one, number) for one in kinds for number in sequences]
    assert echoes(copies) == sorted(expected), kind
    if kind.raw:
        assert {frame[:12] for frame in copies.frames()} == {bytes(12)}
    for file in directory.glob(f"{kind.name}*.pcapng"):
        written = "Raw IP" if kind.raw else "Ethernet"
        assert re.search(rf"File encapsulation: +{written}\n", about(file)), kind
    files = list(directory.glob(f"{kind.name}*.pcapng"))
    assert len(files) == (3 if kind.name == "br0" else 1)
    names = ("frame.packet_flags", "icmp.type", "icmpv6.type")
    rows = [row for file in files for row in fields(file, *names)]
    ways = [way for way, kind4, kind6 in rows if (kind4 or kind6) in (request, reply)]
    assert (ways.count("0x00000002"), ways.count("0x00000001")) == kind.pings, kind  # epb_flags: outbound, inbound
    assert metrics.total("mirrord_mirrored_frames_total", mirror="copies", session=str(number)) > 0


def _check_streams(copies: dict[int, Recording], metrics: Metrics) -> None:
    """Super-frames were split: the streams are whole, no segment is longer than on a wire, each checksum is right."""
    for number, most in ((1, 1434), (6, 1514)):
        assert metrics.total("mirrord_segmented_frames_total", mirror="copies", session=str(number)) > 0
        frames = copies[number].frames("tcp[tcpflags] & tcp-rst == 0")
        assert max(map(len, frames)) == most
        assert len(set(frames)) == len(frames)  # one that is sent again has an IP ID of its own
        bad = "tcp.checksum.status == 0 || ip.checksum.status == 0 || tcp.analysis.lost_segment"
        checks = ("-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE")
        assert copies[number].tshark(*checks, expression=bad) == ""
        received = copies[number].fields("tcp.len", expression="tcp.srcport == 5201")
        assert sum(int(length) for (length,) in received) >= STREAM


def _check_doctor(directory: Path, told: list[dict[str, Any]]) -> None:
    """What a tap does not see is told, and what it has nothing of is refused."""
    found = json.loads((directory / "doctor.json").read_text())["doctor"]
    codes = {(one["code"], one["source"]) for one in found if one["mirror"] in ("copies", "twice")}
    blind = {("ipvlan_l3s", "child"), ("vrf", "vrf0"), ("vlan_filtering", "br0")}
    assert blind | {("seen_twice", "slave1"), ("seen_twice", "slave2")} <= codes
    reasons = {one["source"]: one["reason"] for one in told if one["mirror"] == "refused"}
    assert "a GRE device without a remote of its own" in reasons["gre2"]
    assert 'direction = "ingress" has none' in reasons["vrf0"]
    listed = json.loads((directory / "sources.json").read_text())["sources"]
    kinds = {one["device"]: (one["kind"], one["link"]) for one in listed}
    assert kinds["wg0"] == ("wireguard", "ip")
    assert kinds["ppp0"] == ("ppp", "ip")
    assert kinds["bond0"] == ("bond", "ethernet")
