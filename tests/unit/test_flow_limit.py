"""The first of each flow: what counts to which, what passes, what is forgotten; the two planes against each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv6Address
from itertools import accumulate, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet

from mirrord.dataplane.counters import Slot
from mirrord.dataplane.forward import encap
from mirrord.dataplane.frame.headers import Tag
from mirrord.dataplane.frame.wire import Frame, Vnet
from mirrord.plans import FlowLimit, ForwardPlan
from tests.support.planes import Step, step
from tests.unit.test_planes import NOW, THOROUGH, compare, pauses

A, B, C = "192.0.2.1", "192.0.2.2", "192.0.2.3"
A6, B6 = "2001:db8::1", "2001:db8::2"
MACS = "02:00:00:00:00:01", "02:00:00:00:00:02"
SECOND = 1_000_000_000
SPENT = Slot.skipped_flow_limit


def limited(dataplane: str, **limit: Any) -> Step:
    return step(ForwardPlan(encap.bare(), flow_limit=FlowLimit(**limit)), dataplane)


def frame(packet: Packet, time: int = 0, **more: Any) -> Frame:
    data = bytes(Ether(src=MACS[0], dst=MACS[1]) / packet)
    return Frame(data, len(data), time=NOW + time)._replace(**more)


def mirrored(forward: Step, frames: Sequence[Frame]) -> list[bool]:
    """Whether each was; what was not has to be so for its flow."""
    reasons = [forward(one).reason for one in frames]
    assert set(reasons) <= {None, SPENT}
    return [reason is None for reason in reasons]


def tcp(source: str, destination: str, ports: tuple[int, int] = (1000, 80), flags: str = "A", size: int = 10) -> Packet:
    network = IPv6 if ":" in source else IP
    transport = TCP(sport=ports[0], dport=ports[1], flags=flags)
    return network(src=source, dst=destination) / transport / bytes(size)


def test_both_directions_count_together(dataplane: str) -> None:
    there, back = frame(tcp(A, B)), frame(tcp(B, A, (80, 1000)))
    other = frame(tcp(A, B, (1001, 80)))
    assert mirrored(limited(dataplane, packets=3), [there, back, there, back, there, other]) == [1, 1, 1, 0, 0, 1]


@pytest.mark.parametrize(
    ("one", "another"),
    [
        (tcp(A, B), tcp(A, C)),
        (tcp(A, B), tcp(A, B, (1000, 81))),
        (tcp(A, B, (1000, 80)), tcp(A, B, (80, 1000))),  # not the way back: the ports are the other way round
        (IP(src=A, dst=B) / UDP(sport=5, dport=6), IP(src=A, dst=B) / TCP(sport=5, dport=6, flags="A")),
        (IP(src=A, dst=B) / SCTP(sport=5, dport=6), IP(src=A, dst=B) / SCTP(sport=5, dport=7)),
        (IP(src=A, dst=B, proto=50) / bytes(40), IP(src=A, dst=B, proto=51) / bytes(40)),
        (tcp(A6, B6), tcp(B6, A6)),
    ],
)
def test_what_is_another_flow(one: Packet, another: Packet, dataplane: str) -> None:
    forward = limited(dataplane, packets=1)
    assert mirrored(forward, [frame(one), frame(another), frame(one), frame(another)]) == [True, True, False, False]


def test_flows_of_one_hash_are_two(dataplane: str) -> None:
    """pair_hash adds the greater end to a multiple of the lesser one: there are others with the same sum."""
    factor, lesser, greater = 0xC2B2AE3D27D4EB4F, 1 << 60, (1 << 63) + 5
    ends = [(lesser, greater), (lesser + 1, greater - factor & (1 << 64) - 1)]
    packets = [tcp(str(IPv6Address(low)), str(IPv6Address(high)), (0, 0)) for low, high in ends]
    frames = [frame(packet) for packet in packets]
    forward = limited(dataplane, packets=1)
    results = [forward(one) for one in frames]
    assert results[0].flow == results[1].flow
    assert [result.reason for result in results] == [None, None]


def test_the_beginning_and_the_end_of_a_connection_always_pass(dataplane: str) -> None:
    forward = limited(dataplane, packets=1)
    flags = ["A", "S", "SA", "PA", "F", "R", "FPA", "RA", "U"]
    assert mirrored(forward, [frame(tcp(A, B, flags=one)) for one in flags]) == [1, 1, 1, 0, 1, 1, 1, 1, 0]


def test_what_is_no_part_of_a_flow_passes(dataplane: str) -> None:
    forward = limited(dataplane, packets=1)
    quoted = IP(src=A, dst=B) / ICMP(type=3, code=4) / IP(src=B, dst=A) / UDP()
    quoted6 = IPv6(src=A6, dst=B6) / ICMPv6DestUnreach() / IPv6(src=B6, dst=A6) / UDP()
    for packet in (ARP(), quoted, quoted6):
        assert mirrored(forward, [frame(packet)] * 3) == [True] * 3
    for packet in (IP(src=A, dst=B) / ICMP(type=8), IPv6(src=A6, dst=B6) / ICMPv6EchoRequest()):
        assert mirrored(forward, [frame(packet)] * 3) == [True, False, False]


def test_bytes_count_as_they_are_read(dataplane: str) -> None:
    """The frame in which the limit falls passes whole; a VLAN tag that the kernel took off was not read."""
    one = frame(tcp(A, B, size=46), tag=Tag(0x8100, 5))
    assert one.length == 100
    assert mirrored(limited(dataplane, octets=201), [one] * 5) == [True, True, True, False, False]
    assert mirrored(limited(dataplane, octets=200), [one] * 5) == [True, True, False, False, False]
    assert mirrored(limited(dataplane, octets=1000, packets=1), [one] * 2) == [True, False]


def test_a_super_frame_counts_as_its_packets_and_passes_whole(dataplane: str) -> None:
    """VIRTIO_NET_HDR_GSO_TCPV4; ten packets of 100 bytes, and the limit falls among the second ten."""
    large = frame(tcp(A, B, size=1000), vnet=Vnet(0, 1, 0, 100, 0, 0))
    forward = limited(dataplane, packets=15)
    assert [len(forward(large).copies) for _ in range(3)] == [10, 10, 0]


def test_what_comes_after_may_be_cut_behind_its_headers(dataplane: str) -> None:
    """As snaplen = "headers" cuts it, and by a shorter snaplen as well; what begins or ends a connection is whole."""
    whole = frame(IP(src=A, dst=B) / TCP(sport=1, dport=2, flags="A", options=[("NOP", None)] * 12) / bytes(100))
    end = frame(IP(src=A, dst=B) / TCP(sport=1, dport=2, flags="FA") / bytes(100))
    limit = FlowLimit(packets=1, headers=True)
    lengths = {}
    for snaplen in (0, 60, 160):
        forward = step(ForwardPlan(encap.bare(), snaplen=snaplen, flow_limit=limit, push_tag=5), dataplane)
        results = [forward(one) for one in (whole, whole, end)]
        assert results[1].reason is None
        lengths[snaplen] = [len(one.copies[0]) - 4 for one in results]
    assert lengths == {0: [166, 66, 154], 60: [60, 60, 60], 160: [160, 66, 154]}
    assert [result.truncated for result in results] == [1, 1, 0]
    large = frame(tcp(A, B, size=1000), vnet=Vnet(0, 1, 0, 100, 0, 0))
    forward = step(ForwardPlan(encap.bare(), flow_limit=limit), dataplane)
    assert [[len(copy) for copy in forward(large).copies] for _ in range(2)] == [[154] * 10, [54] * 10]


def test_tags_are_no_part_of_the_flow(dataplane: str) -> None:
    tagged = frame(Dot1Q(vlan=5) / tcp(A, B))
    assert mirrored(limited(dataplane, packets=1), [frame(tcp(A, B)), tagged]) == [True, False]


@pytest.mark.parametrize("family", [4, 6])
def test_fragments_are_part_of_their_first_ones_flow(family: int, dataplane: str) -> None:
    def pieces(port: int, number: int) -> list[Frame]:
        datagram = UDP(sport=port, dport=53) / bytes(300)
        if family == 4:
            return [frame(one) for one in fragment(IP(src=A, dst=B, id=number) / datagram, 104)]
        return [frame(one) for one in fragment6(IPv6(src=A6, dst=B6) / IPv6ExtHdrFragment(id=number) / datagram, 200)]

    forward = limited(dataplane, packets=5)
    first, second, other = pieces(1000, 1), pieces(1000, 2), pieces(2000, 3)
    count = len(first)
    assert 2 <= count <= 4
    assert mirrored(forward, first) == [True] * count
    assert sum(mirrored(forward, second)) == 5 - count
    assert mirrored(forward, other) == [True] * count  # they are not in the way of another flow between the two
    lost = pieces(3000, 4)[1:]
    assert [forward(one).unplaced for one in lost] == [1] * (count - 1)


def test_a_flow_that_was_idle_begins_anew(dataplane: str) -> None:
    forward = limited(dataplane, packets=1, idle=10 * SECOND)
    times = [0, 5, 14, 24, 34, 45, 46]  # what is skipped keeps it known, too
    expected = [True, False, False, False, False, True, False]
    assert mirrored(forward, [frame(tcp(A, B), time * SECOND) for time in times]) == expected


def test_a_clock_that_is_set_back_forgets_nothing_and_keeps_nothing_for_ever(dataplane: str) -> None:
    forward = limited(dataplane, packets=1, idle=10 * SECOND)
    times = [3600, 0, 5, 14, 25]
    assert mirrored(forward, [frame(tcp(A, B), time * SECOND) for time in times]) == [True, False, False, False, True]


def test_a_full_table_lets_new_flows_pass_and_counts_them(dataplane: str) -> None:
    forward = limited(dataplane, packets=1, flows=2, idle=10 * SECOND)
    one, two, three = (tcp(A, B, (port, 80)) for port in (1, 2, 3))
    assert mirrored(forward, [frame(one), frame(two, SECOND), frame(one), frame(two, SECOND)]) == [1, 1, 0, 0]
    results = [forward(frame(three, 2 * SECOND)) for _ in range(3)]
    assert [(result.reason, result.flow_table_full) for result in results] == [(None, 1)] * 3
    assert mirrored(forward, [frame(two, 9 * SECOND)]) == [False]
    results = [forward(frame(three, 12 * SECOND)) for _ in range(2)]  # the first one's place is free
    assert [(result.reason, result.flow_table_full) for result in results] == [(None, 0), (SPENT, 0)]
    assert mirrored(forward, [frame(two, 13 * SECOND)]) == [False]


def test_sampling_comes_before_and_takes_no_place(dataplane: str) -> None:
    plan = ForwardPlan(encap.bare(), sampling_rate=(1 << 31) - 1, flow_limit=FlowLimit(packets=1, flows=1))
    results = [step(plan, dataplane)(frame(tcp(A, B, (port, 80)))) for port in range(1, 50)]
    assert {(result.reason, result.flow_table_full) for result in results} == {(Slot.skipped_sampled_out, 0)}


def some() -> Iterator[list[Frame]]:
    """The frames of each of some packets of few flows: one, or its fragments."""
    for (source, destination), dport in product([(A, B), (B, A), (A, C), (A6, B6), (B6, A6)], [1, 2]):
        v6 = ":" in source
        for flags in ("A", "S", "PA"):
            one = frame(tcp(source, destination, (1, dport), flags, 30))
            yield [one]
            yield [one._replace(vnet=Vnet(0, 4 if v6 else 1, 0, 10, 0, 0))]
        for payload in (
            TCP(sport=1, dport=dport) / bytes(300),
            UDP(sport=1, dport=dport) / bytes(300),
            SCTP(sport=1, dport=dport) / bytes(300),
            (ICMPv6DestUnreach() if v6 else ICMP(type=3)) / bytes(300),
            (ICMPv6EchoRequest() if v6 else ICMP(type=8)) / bytes(300),
        ):
            if v6:
                network: Packet = IPv6(src=source, dst=destination)
                pieces = fragment6(network / IPv6ExtHdrFragment(id=dport) / payload, 200)
            else:
                network = IP(src=source, dst=destination, id=dport)
                pieces = fragment(network / payload, 104)
            yield [frame(network / payload)]
            yield [frame(one) for one in pieces]
            yield [frame(one) for one in pieces[1:]]


@THOROUGH
@given(
    sent=st.lists(st.tuples(st.sampled_from(list(some())), pauses), min_size=4, max_size=30),
    limit=st.builds(
        FlowLimit,
        packets=st.sampled_from([0, 1, 2, 5]),
        octets=st.sampled_from([0, 100, 1000]),
        headers=st.booleans(),
        idle=st.sampled_from([1_000_000, 100_000_000, 60 * SECOND]),
        flows=st.sampled_from([0, 1, 2, 3, 100]),
    ),
    rate=st.sampled_from([1, 1, 2]),
)
def test_both_planes_know_the_same_flows(sent: list[tuple[list[Frame], int]], limit: FlowLimit, rate: int) -> None:
    times = accumulate((pause for _, pause in sent), initial=NOW)
    frames = [one._replace(time=time) for (several, _), time in zip(sent, times, strict=False) for one in several]
    compare(ForwardPlan(encap.bare(), flow_limit=limit, sampling_rate=rate), frames)
