"""Conversations: which frames sampling keeps or leaves out together, and what fragments of TCP have to go by.

Seen as an operator sees it: a conversation is in with all its frames or with none, whatever the rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import ARP, GRE, Dot1Q
from scapy.layers.sctp import SCTP
from scapy.packet import Packet

from mirrord.dataplane.counters import Slot
from mirrord.dataplane.forward import encap
from mirrord.dataplane.frame.wire import Frame
from mirrord.plans import ForwardPlan
from tests.support.packets import LINK
from tests.support.planes import Step, step

RATE = 3
KNOWN = 1024  # first fragments that are remembered: docs/watching.md


def sampled(plane: str) -> Step:
    return step(ForwardPlan(encap.bare(), sampling_rate=RATE), plane)


def kept(forward: Step, packet: Packet | bytes) -> bool:
    data = bytes(packet)
    result = forward(Frame(data, len(data)))
    assert result.reason in (None, Slot.skipped_sampled_out)
    return result.reason is None


def pieces(packet: Packet, size: int = 600) -> list[Packet]:
    """The packet's fragments."""
    if IPv6 in packet:
        return list(fragment6(packet, size))
    return list(fragment(packet, size))


def udp(there: Packet, back: Packet, n: int) -> Iterator[Packet]:
    """DNS and whatever else these hosts say by UDP: small, large, from any port."""
    yield there / UDP(sport=1000 + n, dport=53) / bytes(30)
    yield back / UDP(sport=53, dport=1000 + n) / bytes(30)
    yield there / UDP(sport=2000 + n, dport=9) / bytes(30)


def conversation4(n: int) -> list[Packet]:
    there, back = IP(src=f"10.0.{n}.1", dst="10.1.0.1", id=n), IP(src="10.1.0.1", dst=f"10.0.{n}.1", id=n)
    large = back / UDP(sport=53, dport=1000) / bytes(1500)
    return [*udp(there, back, n), *pieces(large), *pieces(there / UDP(dport=5) / bytes(2000))]


def conversation6(n: int) -> list[Packet]:
    there, back = IPv6(src=f"2001:db8::{n:x}", dst="2001:db8:1::1"), IPv6(src="2001:db8:1::1", dst=f"2001:db8::{n:x}")
    large = back / IPv6ExtHdrFragment(id=n) / UDP(sport=53, dport=1000) / bytes(2000)
    behind_options = there / IPv6ExtHdrFragment(id=n) / IPv6ExtHdrDestOpt() / UDP(dport=5) / bytes(3000)
    return [*udp(there, back, n), *pieces(large, 1280), *pieces(behind_options, 1280)]


def connection4(n: int) -> list[Packet]:
    there, back = IP(src="10.0.0.1", dst="10.1.0.1", id=n), IP(src="10.1.0.1", dst="10.0.0.1", id=n)
    request, reply = TCP(sport=1000 + n, dport=80), TCP(sport=80, dport=1000 + n)
    return [there / request, back / reply, *pieces(there / request / bytes(1500)), *pieces(back / reply / bytes(1400))]


def connection6(n: int) -> list[Packet]:
    there, back = IPv6(src="2001:db8::1", dst="2001:db8::2"), IPv6(src="2001:db8::2", dst="2001:db8::1")
    request, reply = TCP(sport=1000 + n, dport=80), TCP(sport=80, dport=1000 + n)
    large = pieces(there / IPv6ExtHdrFragment(id=n) / request / bytes(3000), 1280)
    options = pieces(back / IPv6ExtHdrFragment(id=n) / IPv6ExtHdrDestOpt() / reply / bytes(3000), 1280)
    return [there / request, back / reply, *large, *options]


def others(n: int) -> list[Packet]:
    """By address pair and protocol: SCTP by no ports, ICMP, a tunnel; a tag makes no difference."""
    ends = IP(src=f"10.2.{n}.1", dst="10.3.0.1")
    back = IP(src="10.3.0.1", dst=f"10.2.{n}.1")
    kinds = [
        [ends / SCTP(sport=1, dport=2), back / SCTP(sport=2, dport=7), Dot1Q(vlan=5) / ends / SCTP(sport=9, dport=9)],
        [ends / ICMP(), back / ICMP(type=0), *pieces(ends / ICMP() / bytes(2000))],
        [ends / GRE() / IP() / UDP(), back / GRE() / IP() / TCP(), *pieces(ends / GRE() / IP() / bytes(2000))],
    ]
    return kinds[n % 3]


KINDS: dict[str, Callable[[int], Sequence[Packet]]] = {
    "UDP over IPv4": conversation4,
    "UDP over IPv6": conversation6,
    "TCP over IPv4": connection4,
    "TCP over IPv6": connection6,
    "others": others,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_is_sampled_whole(kind: str, dataplane: str) -> None:
    forward = sampled(dataplane)
    whole = [{kept(forward, LINK / packet) for packet in KINDS[kind](n)} for n in range(40)]
    assert all(len(fates) == 1 for fates in whole)
    assert 2 <= sum(True in fates for fates in whole) <= 26  # a third of 40, and four standard deviations


def test_arp_by_mac_addresses(dataplane: str) -> None:
    forward = sampled(dataplane)
    fates = {kept(forward, LINK / ARP(psrc=f"10.0.0.{n}")) for n in range(30)}
    assert len(fates) == 1


ONE = pieces(LINK / IP(src="10.0.0.1", dst="10.1.0.1") / TCP(dport=80) / bytes(1000))


def first_and_last(n: int) -> tuple[bytes, bytes]:
    """Of a datagram of a connection of its own, between the same two hosts."""
    first, last = bytes(ONE[0]), bytes(ONE[-1])
    number = n.to_bytes(2, "big")  # the identification, and the source port
    return first[:18] + number + first[20:34] + number + first[36:], last[:18] + number + last[20:]


def test_the_last_1024_first_fragments_are_remembered_and_what_is_not_found_is_counted(dataplane: str) -> None:
    forward = sampled(dataplane)
    guess = kept(forward, first_and_last(0)[1])
    number = next(n for n in range(1, 1000) if kept(forward, first_and_last(n)[0]) != guess)
    forward = sampled(dataplane)
    first, last = first_and_last(number)

    def later() -> tuple[bool, int]:
        result = forward(Frame(last, len(last)))
        return result.reason is None, result.unplaced

    assert later() == (guess, 1)
    kept(forward, first)
    for n in range(KNOWN - 1):
        assert later() == (not guess, 0)
        kept(forward, first_and_last(2000 + n)[0])
    assert later() == (not guess, 0)
    kept(forward, first)  # it comes again: it is the newest now
    for n in range(KNOWN - 1):
        kept(forward, first_and_last(4000 + n)[0])
    assert later() == (not guess, 0)
    kept(forward, first_and_last(9000)[0])
    assert later() == (guess, 1)


def test_an_identification_means_something_between_two_hosts_alone(dataplane: str) -> None:
    forward = sampled(dataplane)
    _, last = first_and_last(7)
    for other in (
        IP(src="10.0.0.1", dst="10.1.0.2", id=7) / TCP(sport=1, dport=2),
        IP(src="10.1.0.1", dst="10.0.0.1", id=7) / TCP(sport=1, dport=2),
        IP(src="10.0.0.1", dst="10.1.0.1", id=7) / UDP(sport=1, dport=2),
        IP(src="10.0.0.1", dst="10.1.0.1", id=8) / TCP(sport=1, dport=2),
    ):
        kept(forward, pieces(LINK / other / bytes(1000))[0])
    assert forward(Frame(last, len(last))).unplaced == 1


def test_a_later_fragment_that_tells_is_never_unplaced(dataplane: str) -> None:
    forward = sampled(dataplane)
    last = bytes(pieces(LINK / IP(src="10.0.0.1", dst="10.1.0.1") / UDP() / bytes(1000))[-1])
    assert forward(Frame(last, len(last))).unplaced == 0
    unsampled = step(ForwardPlan(encap.bare()), dataplane)
    _, last = first_and_last(1)
    assert unsampled(Frame(last, len(last))).unplaced == 0  # nobody asks for its conversation


FRAGMENTS = [
    bytes(LINK / piece)
    for n in range(40)
    for packet in (
        IP(src="10.0.0.1", dst=f"10.1.0.{n % 2}", id=n % 3) / TCP(sport=n, dport=80) / bytes(1200),
        IP(src="10.0.0.1", dst="10.1.0.1", id=n % 3) / UDP(sport=n) / bytes(1200),
        IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrFragment(id=n % 3) / TCP(sport=n) / bytes(2500),
        IPv6(src="2001:db8::1", dst="2001:db8::2")
        / IPv6ExtHdrFragment(id=n % 3)
        / IPv6ExtHdrDestOpt()
        / (TCP(sport=n) if n % 2 else UDP(sport=n))
        / bytes(2500),
    )
    for piece in pieces(packet, 1280)
]


@given(st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=60))
def test_the_planes_agree_on_fragments_in_any_order(sent: list[bytes]) -> None:
    python, native = sampled("python"), sampled("native")
    for data in sent:
        assert native(Frame(data, len(data))) == python(Frame(data, len(data)))
