"""Headers without options have a way of their own in a filter's program: cut anywhere, and with lying lengths."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Dot1Q, Ether

from mirrord.dataplane.filter import assembler as op
from mirrord.dataplane.filter.bpf import compile_selection
from mirrord.dataplane.filter.rules import Rule, Selection, accepts
from mirrord.dataplane.filter.several import attach
from mirrord.dataplane.frame.headers import parse
from tests.support.interpreter import interpret
from tests.support.programs import Pair, ran

LINK = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
IPV4, IPV6 = IP(src="10.0.0.1", tos=0xB8), IPv6(src="2001:db8::1", tc=0xB8)
SEGMENT, DATAGRAM = TCP(sport=1234, dport=80, flags="SA"), UDP(sport=1234, dport=4789)
USUAL = [bytes(LINK / IPV4 / upper) for upper in (SEGMENT, DATAGRAM, ICMP(type=3, code=4))]
USUAL += [bytes(LINK / IPV6 / upper) for upper in (SEGMENT, DATAGRAM, ICMPv6EchoRequest())]
OTHERS = [
    bytes(LINK / one)
    for one in (
        IP(options=[b"\x01" * 8]) / SEGMENT,
        IP(frag=3, proto=17) / DATAGRAM,
        IP(flags="MF") / DATAGRAM,
        IPV6 / IPv6ExtHdrHopByHop() / SEGMENT,
        IPV6 / IPv6ExtHdrFragment(offset=1) / DATAGRAM,
        Dot1Q(vlan=5) / IPV4 / SEGMENT,
        Dot1Q(vlan=5) / IPV6 / DATAGRAM,
    )
]
FIRST = [0x44, 0x75, 0x46, 0x4F, 0x05, 0x55, 0x65, 0x60, 0x40]
"""What may stand where a header says its version, and IPv4's its length."""


ASKED: list[dict[str, object]] = [
    {"family": 4},
    {"family": 6},
    {"protocol": 6},
    {"protocol": 17},
    {"sources": (ip_network("10.0.0.0/24"), ip_network("2001:db8::/64"))},
    {"destinations": (ip_network("127.0.0.1/32"), ip_network("::1/128"))},
    {"source_ports": ((1234, 1234),)},
    {"destination_ports": ((4789, 4789),)},
    {"dscps": (46,)},
    {"tcp_flags": ((0xFF, 0x12),)},
    {"icmp_types": (3, 128)},
    {"icmp_codes": (4, 0)},
    {"protocol": 6, "dscps": (46,), "destination_ports": ((80, 80),), "tcp_flags": ((0x12, 0x12),)},
]


@pytest.mark.parametrize("fields", ASKED, ids="-".join)
def test_wherever_the_frame_ends(pair: Pair, fields: dict[str, object]) -> None:
    selection = Selection(rules=(Rule(1, accept=True, **fields),))  # type: ignore[arg-type]
    program = compile_selection(selection)
    assert attach(pair.far, selection)
    accepted = 0
    for whole in (*USUAL, *OTHERS):
        cut = [whole[:length] for length in range(len(whole))]
        lying = [whole[:14] + bytes([first]) + whole[15:] for first in FIRST]
        for data in (whole, *cut, *lying):
            expected = accepts(selection, parse(data), egress=False)
            accepted += expected
            assert bool(interpret(program, data)) == expected, data.hex()
            assert pair.passes(data) == expected, data.hex()
    assert accepted


@pytest.mark.parametrize("data", USUAL, ids=lambda data: data[14:24].hex())
def test_no_load_from_an_offset_in_x(data: bytes) -> None:
    """The kernel makes a call of such a load, and a dozen of them take longer than all the rest of a program."""
    rules = tuple(Rule(n, accept=True, **fields) for n, fields in enumerate(ASKED))  # type: ignore[arg-type]
    program = compile_selection(Selection(rules=rules))
    assert not {one.code for one in ran(program, data)} & {op.LD_B_IND, op.LD_H_IND, op.LD_W_IND}
