"""Several collectors: which of them a conversation goes to, and what moves when one goes or comes."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from math import sqrt

from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.packet import Packet

from mirrord.dataplane import counters
from mirrord.dataplane.forward import encap
from mirrord.dataplane.forward.remotes import seed
from mirrord.dataplane.frame.wire import Frame
from mirrord.model import destinations
from mirrord.plans import ForwardPlan, OnMtuExceeded, Remote
from tests.support.packets import LINK
from tests.support.planes import Result, Step, step

FOUR = tuple(Remote(seed(ip_address(f"192.0.2.{n}")), overhead=42) for n in (10, 11, 12, 13))
CONVERSATIONS = 1000
SIX_DEVIATIONS = 6


def flow_plan(remotes: tuple[Remote, ...] = FOUR) -> ForwardPlan:
    return ForwardPlan(encap.vxlan(1), remotes=remotes)


def result(forward: Step, packet: Packet) -> Result:
    data = bytes(packet)
    return forward(Frame(data, len(data)))


def connection(n: int) -> Packet:
    return LINK / IP(src="10.0.0.1", dst="10.1.0.1") / TCP(sport=1000 + n, dport=80)


def chosen(forward: Step) -> list[int]:
    """For each connection, the place of the collector that it goes to."""
    found = [result(forward, connection(n)).to for n in range(CONVERSATIONS)]
    assert all(len(to) == 1 for to in found)
    return [to[0] for to in found]


def test_there_is_room_for_as_many_as_may_be_named() -> None:
    assert destinations.MOST_REMOTES == counters.MOST_REMOTES


def test_shares_are_those_of_a_fair_choice(dataplane: str) -> None:
    share = 1 / len(FOUR)
    deviation = sqrt(CONVERSATIONS * share * (1 - share))
    counts = [chosen(step(flow_plan(), dataplane)).count(place) for place in range(len(FOUR))]
    assert all(abs(count - CONVERSATIONS * share) <= SIX_DEVIATIONS * deviation for count in counts), counts


def test_who_goes_or_comes_moves_its_own_share_alone(dataplane: str) -> None:
    before = chosen(step(flow_plan(), dataplane))
    dead = (FOUR[0], replace(FOUR[1], alive=False), *FOUR[2:])
    after = chosen(step(flow_plan(dead), dataplane))
    assert 1 not in after
    assert all(now == then for then, now in zip(before, after, strict=True) if then != 1)
    moved = [now for then, now in zip(before, after, strict=True) if then == 1]
    assert set(moved) == {0, 2, 3}  # shared out among all of the others


def test_the_order_in_the_list_does_not_matter(dataplane: str) -> None:
    before, after = chosen(step(flow_plan(), dataplane)), chosen(step(flow_plan(FOUR[::-1]), dataplane))
    assert [3 - place for place in after] == before


def test_a_conversation_is_whole_on_one_its_fragments_too(dataplane: str) -> None:
    forward = step(flow_plan(), dataplane)
    for n in range(50):
        there = IP(src="10.0.0.1", dst="10.1.0.1", id=n) / TCP(sport=1000 + n, dport=80)
        back = IP(src="10.1.0.1", dst="10.0.0.1", id=n) / TCP(sport=80, dport=1000 + n)
        sent = [there, back, *fragment(there / bytes(1500), 600), *fragment(back / bytes(1400), 600)]
        assert len({result(forward, LINK / packet).to for packet in sent}) == 1
        ends = IP(src=f"10.2.{n}.1", dst="10.3.0.1", id=n)
        datagrams = [ends / UDP(sport=1000 + port, dport=53) for port in range(5)]
        sent = [*datagrams, *fragment(ends / UDP() / bytes(2000), 600)]
        assert len({result(forward, LINK / packet).to for packet in sent}) == 1


def test_each_gets_everything_but_the_dead(dataplane: str) -> None:
    remotes = (FOUR[0], replace(FOUR[1], alive=False), FOUR[2])
    plan = ForwardPlan(encap.vxlan(1), remotes=remotes, spread_all=True)
    assert {result(step(plan, dataplane), connection(n)).to for n in range(20)} == {(0, 2)}


def test_a_limit_counts_the_copies_of_each(dataplane: str) -> None:
    plan = ForwardPlan(encap.vxlan(1), remotes=FOUR, spread_all=True, packet_limit=1)
    forward = step(plan, dataplane)
    passed = sum(result(forward, connection(n)).reason is None for n in range(100))
    assert passed == 64 // 4  # the bucket holds 64 copies: docs/configuration.md


def test_each_path_has_its_own_bound(dataplane: str) -> None:
    remotes = (replace(FOUR[0], frame_limit=100), replace(FOUR[1], frame_limit=200))
    for plan in (flow_plan(remotes), replace(flow_plan(remotes), on_mtu_exceeded=OnMtuExceeded.drop)):
        forward = step(plan, dataplane)
        for n in range(40):
            one = result(forward, connection(n) / bytes(96))  # 150 bytes
            to = one.to or (0,)
            expected = {0: 100, 1: 150}[to[0]]
            assert [len(copy) - 8 for copy in one.copies] in ([expected], [])


def test_numbers_are_without_a_gap_at_each_collector(dataplane: str) -> None:
    forward = step(ForwardPlan(encap.erspan_ii(9), remotes=FOUR), dataplane)
    numbers: dict[int, list[int]] = {place: [] for place in range(4)}
    for n in range(100):
        one = result(forward, connection(n))
        numbers[one.to[0]].append(int.from_bytes(one.copies[0][4:8], "big"))
    assert all(found == list(range(len(found))) for found in numbers.values())
