"""What a rule asks beside addresses and ports: MAC addresses, DSCP, TCP flags, ICMP, lengths; tcpdump's verdict."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.utils import RawPcapReader, wrpcap

from mirrord.dataplane.filter.bpf import compile_selection
from mirrord.dataplane.filter.rules import Rule, Selection, accepts
from mirrord.dataplane.frame.headers import Tag, parse
from tests.support.interpreter import interpret
from tests.support.programs import steps

A, B, NEARLY, ALL = "02:00:00:00:00:01", "02:00:00:00:00:02", "ff:ff:ff:ff:00:01", "ff:ff:ff:ff:ff:ff"
SEGMENTS = [TCP(flags=flags) / bytes(n) for n, flags in enumerate(["S", "SA", "A", "FA", "PA", "R", "SEC", 0, 0xFF])]
ERRORS = [ICMP(type=8), ICMP(type=0), ICMP(type=3, code=1), ICMP(type=3, code=4) / bytes(80)]
ERRORS_6 = [ICMPv6EchoRequest(), ICMPv6EchoReply(data=b"8"), ICMPv6DestUnreach(code=4) / bytes(50)]
CLASSES = [IP(tos=0xB8), IP(tos=0xBB, options=[b"\x01\x01\x01\x01"]), IP(tos=1, flags="MF")]
CLASSES_6 = [IPv6(tc=0xB8, fl=0xFFFFF), IPv6(tc=0xBA), IPv6(fl=0xFFFFF)]
# A fragment's bytes might be a header of flags and types: nothing behind the IP header may be read of them.
LATER = [
    piece for whole in (TCP(flags="S") / bytes(64), ICMP() / bytes(64)) for piece in fragment(IP() / whole, 16)[1:]
]
PACKETS = [
    *(one / rest for one, rest in product(CLASSES, [*SEGMENTS, *ERRORS, UDP()])),
    *(one / rest for one, rest in product(CLASSES_6, [*SEGMENTS, *ERRORS_6, UDP()])),
    *LATER,
    ARP(),
]
ENDS = [Ether(dst=ALL, src=A), Ether(dst=B, src=NEARLY), Ether(dst=A, src=B) / Dot1Q(vlan=5, prio=7)]
ENDS += [Ether(dst=NEARLY, src=ALL) / Dot1AD(vlan=111) / Dot1Q(vlan=5)]
FRAMES = [bytes(ends / packet) for ends in ENDS for packet in PACKETS]


def rule(**fields: object) -> Rule:
    return Rule(1, accept=True, **fields)  # type: ignore[arg-type]


def mac(*texts: str) -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(text.replace(":", "")) for text in texts)


def flags(*tests: tuple[int, int]) -> Rule:
    return rule(protocol=6, tcp_flags=tests)


def of_tcp(test: str) -> str:
    """The test of a TCP header's flags, which tcpdump has a name for in IPv4 alone."""
    return f"(tcp and ip[6:2] & 0x1fff = 0 and tcp[tcpflags] & {test}) or (ip6 proto 6 and ip6[53] & {test})"


@pytest.mark.parametrize(
    ("asked", "expression"),
    [
        (rule(source_macs=mac(A)), f"ether src {A}"),
        (rule(source_macs=mac(NEARLY, B)), f"ether src {NEARLY} or ether src {B}"),
        (rule(destination_macs=mac(ALL)), "ether broadcast"),
        (rule(destination_macs=mac(A, B), protocol=17), f"(ether dst {A} or ether dst {B}) and udp"),
        (rule(lengths=((0, 54),)), "less 54"),
        (rule(lengths=((60, 1 << 31),)), "greater 60"),
        (rule(lengths=((42, 42), (55, 70)), protocol=6), "(len = 42 or (len >= 55 and len <= 70)) and tcp"),
        (rule(dscps=(46,)), "ip[1] & 0xfc = 46 << 2 or ip6[0:2] & 0x0fc0 = 46 << 6"),
        (rule(dscps=(0,), family=4), "ip[1] & 0xfc = 0"),
        (rule(dscps=(0, 46), family=6), "ip6[0:2] & 0x0fc0 = 0 or ip6[0:2] & 0x0fc0 = 46 << 6"),
        (flags((2, 2)), of_tcp("tcp-syn != 0")),
        (flags((0x12, 2)), of_tcp("(tcp-syn|tcp-ack) = tcp-syn")),
        (flags((0x12, 2), (1, 1)), f"{of_tcp('(tcp-syn|tcp-ack) = tcp-syn')} or {of_tcp('tcp-fin != 0')}"),
        (flags((0xFF, 0)), of_tcp("0xff = 0")),
        (flags((0xC0, 0xC0)), of_tcp("(tcp-ece|tcp-cwr) = 0xc0")),
        (rule(protocol=1, icmp_types=(8,)), "icmp[icmptype] = icmp-echo"),
        (rule(protocol=1, icmp_types=(0, 3)), "icmp[0] = 0 or icmp[0] = 3"),
        (rule(protocol=1, icmp_types=(3,), icmp_codes=(4,)), "icmp[0] = 3 and icmp[1] = 4"),
        (rule(protocol=58, icmp_types=(129,)), "icmp6 and ip6[40] = 129"),
        (rule(protocol=58, icmp_codes=(4,)), "icmp6 and ip6[41] = 4"),
    ],
)
def test_tcpdump_says_the_same(tmp_path: Path, asked: Rule, expression: str) -> None:
    wrpcap(str(tmp_path / "all.pcap"), FRAMES, linktype=1)
    tagged = f"({expression}) or (vlan and (({expression}) or (vlan and ({expression}))))"
    command = ["tcpdump", "-r", str(tmp_path / "all.pcap"), "-w", str(tmp_path / "some.pcap"), tagged]
    subprocess.run(command, check=True, capture_output=True)
    with RawPcapReader(str(tmp_path / "some.pcap")) as kept:
        expected = [data for data, _ in kept]
    assert expected
    selection = Selection(rules=(asked,))
    program = compile_selection(selection)
    assert [data for data in FRAMES if accepts(selection, parse(data), egress=False)] == expected
    assert [data for data in FRAMES if interpret(program, data)] == expected


def test_a_tag_that_the_kernel_took_off_counts() -> None:
    """Bytes are what the wire carried: four more, and the MAC addresses where they were."""
    untagged, tag = bytes(Ether(dst=A, src=B) / IP() / UDP() / bytes(22)), Tag(0x8100, 5)
    assert len(untagged) == 64
    for length, metadata in ((64, None), (68, tag)):
        for low, high in (
            (length, length),
            (length - 9, length),
            (length, length + 9),
            (length + 1, 99),
            (0, length - 1),
        ):
            selection = Selection(rules=(rule(lengths=((low, high),), source_macs=mac(B)),))
            within = low <= length <= high
            assert accepts(selection, parse(untagged, metadata), egress=False) == within
            assert bool(interpret(compile_selection(selection), untagged, metadata)) == within


def test_extension_headers_are_looked_through_and_later_fragments_have_no_flags() -> None:
    """For tcpdump, which looks through no extension header, RFC 8200 says what is behind them."""
    syn, echo = flags((0x12, 2)), rule(protocol=58, icmp_types=(128,), icmp_codes=(0,))
    chain = IPv6() / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt()
    for asked, rest in ((syn, TCP(flags="S")), (echo, ICMPv6EchoRequest())):
        for packet, matches in (
            (chain / rest, True),
            (chain / IPv6ExtHdrFragment(m=1) / rest, True),
            (chain / IPv6ExtHdrFragment(offset=1) / rest, False),
        ):
            data = bytes(Ether(dst=A, src=B) / packet)
            assert accepts(Selection(rules=(asked,)), parse(data), egress=False) == matches
            assert bool(interpret(compile_selection(Selection(rules=(asked,))), data)) == matches


def test_a_frame_that_is_too_short_has_none_of_it() -> None:
    """And a rule that comes later has its turn with it."""
    tcp, icmp = (bytes(Ether(dst=ALL, src=ALL) / IP(tos=0xB8) / rest) for rest in (TCP(flags=0xFF), ICMP(code=4)))
    accept = Rule(2, accept=True)
    for data, asked, least in (
        (tcp, rule(source_macs=mac(ALL)), 14),
        (tcp, rule(dscps=(46,)), 34),
        (tcp, flags((1, 1)), 48),
        (icmp, rule(icmp_types=(8,)), 35),
        (icmp, rule(icmp_codes=(4,)), 36),
    ):
        selection = Selection(rules=(replace(asked, accept=False), accept))
        program = compile_selection(selection)
        for length in range(len(data) + 1):
            assert accepts(selection, parse(data[:length]), egress=False) == (length < least)
            assert bool(interpret(program, data[:length])) == (length < least)


@pytest.mark.parametrize("field", ["source_macs", "destination_macs"])
def test_hundreds_of_mac_addresses_take_few_steps(field: str) -> None:
    def address(n: int) -> bytes:
        return bytes([2, 0, 0, 0, n >> 8, n & 255])

    def step_count(rules: int) -> int:
        each = (replace(rule(**{field: (address(n),)}), priority=n + 1, accept=n % 3 != 0) for n in range(rules))
        data = address(rules - 1) * 2 + bytes(50)
        program = compile_selection(Selection(rules=tuple(each)), numbered=True)
        assert interpret(program, data) == (0 if (rules - 1) % 3 == 0 else rules)
        return steps(program, data)

    assert step_count(900) <= 2 * step_count(12)
