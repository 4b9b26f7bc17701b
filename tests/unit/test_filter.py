"""What rules, guards and selections mean: section 2 of the design on scapy's frames, and tcpdump's verdict."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, GRE, Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet
from scapy.utils import RawPcapReader, wrpcap

from mirrord.dataplane.filter.bpf import compile_selection
from mirrord.dataplane.filter.rules import Direction, Rule, Selection, decide
from mirrord.dataplane.frame.headers import Tag, parse
from tests.support.interpreter import interpret

ETHER = Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01")  # both given: scapy would ask the network for one
HUAWEI = Rule(
    1,
    accept=True,
    direction=Direction.INGRESS,
    protocol=6,
    sources=(ip_network("192.168.0.161/32"),),
    destinations=(ip_network("192.168.0.230/32"),),
    destination_ports=((1234, 1234),),
)
REQUEST = ETHER / IP(src="192.168.0.161", dst="192.168.0.230") / TCP(sport=5000, dport=1234) / b"12345"
LATER_FRAGMENT = ETHER / IP(src="10.0.0.1", dst="10.0.0.2", proto=17, frag=185) / (b"\x12\x34" * 20)


def reason(
    selection: Selection, packet: Packet | bytes, tag: Tag | None = None, *, egress: bool = False, mark: int = 0
) -> str:
    """Why the selection takes or leaves the frame: `+` or `-`, the reason, and the rule's priority if one decided.

    The compiled program must take and leave the same.
    """
    decision = decide(selection, parse(bytes(packet), tag), egress=egress, mark=mark)
    program = compile_selection(selection)
    assert bool(interpret(program, bytes(packet), tag, egress=egress, mark=mark)) == decision.accept
    priority = f" {decision.rule.priority}" if decision.rule else ""
    return f"{'+' if decision.accept else '-'}{decision.reason}{priority}"


def test_the_huawei_rule_takes_the_request_and_nothing_else() -> None:
    selection = Selection(rules=(HUAWEI,))
    assert reason(selection, REQUEST) == "+rule 1"
    assert reason(selection, REQUEST, egress=True) == "-unmatched"
    reply = ETHER / IP(src="192.168.0.230", dst="192.168.0.161") / TCP(sport=1234, dport=5000)
    assert reason(selection, reply) == "-unmatched"
    for other in (TCP(sport=5000, dport=1235), UDP(sport=5000, dport=1234), ICMP()):
        assert reason(selection, ETHER / IP(src="192.168.0.161", dst="192.168.0.230") / other) == "-unmatched"


def test_lowest_priority_first_whatever_the_order_given() -> None:
    every, no_tcp = Rule(20, accept=True), Rule(10, accept=False, protocol=6)
    for rules in ((every, no_tcp), (no_tcp, every)):
        assert reason(Selection(rules=rules), REQUEST) == "-rule 10"
        assert reason(Selection(rules=rules), ETHER / ARP()) == "+rule 20"
    assert reason(Selection(rules=(replace(every, priority=5), no_tcp)), REQUEST) == "+rule 5"


def test_no_filter_takes_all_and_no_match_takes_nothing() -> None:
    assert reason(Selection(), ETHER / ARP()) == "+no filter"
    assert reason(Selection(rules=()), ETHER / ARP()) == "-unmatched"


def test_what_one_selection_accepts_is_not_another_ones() -> None:
    syn, ping = ETHER / IP(src="10.0.0.1", dst="10.0.0.2") / TCP(dport=22), ETHER / IP(dst="10.0.0.2") / ICMP()
    no_ssh = Rule(1, accept=False, protocol=6, destination_ports=((22, 22),))
    first = Selection(rules=(no_ssh, Rule(2, accept=True, protocol=6)), direction=Direction.INGRESS)
    second = Selection(rules=(Rule(1, accept=True, protocol=6),), before=(first,))
    third = Selection(before=(first, replace(second, before=())))
    everything = [REQUEST, syn, ping]  # a rejection passes the frame on to the next
    assert [reason(first, packet) for packet in everything] == ["+rule 2", "-rule 1", "-unmatched"]
    assert [reason(second, packet) for packet in everything] == ["-before 1", "+rule 1", "-unmatched"]
    assert [reason(third, packet) for packet in everything] == ["-before", "-before", "+no filter"]
    assert reason(second, REQUEST, egress=True) == "+rule 1"  # the first looks at ingress only


@pytest.mark.parametrize("rule", [Rule(1, accept=True, destination_ports=((0, 65535),)), HUAWEI])
def test_ports_never_match_a_later_fragment(rule: Rule) -> None:
    rule = replace(rule, protocol=None, sources=(), destinations=(), source_ports=((0, 65535),))
    first, *later = fragment(ETHER / IP() / TCP(dport=1234) / bytes(3000), fragsize=1400)
    assert reason(Selection(rules=(rule,)), first) == "+rule 1"
    assert later
    last = ETHER / IP(proto=6, frag=0x1000) / bytes(40)
    for piece in (*later, last):
        assert reason(Selection(rules=(rule,)), piece) == "-unmatched"
        assert reason(Selection(rules=(Rule(1, accept=True, protocol=6),)), piece) == "+rule 1"
    for offset in (1, 185, 0x1000):
        piece = ETHER / IPv6() / IPv6ExtHdrFragment(offset=offset, nh=6) / bytes(40)
        assert reason(Selection(rules=(rule,)), piece) == "-unmatched"
        assert reason(Selection(rules=(Rule(1, accept=True, protocol=6),)), piece) == "+rule 1"


def test_six_extension_headers_are_looked_through_and_a_seventh_hides_all() -> None:
    rule = Rule(1, accept=True, protocol=17, destination_ports=((53, 53),))
    packet = IPv6() / IPv6ExtHdrHopByHop()
    for _ in range(5):
        packet /= IPv6ExtHdrDestOpt()
    assert reason(Selection(rules=(rule,)), ETHER / packet / UDP(dport=53)) == "+rule 1"
    hidden = ETHER / packet / IPv6ExtHdrDestOpt() / UDP(dport=53)
    assert reason(Selection(rules=(rule,)), hidden) == "-unmatched"
    assert reason(Selection(rules=(Rule(1, accept=True, family=6),)), hidden) == "+rule 1"


def test_non_ip_frames_match_only_rules_without_an_ip_field() -> None:
    arp = ETHER / ARP()
    everywhere = (ip_network("0.0.0.0/0"), ip_network("::/0"))
    for field in ({"family": 4}, {"protocol": 0}, {"sources": everywhere}, {"destinations": everywhere}):
        assert reason(Selection(rules=(Rule(1, accept=True, **field),)), arp) == "-unmatched"
    assert reason(Selection(rules=(Rule(1, accept=True, ethertype=0x0806),)), arp) == "+rule 1"


def test_vlan_is_the_outermost_tag_of_metadata_or_frame() -> None:
    selection = Selection(rules=(Rule(1, accept=True, vlan=5, ethertype=0x0800),), vlans=frozenset({5, 6}))
    inner = Dot1Q(vlan=6) / IP()
    assert reason(selection, ETHER / Dot1AD(vlan=5) / inner) == "+rule 1"
    assert reason(selection, ETHER / inner, Tag(0x88A8, 0xE005)) == "+rule 1"
    assert reason(selection, ETHER / inner) == "-unmatched"
    assert reason(selection, ETHER / Dot1Q(vlan=7) / inner) == "-vlan"
    assert reason(selection, ETHER / IP()) == "-vlan"


def test_mark_then_direction_come_before_everything() -> None:
    selection = Selection(direction=Direction.EGRESS, mark=0x10000000, mark_mask=0x10000000)
    assert reason(selection, REQUEST, egress=True, mark=0x10000001) == "-marked"
    assert reason(selection, REQUEST, egress=True, mark=0x20000000) == "+no filter"
    assert reason(selection, REQUEST) == "-direction"
    assert reason(replace(selection, mark_mask=0), REQUEST, egress=True, mark=0x10000000) == "+no filter"


# tcpdump looks through no IPv6 extension header and takes a port from no fragment but the first: so do these frames.
NETWORKS = [
    IP(src="10.0.0.1", dst="10.0.1.2"),
    IP(src="10.0.1.2", dst="10.0.0.1", options=[b"\x01\x01\x01\x01"]),
    IP(src="192.168.0.161", dst="10.0.0.1", flags="MF"),
    IPv6(src="2001:db8::1", dst="2001:db8:0:1::2"),
    IPv6(src="2001:db8:0:1::2", dst="2001:db8::1"),
]
TRANSPORTS = [TCP(sport=1234, dport=80), TCP(sport=80, dport=1234), UDP(sport=53, dport=4789), SCTP(sport=9, dport=80)]
TAGS = [ETHER, ETHER / Dot1Q(vlan=5), ETHER / Dot1AD(vlan=111) / Dot1Q(vlan=5), ETHER / Dot1Q(vlan=0)]
PACKETS = [tag / network / transport for tag in TAGS for network in NETWORKS for transport in TRANSPORTS]
PACKETS += [tag / rest for tag in TAGS for rest in (ARP(), IP() / ICMP(), IP() / GRE())]
PACKETS += [tag / LATER_FRAGMENT.payload for tag in TAGS]
FRAMES = [bytes(packet) for packet in PACKETS]


def rule(**fields: object) -> Rule:
    return Rule(1, accept=True, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "expression"),
    [
        (rule(family=4), "ip"),
        (rule(family=6), "ip6"),
        (rule(protocol=6), "ip proto 6 or ip6 proto 6"),
        (rule(protocol=47), "ip proto 47"),
        (rule(ethertype=0x0806), "arp"),
        (rule(sources=(ip_network("10.0.0.0/23"),)), "ip src net 10.0.0.0/23"),
        (rule(sources=(ip_network("10.0.0.0/24"),)), "ip src net 10.0.0.0/24"),
        (rule(destinations=(ip_network("10.0.0.1/32"),), protocol=17), "ip dst host 10.0.0.1 and udp"),
        (rule(sources=(ip_network("2001:db8::/64"),)), "ip6 src net 2001:db8::/64"),
        (rule(destinations=(ip_network("2001:db8::/47"),)), "ip6 dst net 2001:db8::/47"),
        (
            rule(sources=(ip_network("10.0.1.2/32"), ip_network("2001:db8:0:1::/64"))),
            "ip src host 10.0.1.2 or ip6 src net 2001:db8:0:1::/64",
        ),
        (rule(destination_ports=((80, 80),)), "dst port 80"),
        (
            rule(protocol=6, source_ports=((50, 80), (1200, 1234))),
            "tcp src portrange 50-80 or tcp src portrange 1200-1234",
        ),
        (rule(family=6, destination_ports=((0, 65535),)), "ip6 and dst portrange 0-65535"),
        (rule(destination_ports=((81, 4789),)), "dst portrange 81-4789"),
    ],
)
def test_tcpdump_says_the_same(tmp_path: Path, asked: Rule, expression: str) -> None:
    tagged = f"({expression}) or (vlan and (({expression}) or (vlan and ({expression}))))"
    assert_same(tmp_path, asked, tagged)
    for vid in (0, 5, 111):
        outermost = f"vlan {vid} and (({expression}) or (vlan and ({expression})))"
        assert_same(tmp_path, replace(asked, vlan=vid), outermost)


def assert_same(directory: Path, asked: Rule, expression: str) -> None:
    """Our verdict on each packet, matcher's and compiled, is tcpdump's."""
    wrpcap(str(directory / "all.pcap"), FRAMES, linktype=1)
    command = ["tcpdump", "-r", str(directory / "all.pcap"), "-w", str(directory / "some.pcap"), expression]
    subprocess.run(command, check=True, capture_output=True)
    with RawPcapReader(str(directory / "some.pcap")) as kept:
        expected = [data for data, _ in kept]
    selection = Selection(rules=(asked,))
    program = compile_selection(selection)
    assert [data for data in FRAMES if reason(selection, data) == "+rule 1"] == expected
    assert [data for data in FRAMES if interpret(program, data)] == expected
