"""Frames inside of tunnel packets that pass a NIC: the kernel's VXLAN, and what scapy writes of Geneve and GRE.

left eth0 (vxlan5, vxlan6) ---- a [middle] b ---- eth0 right (vxlan5, vxlan6)
                                   [middle] out ---- in [collector]
"""

from __future__ import annotations

import pytest
from scapy.contrib.geneve import GENEVE, GeneveOptions
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.ctl import ctl
from tests.support.packets import LINK
from tests.support.send import send
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

FILTERS = """
[filters.icmp]
rules = [{ priority = 1, action = "accept", protocol = "icmp" }]
[filters.tcp]
rules = [{ priority = 1, action = "accept", protocol = "tcp" }]
[filters.asked]
rules = [
  { priority = 1, action = "reject", protocol = "udp", destination_ports = "9" },
  { priority = 2, action = "accept", destination = ["10.7.0.2/32", "2001:db8::2/128"] },
]
"""


def session(name: str, inside: str, to: str, more: str = "") -> str:
    return f"""
[[mirrors.{name}.sessions]]
name = "s"
source = {{ type = "device", device = "a", inside = {inside} }}
destination = {{ type = "device", device = "{to}" }}
{more}
"""


@pytest.fixture
def middle(net: Topology) -> tuple[Host, Host, Host, Host]:
    """Left, middle, right and the collector; two overlays between left and right."""
    left, middle, right, collector = (net.host(label) for label in ("left", "middle", "right", "collector"))
    net.link(left, "eth0", middle, "a", ("10.0.0.1/24", ""))
    net.link(middle, "b", right, "eth0", ("", "10.0.0.2/24"))
    middle.add_bridge("br0", "a", "b")
    for n in (5, 6):
        for host, own, other in ((left, 1, 2), (right, 2, 1)):
            host.ip(
                f"link add vxlan{n} type vxlan id {n} dstport 4789 remote 10.0.0.{other} local 10.0.0.{own} dev eth0"
            )
            host.ip(f"address add 10.{n}.0.{own}/24 dev vxlan{n}")
            host.ip(f"link set dev vxlan{n} up")
    for number in range(3):
        net.link(middle, f"out{number}", collector, f"in{number}", mtu=9000)
    return left, middle, right, collector


def test_an_overlays_uplink_is_mirrored_by_what_is_inside(
    middle: tuple[Host, Host, Host, Host], sniff: MakeSniffer, daemon: MakeDaemon
) -> None:
    left, host, right, collector = middle
    mirrord = daemon(
        host,
        FILTERS
        + session("ping", '"vxlan", vni = 5, strip = true', "out0", 'filter = "icmp"\ncount_rules = true')
        + session("bulk", '"any", strip = true', "out1", 'filter = "tcp"')
        + session("whole", '"vxlan"', "out2", 'filter = "tcp"'),
    )
    overlay = sniff(left, "vxlan5", "icmp")
    copies, bulk, whole = (sniff(collector, f"in{n}", "" if n < 2 else "udp", snaplen=9000) for n in range(3))
    for n in (5, 6):
        left.run("ping", "-c", "3", "-i", "0.1", f"10.{n}.0.2")
    server = right.spawn("iperf3", "--server", "--one-off")
    wait_for(lambda: "5201" in right.run("ss", "-Hltn"), "iperf3 listens")
    left.run("iperf3", "--client", "10.5.0.2", "--bytes", "1M")
    assert server.wait(10) == 0
    assert mirrord.metrics().total("mirrord_rule_matched_frames_total", filter="icmp") == 6
    assert "a inside vxlan vni 5, stripped" in ctl(mirrord.socket, "status")
    mirrord.stop()

    assert sorted(copies.stop().frames("icmp")) == sorted(overlay.stop().frames())
    assert len(copies.frames("icmp")) == 6
    for one in (bulk.stop(), whole.stop()):
        assert not one.fields("frame.number", expression="tcp.analysis.lost_segment || tcp.analysis.ack_lost_segment")
        options = ("-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE", "-T", "fields")
        wrong = one.tshark(
            *options, "-e", "frame.number", expression="tcp.checksum.status == 0 || ip.checksum.status == 0"
        )
        assert not wrong
        data = one.fields("tcp.seq_raw", "tcp.len", expression="tcp.len > 0 && tcp.dstport == 5201")
        assert sum(int(length) for length in dict(data).values()) > 1_000_000
    assert max(map(len, bulk.frames("tcp"))) == 1450 + 14
    assert max(map(len, whole.frames())) == 1500 + 14
    assert {row[0] for row in whole.fields("vxlan.vni")} == {"5"}


def inner(n: int, source: str = "10.7.0.1", destination: str = "10.7.0.2", port: int = 53) -> Packet:
    return IP(src=source, dst=destination, id=n) / UDP(sport=1000 + n, dport=port) / Raw(bytes([n]) * (n + 1))


OUTER = IP(src="10.0.0.1", dst="10.0.0.2", id=1)
OUTER6 = IPv6(src="2001:db8:0::1", dst="2001:db8:0::9")
FRAME = Ether(src="02:00:00:00:00:0a", dst="02:00:00:00:00:0b")
MADE = Ether(src="00:00:00:00:00:00", dst="00:00:00:00:00:00")
OPTIONS = GeneveOptions(classid=0x0102, type=3, length=2, data=bytes(8))
PASSING: list[tuple[Packet, Packet | None]] = [  # a packet, and the frame inside that is asked for
    (LINK / OUTER / UDP(sport=50000, dport=6081) / GENEVE(vni=7) / FRAME / inner(1), FRAME / inner(1)),
    (
        LINK / OUTER / UDP(sport=50000, dport=6081) / GENEVE(vni=8, options=[OPTIONS]) / FRAME / inner(2),
        FRAME / inner(2),
    ),
    (
        LINK / OUTER6 / UDP(sport=50000, dport=6081) / GENEVE(vni=7) / FRAME / Dot1Q(vlan=9) / inner(3),
        FRAME / Dot1Q(vlan=9) / inner(3),
    ),
    (LINK / OUTER / UDP(sport=50000, dport=6081) / GENEVE(vni=7, proto=0x0800) / inner(4), MADE / inner(4)),
    (
        LINK / Dot1Q(vlan=4) / OUTER / UDP(sport=50000, dport=4789) / VXLAN(vni=1, flags=8) / FRAME / inner(5),
        FRAME / inner(5),
    ),
    (LINK / OUTER / GRE(proto=0x6558) / FRAME / inner(6), FRAME / inner(6)),
    (LINK / OUTER6 / GRE(proto=0x6558, key_present=1, key=99, seqnum_present=1) / FRAME / inner(7), FRAME / inner(7)),
    (LINK / OUTER / GRE(proto=0x0800, chksum_present=1) / inner(8), MADE / inner(8)),
    (
        LINK / OUTER / GRE(proto=0x86DD) / IPv6(dst="2001:db8::2") / UDP(dport=53) / Raw(b"9"),
        MADE / IPv6(dst="2001:db8::2") / UDP(dport=53) / Raw(b"9"),
    ),
    (
        LINK / OUTER / UDP(sport=50000, dport=6081) / GENEVE(vni=7) / FRAME / inner(10, port=9),
        None,
    ),  # a rule rejects it
    (LINK / OUTER / UDP(sport=50000, dport=6081) / GENEVE(vni=7) / FRAME / inner(11, destination="10.7.0.3"), None),
    (LINK / OUTER / UDP(sport=50000, dport=6081) / GENEVE(vni=7, oam=1) / FRAME / inner(12), None),  # between the ends
    (LINK / OUTER / UDP(sport=50000, dport=4789) / VXLAN(vni=1, flags=0) / FRAME / inner(13), None),  # no VNI: no VXLAN
    (LINK / OUTER / UDP(sport=50000, dport=8472) / VXLAN(vni=1, flags=8) / FRAME / inner(14), None),  # another port
    (LINK / OUTER / GRE(proto=0x88BE) / FRAME / inner(15), None),  # ERSPAN
    (FRAME / inner(16), None),  # in no tunnel
]


def test_what_is_inside_of_geneve_and_gre_is_found_behind_any_options(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon
) -> None:
    client, host, collector = net.host("client"), net.host("host"), net.host("collector")
    net.link(client, "eth0", host, "a", offloads=False)
    for n in range(3):
        net.link(host, f"out{n}", collector, f"in{n}", offloads=False)
    mirrord = daemon(
        host,
        FILTERS
        + session("all", '"any", strip = true', "out0", 'filter = "asked"\ncount_rules = true')
        + session("vni", '"geneve", vni = 7', "out1")
        + session("key", '"gre", key = 99, strip = true', "out2"),
    )
    copies, of_vni, of_key = (sniff(collector, f"in{n}") for n in range(3))
    first, later = fragment(
        OUTER / UDP(sport=50000, dport=6081) / GENEVE(vni=7) / FRAME / inner(100) / Raw(bytes(700)), 512
    )
    passing = [packet for packet, _ in PASSING] + [LINK / first, LINK / later]
    for packet in passing:
        send(client, "eth0", bytes(packet).ljust(60, b"\0"))  # as a wire would carry it
    expected = [bytes(frame) for _, frame in PASSING if frame is not None]
    copies.wait_lines(len(expected) + 1)
    of_vni.wait_lines(6)
    of_key.wait_lines(1)
    metrics = mirrord.metrics()
    assert metrics.total("mirrord_rule_matched_frames_total", filter="asked") == len(expected) + 1
    assert metrics.unaccounted() == 0
    assert metrics.total("mirrord_mirrored_frames_total", mirror="all") == len(expected) + 1

    *whole, part = copies.stop().frames()
    assert whole == expected
    assert part == bytes(FRAME / inner(100) / Raw(bytes(700)))[: 512 - 8 - 8]  # what the first fragment has
    sevens = [one for one in passing if GENEVE in one and one[GENEVE].vni == 7 and not one[GENEVE].oam]
    assert of_vni.stop().frames() == [*map(bytes, sevens), bytes(LINK / first)]
    assert of_key.stop().frames() == [expected[6]]
    assert of_vni.fields("geneve.vni", "geneve.flags.oam", expression="geneve") == [["0x000007", "0"]] * len(sevens)
