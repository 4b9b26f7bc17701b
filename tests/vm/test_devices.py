"""Devices that the tests' kernel lacks, in a machine with Debian's: each packet is mirrored once, in VXLAN and files.

The machine only runs mirrord, ping and iperf3 (devices.sh), since there everything takes long; what they left is looked
at here.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.captures import fields
from tests.support.metrics import Metrics
from tests.support.sniffer import Recording
from tests.support.vm import run
from tests.support.wire import decapsulated

SCRIPT = Path(__file__).with_name("devices.sh")
PINGS = 3
OUTBOUND = {"0x00000001": "received", "0x00000002": "sent"}  # epb_flags, draft-ietf-opsawg-pcapng 4.3.1
VLAN_OF_BRIDGE = 96  # the VNI
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
state = "/run/state.db"
include = []
capture_directories = ["/run/shared"]

[[mirrors.refused.sessions]]
name = "gre2"
source = "gre2"
destination = { type = "vxlan", remote = "192.0.2.2", vni = 99 }

[[mirrors.refused.sessions]]
name = "vrf0"
source = "vrf0"
direction = "ingress"
destination = { type = "vxlan", remote = "192.0.2.2", vni = 98 }

[[mirrors.vlan.sessions]]
name = "br0"
source = { type = "bridge", bridge = "br0", vlan = 10 }
destination = { type = "vxlan", remote = "192.0.2.2", vni = 96 }

[[mirrors.geneve.sessions]]
name = "geneve"
source = "bond0"
destination = { type = "geneve", remote = "192.0.2.2", vni = 7, metadata = true }

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
destination = {{ type = "file", path = "/run/shared/{name}.pcapng" }}
"""


class Echo(NamedTuple):
    """A copy of an echo request or reply, as tshark tells it."""

    kind: str
    sequence: str
    vlan: str
    addresses: str  # of Ethernet, the inner ones: source, destination


def echoes(copies: Path) -> dict[int, list[Echo]]:
    """By VNI. In one go: tshark takes a second to start."""
    names = ("vxlan.vni", "icmp.type", "icmp.seq", "icmpv6.type", "icmpv6.echo.sequence_number", "vlan.id")
    found: dict[int, list[Echo]] = {}
    for vni, kind, number, kind6, number6, vlan, source, destination in fields(copies, *names, "eth.src", "eth.dst"):
        if vni and (kind or number6):
            addresses = " ".join(one.rpartition(",")[2] for one in (source, destination))
            found.setdefault(int(vni), []).append(Echo(kind or kind6, number or number6, vlan, addresses))
    return found


def ways(directory: Path) -> Counter[tuple[str, str]]:
    """How many echo requests and replies were captured on each device, sent and received, by its file."""
    merged = directory / "merged"
    files = sorted(map(str, directory.glob("*.pcapng")))
    subprocess.run(["mergecap", "-w", merged, *files], check=True)
    names = ("frame.interface_name", "frame.packet_flags", "icmp.type", "icmpv6.echo.sequence_number")
    rows = fields(merged, *names)
    return Counter((device, OUTBOUND[flags]) for device, flags, kind, number6 in rows if kind or number6)


def link_types(directory: Path) -> dict[str, str]:
    """By file, as capinfos calls them."""
    files = sorted(map(str, directory.glob("*.pcapng")))
    told = subprocess.run(["capinfos", "-TrE", *files], check=True, capture_output=True, text=True).stdout
    rows = (line.split("\t") for line in told.splitlines())
    return {Path(row[0]).stem: row[1] for row in rows}


def chosen(copies: Recording, vni: int) -> Recording:
    """The copies of this VNI, out of VXLAN."""
    file = copies.file.with_name(f"vni{vni}.pcap")
    expression = f"udp port 4789 and udp[12:4] = {vni << 8}"
    subprocess.run(["tcpdump", "-r", copies.file, "-w", file, expression], check=True, capture_output=True)
    return decapsulated(Recording(file))


@pytest.mark.timeout(400)
def test_each_packet_is_mirrored_once(tmp_path: Path) -> None:
    parts = [DAEMON]
    for number, kind in enumerate(KINDS, start=1):
        parts.append(SESSIONS.format(number=number, name=kind.name, source=kind.source or f'"{kind.name}"'))
    (tmp_path / "mirrord.toml").write_text("\n".join(parts))
    run(SCRIPT, tmp_path)
    said = (tmp_path / "pings").read_text()
    assert said.count(f"{PINGS} packets transmitted, {PINGS} received") == len(KINDS) - 1, said
    copies = Recording(tmp_path / "copies.pcap")
    metrics = Metrics.parse((tmp_path / "metrics.txt").read_text())
    told = json.loads((tmp_path / "status.json").read_text())["sessions"]
    assert metrics.total("mirrord_dropped_frames_total") == 0
    assert metrics.unaccounted() == 0
    found = echoes(copies.file)
    for number, kind in enumerate(KINDS, start=1):
        _check_copies(kind, found[number])
        links = {one.get("link") for one in told if one["session"] == str(number)}
        assert links == {"ip" if kind.raw else None}
    # What comes in untagged has the VLAN of its port, as what comes in by the tagged port has: one form, one VLAN.
    assert {echo.vlan for echo in found[len(KINDS)]} == {"10"}
    assert sorted(found[VLAN_OF_BRIDGE]) == sorted(found[len(KINDS)])
    _check_files(tmp_path)
    _check_geneve(tmp_path)
    _check_streams({number: chosen(copies, number) for number in (1, 6)}, metrics)
    _check_doctor(tmp_path, told)


def _check_copies(kind: Kind, found: list[Echo]) -> None:
    request, reply = ("128", "129") if kind.name == "sit1" else ("8", "0")
    kinds = [request, reply] if sum(kind.pings) > PINGS else [request]
    expected = [(one, str(number)) for one in kinds for number in range(1, PINGS + 1)]
    assert sorted((echo.kind, echo.sequence) for echo in found) == sorted(expected), kind
    if kind.raw:
        assert {echo.addresses for echo in found} == {"00:00:00:00:00:00 00:00:00:00:00:00"}


def _check_geneve(directory: Path) -> None:
    """The kernel's geneve device skips the option that it does not know, and takes the frame; tshark shows both."""
    inner = fields(directory / "inner.pcap", "icmp.type", "icmp.seq")
    assert sorted(inner) == sorted([kind, str(n)] for kind in ("8", "0") for n in range(1, PINGS + 1))
    option = ("geneve.vni", "geneve.option.class", "geneve.option.type.critical", "icmp.type")
    told = [row for row in fields(directory / "copies.pcap", *option) if row[0] and row[3]]
    assert sorted(told) == sorted(["0x000007", "0xff6d", "0", kind] for kind in ("8", "0") for _ in range(PINGS))


def _check_files(directory: Path) -> None:
    seen, types = ways(directory), link_types(directory)
    for kind in KINDS:
        devices = ("br0", "access", "trunk") if kind.name == "br0" else (kind.name,)
        sent, received = (sum(seen[device, way] for device in devices) for way in ("sent", "received"))
        assert (sent, received) == kind.pings, kind
        files = [f"br0-{device}" for device in devices] if kind.name == "br0" else [kind.name]
        assert {types[file] for file in files} == {"rawip" if kind.raw else "ether"}, kind


def _check_streams(copies: dict[int, Recording], metrics: Metrics) -> None:
    """Super-frames were split: the streams are whole, no segment is longer than on a wire, each checksum is right."""
    for number, most in ((1, 1434), (6, 1514)):
        assert metrics.total("mirrord_segmented_frames_total", mirror="copies", session=str(number)) > 0
        frames = copies[number].frames("tcp[tcpflags] & tcp-rst == 0")
        assert max(map(len, frames)) == most
        assert len(set(frames)) == len(frames)  # one that is sent again has an IP ID of its own
        bad = "tcp.checksum.status == 0 || ip.checksum.status == 0"
        checks = ("-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE")
        assert copies[number].tshark(*checks, expression=bad) == ""
        assert _carried(copies[number]) >= STREAM


def _carried(copies: Recording) -> int:
    """Bytes that one of the peer's streams carried without a gap, whatever was lost on its way and sent again."""
    reach: dict[str, int] = {}
    rows = copies.fields("tcp.stream", "tcp.seq", "tcp.len", expression="tcp.srcport == 5201 && tcp.len > 0")
    for stream, begin, end in sorted((stream, int(seq), int(seq) + int(size)) for stream, seq, size in rows):
        if begin <= reach.get(stream, 1):  # tshark counts from 0, which is the SYN's
            reach[stream] = max(end, reach.get(stream, 1))
    return max(reach.values(), default=1) - 1


def _check_doctor(directory: Path, told: list[dict[str, Any]]) -> None:
    """What a tap does not see is told, and what it has nothing of is refused."""
    found = json.loads((directory / "doctor.json").read_text())["doctor"]
    codes = {(one["code"], one["source"]) for one in found if one["mirror"] in ("copies", "files", "twice")}
    blind = {("ipvlan_l3s", "child"), ("vrf", "vrf0"), ("bridge_files", "br0")}
    assert blind | {("seen_twice", "slave1"), ("seen_twice", "slave2")} <= codes
    reasons = {one["source"]: one["reason"] for one in told if one["mirror"] == "refused"}
    assert "a GRE device without a remote of its own" in reasons["gre2"]
    assert 'direction = "ingress" has none' in reasons["vrf0"]
    listed = json.loads((directory / "sources.json").read_text())["sources"]
    kinds = {one["device"]: (one["kind"], one["link"]) for one in listed}
    assert kinds["wg0"] == ("wireguard", "ip")
    assert kinds["ppp0"] == ("ppp", "ip")
    assert kinds["bond0"] == ("bond", "ethernet")
