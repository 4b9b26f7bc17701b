"""Sources without Ethernet: their IP packets, in Ethernet frames where the destination carries such, else as they are.

peer tun0 ==== tun0 [host] uplink ---- eth0 [collector]
"""

from __future__ import annotations

import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet
from scapy.utils import RawPcapReader

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.api import Api
from tests.support.captures import about, count, fields
from tests.support.ctl import COMMAND, ctl
from tests.support.daemon import Daemon
from tests.support.topology import Host, Topology
from tests.support.tun import Tun, Tunnel
from tests.support.wait import wait_for
from tests.support.wire import collect, decapsulated, drain, send_file, stream_hash, wrong
from tests.support.wireguard import connect

CONTENT = random.Random(7).randbytes(1_500_000)
ADDRESSES = {4: ("10.8.0.1", "10.8.0.2"), 6: ("2001:db8:8::1", "2001:db8:8::2")}  # the host's, the peer's
NO_ADDRESSES = bytes(12)
VXLAN_TO_COLLECTOR = '{ type = "vxlan", remote = "10.99.0.2", vni = 7 }'


def session(name: str, destination: str = VXLAN_TO_COLLECTOR, more: str = "", source: str = '"tun0"') -> str:
    return f"""
[[mirrors.m.sessions]]
name = "{name}"
source = {source}
destination = {destination}
{more}
"""


def address(host: Host, peer: Host) -> None:
    for n, one in enumerate((host, peer)):
        one.ip(f"address add {ADDRESSES[4][n]}/24 dev tun0")
        one.ip(f"address add {ADDRESSES[6][n]}/64 dev tun0 nodad")


def packets(file: Path, expression: str = "") -> list[bytes]:
    """Those of a capture file that tcpdump selects."""
    chosen = file.with_suffix(".chosen.pcap")
    subprocess.run(["tcpdump", "-r", file, "-w", chosen, expression], check=True, capture_output=True)
    with RawPcapReader(str(chosen)) as reader:
        return [data for data, _ in reader]


@pytest.mark.parametrize("capture", ["ring", "socket"])
def test_all_that_a_tun_carries_is_mirrored_once(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon, tmp_path: Path, capture: str
) -> None:
    host, peer, collector = net.host("host", ipv6=True), net.host("peer", ipv6=True), net.host("collector")
    collect(net, host, collector)
    arrived = sniff(collector, "eth0", "udp port 4789")
    file = f'{{ type = "file", path = "{tmp_path}/seen.pcapng" }}'
    how = f'capture = "{capture}"'
    with Tunnel(host, peer, "tun0"):
        seen = tmp_path / "tun0.pcap"
        command = ("tcpdump", "-i", "tun0", "-U", "--immediate-mode", "-Z", "root", "-w", str(seen), "icmp or icmp6")
        truth = host.spawn(*command)
        wait_for(lambda: "listening on" in truth.output(), "tcpdump listens")
        assert "link-type RAW" in truth.output()
        mirrord = daemon(host, session("s", more=how) + session("f", file, how), capture_directories=[str(tmp_path)])
        address(host, peer)
        for family in (4, 6):
            host.run("ping", "-c", "3", "-i", "0.01", "-s", "1000", ADDRESSES[family][1])
        sent = send_file(host, peer, ADDRESSES[4][1], CONTENT, tmp_path)
        received = send_file(peer, host, ADDRESSES[6][0], CONTENT, tmp_path)
        wait_for(lambda: len(packets(seen, "icmp6[0] == 129")) == 3, "tcpdump has the last ping")
        carried = host.counter("tun0", "tx", "packets") + host.counter("tun0", "rx", "packets")
        metrics = drain(mirrord, 2 * carried)  # each session has captured them
    copies = decapsulated(arrived.stop())
    assert metrics.total("mirrord_segmented_frames_total", session="s") > 20
    assert metrics.total("mirrord_dropped_frames_total") == metrics.total("mirrord_skipped_frames_total") == 0
    assert wrong(copies) == ""
    frames = copies.frames()
    assert {frame[:14] for frame in frames} == {NO_ADDRESSES + b"\x08\0", NO_ADDRESSES + b"\x86\xdd"}
    assert max(map(len, frames)) == 1514
    assert stream_hash(copies) == sent
    assert stream_hash(copies, 1) == received
    echoes = "icmp or (icmp6 and (ip6[40] == 128 or ip6[40] == 129))"
    assert [frame[14:] for frame in copies.frames(echoes)] == packets(seen, echoes)
    assert len(packets(seen, echoes)) == 12
    written = tmp_path / "seen.pcapng"
    assert "File encapsulation:  Raw IP" in about(written)
    assert sorted(packets(written)) == sorted(frame[14:] for frame in frames)  # a veth may change their order
    outbound = {"0x00000001": False, "0x00000002": True}  # epb_flags, draft-ietf-opsawg-pcapng 4.3.1
    told = {
        (ipv4 or ipv6, outbound[flags])
        for flags, ipv4, ipv6 in fields(written, "frame.packet_flags", "ip.src", "ipv6.src")
        if "fe80" not in ipv6 and ipv6 != "::"
    }
    assert told == {(ends[n], n == 0) for ends in ADDRESSES.values() for n in (0, 1)}


def datagram(source: str, destination: str, port: int, length: int = 100) -> Packet:
    network = IPv6 if ":" in source else IP
    return network(src=source, dst=destination) / UDP(sport=1000, dport=port) / bytes(length)


FILTER = """
[filters.wanted]
rules = [
  { priority = 1, action = "reject", protocol = "udp", destination_ports = "6000" },
  { priority = 2, action = "accept", family = "ipv6", protocol = "udp", destination_ports = "5000-6000" },
  { priority = 3, action = "accept", source = "10.8.0.0/30", protocol = "udp", destination_ports = ["5000", "4789"] },
  { priority = 4, action = "accept", ethertype = 0x0800, direction = "egress", destination = "10.8.0.200" },
  { priority = 5, action = "accept", vlan = 5 },
]
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_rules_the_loop_guard_and_snaplen_are_as_elsewhere(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon, workers: int
) -> None:
    """The kernel runs the rules: what they do not want is not even captured."""
    host, collector = net.host("host", ipv6=True), net.host("collector")
    collect(net, host, collector)
    arrived = sniff(collector, "eth0", "udp port 4789")
    here, here6, there6 = ADDRESSES[4][0], ADDRESSES[6][0], "2001:db8:8::2"
    accepted = [
        datagram("10.8.0.2", here, 5000),
        datagram(there6, here6, 5999),
        datagram(there6, here6, 5000, 1000),
    ]
    unwanted = [
        datagram("10.8.0.9", here, 5000),
        datagram("10.8.0.2", here, 5001),
        datagram(there6, here6, 6000),
        IP(src="10.8.0.2", dst=here) / ICMP(),
        IP(src="10.8.0.9", dst="10.8.0.200", proto=47) / bytes(20),
    ]
    foreign = IP(src="10.8.0.2", dst="10.99.0.2") / UDP(sport=50000, dport=4789) / VXLAN(vni=7, flags=8) / bytes(64)
    with Tun(host, "tun0") as tun:
        host.ip(f"address add {here}/24 dev tun0")
        host.ip(f"address add {here6}/64 dev tun0 nodad")
        mirrord = daemon(host, FILTER + session("s", more=f'filter = "wanted"\nsnaplen = 60\nworkers = {workers}'))
        for packet in (*unwanted, *accepted, foreign, *unwanted):
            tun.send(bytes(packet))
        host.run("ping", "-c", "2", "-i", "0.01", "-W", "0.01", "10.8.0.200", check=False)
        captured = len(accepted) + 3  # with two echo requests and the copy of another host's mirror
        metrics = mirrord.settle(captured)
        mirrord.stop()
    assert metrics.total("mirrord_captured_frames_total") == captured
    assert metrics.total("mirrord_skipped_frames_total", reason="own_copy") == 1
    assert metrics.total("mirrord_truncated_frames_total") == captured - 1
    copies = [frame[50:] for frame in arrived.stop().frames()]
    assert {len(copy) for copy in copies} == {60}
    assert [copy for copy in copies if copy[14 + 9] == 1 and copy[14 + 19] == 200] == copies[-2:]  # both pings
    truth = [NO_ADDRESSES + (b"\x08\0" if IP in one else b"\x86\xdd") + bytes(one)[:46] for one in accepted]
    assert sorted(copies[:-2]) == sorted(truth)


def test_copies_that_leave_by_the_source_are_not_mirrored(net: Topology, daemon: MakeDaemon) -> None:
    host, peer = net.host("host"), net.host("peer")
    with Tunnel(host, peer, "tun0"), peer.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("", 4789))
        address4(host, peer)
        mirrord = daemon(host, session("s", destination='{ type = "vxlan", remote = "10.8.0.2", vni = 7 }'))
        host.run("ping", "-c", "20", "-i", "0.01", "10.8.0.2")
        metrics = mirrord.settle(40)
        sent = metrics.total("mirrord_sent_packets_total")
        assert (metrics.total("mirrord_captured_frames_total"), sent) == (40, 40)
        assert host.transmitted("tun0") == 60


PATTERN = """
[filters.replies]
rules = [{ priority = 1, action = "accept", protocol = "icmp", source = "10.8.0.2" }]

[[mirrors.m.sessions]]
name = "files"
source = { device = "t*0" }
destination = { type = "file", path = "CAPTURES/all.pcapng" }

[[mirrors.m.sessions]]
name = "tagged"
source = { device = "t*0", vlan = 5 }
destination = { type = "vxlan", remote = "10.8.0.2", vni = 7 }
"""


def test_each_of_a_patterns_devices_has_a_file_of_its_own_link_type(
    net: Topology, daemon: MakeDaemon, tmp_path: Path
) -> None:
    host, peer = net.host("host"), net.host("peer")
    net.link(host, "tap0", peer, "eth0", ("10.7.0.1/24", "10.7.0.2/24"))
    with Tunnel(host, peer, "tun0"):
        address4(host, peer)
        configuration = PATTERN.replace("CAPTURES", str(tmp_path))
        mirrord = daemon(host, configuration, capture_directories=[str(tmp_path)])
        told = Api(mirrord.socket)("GET", "status").body["sessions"]
        assert {(one["session"], one["source"], one.get("link")) for one in told} == {
            ("files", "tap0", None), ("files", "tun0", "ip"), ("tagged", "tap0", None),
        }  # fmt: skip
        (note,) = [one["warnings"] for one in told if one["session"] == "tagged"]
        assert "no packet of tun0, which has no Ethernet, has a VLAN tag: the pattern leaves it out" in note
        for device in ("10.7.0.2", "10.8.0.2"):
            host.run("ping", "-c", "3", "-i", "0.01", device)
        mirrord.settle(12)
        assert "m/files on tun0: IP packets, without Ethernet" in ctl(mirrord.socket, "doctor")
        assert "files on tun0: IP packets, without Ethernet" in ctl(mirrord.socket, "show", "m")
        (row,) = [line for line in ctl(mirrord.socket, "sources").splitlines() if line.startswith("tun0")]
        assert "tun (ip)" in row
        live = live_capture(mirrord, host, tmp_path)
        explained = ctl(mirrord.socket, "explain", "replies", "--pcap", str(live))
        assert explained.count("rule 1 accepts") == 3
        mirrord.stop()
    tap, tun = (tmp_path / f"all-{device}.pcapng" for device in ("tap0", "tun0"))
    assert "File encapsulation:  Ethernet" in about(tap)
    assert "File encapsulation:  Raw IP" in about(tun)
    assert "File encapsulation:  Raw IP" in about(live)
    assert [kind for (kind,) in fields(tap, "icmp.type") if kind] == ["8", "0"] * 3
    assert [kind for (kind,) in fields(tun, "icmp.type")][:6] == ["8", "0"] * 3


def live_capture(mirrord: Daemon, host: Host, directory: Path) -> Path:
    """What `mirrorctl capture` writes of six packets; and what Wireshark is told of the session beforehand."""
    file = directory / "live.pcapng"
    extcap = [sys.executable, "-m", "mirrord.cli.extcap", "--socket", str(mirrord.socket), "--extcap-dlts"]
    dlts = subprocess.run(
        [*extcap, "--extcap-interface", "mirrord:m/files@tun0"], capture_output=True, text=True, check=True
    )
    assert dlts.stdout == "dlt {number=101}{name=RAW}{display=IP packets}\n"
    asked = ("capture", "m/files", "--source", "tun0", "-w", str(file))
    running = host.spawn(*COMMAND, "--socket", str(mirrord.socket), *asked)
    wait_for(lambda: file.exists() and file.stat().st_size > 0, "it captures", 30)
    host.run("ping", "-c", "3", "-i", "0.01", "10.8.0.2")
    wait_for(lambda: count(file) == 6, "six packets")
    running.close()
    return file


def address4(host: Host, peer: Host) -> None:
    for n, one in enumerate((host, peer)):
        one.ip(f"address add {ADDRESSES[4][n]}/24 dev tun0")


@pytest.fixture
def wireguard(net: Topology) -> tuple[Host, Host]:
    """Two hosts whose tun0 is WireGuard's, between them."""
    hosts = net.host("host"), net.host("peer")
    net.link(hosts[0], "eth0", hosts[1], "eth0", ("10.1.0.1/24", "10.1.0.2/24"))
    connect(hosts, ("10.1.0.1", "10.1.0.2"), "tun0", (f"{ADDRESSES[4][0]}/24", f"{ADDRESSES[4][1]}/24"))
    return hosts


@pytest.mark.parametrize("dataplane", ["native"])
def test_what_wireguard_carries_is_mirrored_in_the_clear(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon, wireguard: tuple[Host, Host], tmp_path: Path
) -> None:
    host, peer = wireguard
    collector = net.host("collector")
    collect(net, host, collector)
    arrived = sniff(collector, "eth0", "udp port 4789")
    mirrord = daemon(host, session("s"))
    host.run("ping", "-c", "5", "-i", "0.01", ADDRESSES[4][1])
    sent = send_file(host, peer, ADDRESSES[4][1], CONTENT, tmp_path)
    metrics = drain(mirrord, host.counter("tun0", "tx", "packets") + host.counter("tun0", "rx", "packets"))
    copies = decapsulated(arrived.stop())
    assert metrics.total("mirrord_dropped_frames_total") == 0
    bad = "tcp.checksum.status == 0 || ip.checksum.status == 0 || tcp.analysis.lost_segment"
    checks = ("-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE")
    assert copies.tshark(*checks, expression=bad) == ""  # what is lost on its way over the link is sent again
    assert stream_hash(copies) == sent
    assert [kind for (kind,) in copies.fields("icmp.type", expression="icmp")] == ["8", "0"] * 5
