"""Fewer conversations when not everything fits: whole ones, as many as fit, and more again later."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from mirrord.control.running.overload import LinkLevel
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.forward import encap
from mirrord.dataplane.frame.wire import Frame, Vnet
from mirrord.plans import ForwardPlan
from tests.support.planes import Result, Step, step
from tests.unit.test_planes import NOW, THOROUGH, compare, pauses

SECOND, MILLISECOND = 1_000_000_000, 1_000_000
LINK = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
FLOWS = 100
MEGABIT = 1_000_000


SIZE = 12_500  # bytes, what each frame counts for
PLAN = ForwardPlan(encap.bare(), overload=True, overhead=SIZE - 60)
PACKET = bytes(LINK / IP(src="10.0.0.1", dst="192.0.2.1") / TCP(sport=1024, dport=80, flags="A")).ljust(60, b"\0")


def conversation(n: int) -> bytes:
    """A frame of another one for each n."""
    return PACKET[:28] + (n % 7).to_bytes(2, "big") + PACKET[30:34] + (1024 + n).to_bytes(2, "big") + PACKET[36:]


FRAMES = [conversation(n) for n in range(FLOWS)]


def offered(megabits: int, start: int, milliseconds: int) -> Iterator[tuple[int, Frame]]:
    """Frames of all conversations in turn, evenly: the number of the conversation, and the frame."""
    gap = SIZE * 8 * 1000 // megabits  # nanoseconds
    for n in range(milliseconds * MILLISECOND // gap):
        yield n % FLOWS, Frame(FRAMES[n % FLOWS], 60, time=NOW + start + n * gap)


def by_conversation(forward: Step, megabits: int, start: int, milliseconds: int) -> dict[int, list[Result]]:
    results = defaultdict(list)
    for n, frame in offered(megabits, start, milliseconds):
        results[n].append(forward(frame))
    return results


def whole(results: dict[int, list[Result]]) -> set[int]:
    """The conversations of which nothing is missing."""
    return {n for n, of in results.items() if all(one.reason is None for one in of)}


def begun(results: dict[int, list[Result]]) -> set[int]:
    return {n for n, of in results.items() if any(one.reason is None for one in of)}


def reasons(results: dict[int, list[Result]]) -> set[Slot | None]:
    return {one.reason for of in results.values() for one in of}


@pytest.mark.parametrize(
    "plan", [replace(PLAN, rate_limit=100 * MEGABIT), replace(PLAN, packet_limit=1_000)], ids=["bits", "copies"]
)
def test_conversations_give_way_whole_and_come_back(plan: ForwardPlan, dataplane: str) -> None:
    """Five times the limit: nothing of those that stay is lost, from the first frame on; then a third of the limit."""
    forward = step(plan, dataplane)
    busy = by_conversation(forward, 500, 0, 2_500)
    assert reasons(busy) == {None, Slot.skipped_sampled_out}
    stay = whole(busy)
    later = by_conversation(forward, 500, 2_500 * MILLISECOND, 400)
    assert begun(later) == whole(later) == stay  # those in at the highest rate, and no others
    assert FLOWS / 8 / 3 <= len(stay) <= FLOWS / 5
    quiet = by_conversation(forward, 33, 3 * SECOND, 9_000)
    assert stay <= whole(quiet) < begun(quiet)
    back = by_conversation(forward, 33, 13 * SECOND, 1_000)
    assert stay < whole(back) == begun(back)


def test_it_does_not_come_back_to_rise_again_at_once(dataplane: str) -> None:
    """Twice what is used now would not fit: the rate stays."""
    forward = step(replace(PLAN, rate_limit=20 * MEGABIT), dataplane)
    by_conversation(forward, 60, 0, 3_000)
    stay = begun(by_conversation(forward, 60, 3 * SECOND, 1_000))
    assert begun(by_conversation(forward, 60, 4 * SECOND, 8_000)) == stay


@pytest.mark.parametrize("planned", [1, 3])
def test_what_is_in_at_a_rate_is_in_at_every_lower_one(planned: int, dataplane: str) -> None:
    kept = []
    for level in range(5):
        plan = ForwardPlan(encap.bare(), sampling_rate=planned, overload=True, least_level=level)
        forward = step(plan, dataplane)
        kept.append({n for n in range(1000) if forward(Frame(conversation(n), 60)).copies})
    for more, fewer in pairwise(kept):
        assert fewer < more
        assert 0.3 * len(more) < len(fewer) < 0.7 * len(more)


def test_a_conversation_that_is_too_much_alone_counts_as_limited(dataplane: str) -> None:
    """4 MB a frame against a megabit: the rate rises each 50 ms until it is out."""
    plan = ForwardPlan(encap.bare(), overload=True, rate_limit=MEGABIT, overhead=4_000_000)
    forward = step(plan, dataplane)
    results = [forward(Frame(FRAMES[3], 60, time=NOW + n * 10 * MILLISECOND)).reason for n in range(200)]
    assert results[:2] == [None, Slot.skipped_rate_limited]
    assert results[-1] is Slot.skipped_sampled_out
    assert results == sorted(results, key=[None, Slot.skipped_rate_limited, Slot.skipped_sampled_out].index)


def test_without_a_frame_time_passes_too(dataplane: str) -> None:
    forward = step(replace(PLAN, rate_limit=100 * MEGABIT), dataplane)
    by_conversation(forward, 500, 0, 600)
    later = by_conversation(forward, 33, 60 * SECOND, 400)
    assert len(whole(later)) >= FLOWS - 1  # all but the one whose frame told the time


def test_a_large_frame_is_no_burst(dataplane: str) -> None:
    """Super-frames of 64 KiB (VIRTIO_NET_HDR_GSO_TCPV4) of many conversations, four times the limit: no hole."""
    forward = step(ForwardPlan(encap.bare(), overload=True, rate_limit=100 * MEGABIT), dataplane)
    results = defaultdict(list)
    for n in range(200):
        data = FRAMES[n % 20][:54] + bytes(64_000)
        frame = Frame(data, len(data), vnet=Vnet(0, 1, 0, 1448, 0, 0), time=NOW + n * 1280 * 1000)
        results[n % 20].append(forward(frame))
    assert reasons(results) == {None, Slot.skipped_sampled_out}


@THOROUGH
@given(
    sent=st.lists(
        st.tuples(st.integers(0, 20), st.sampled_from([60, 1250, 64_054]), pauses | st.just(2 * SECOND)),
        min_size=10,
        max_size=40,
    ),
    bits=st.sampled_from([0, 1, MEGABIT, 100 * MEGABIT]),
    packets=st.sampled_from([0, 0, 1, 1000]),
    planned=st.sampled_from([1, 1, 2, 1 << 20]),
    least=st.sampled_from([0, 0, 1, 16]),
    overhead=st.sampled_from([0, 200_000]),
)
def test_both_planes_thin_alike(
    sent: list[tuple[int, int, int]], bits: int, packets: int, planned: int, least: int, overhead: int
) -> None:
    times = accumulate((pause for _, _, pause in sent), initial=NOW)
    frames = [
        Frame(FRAMES[n][:54].ljust(length, b"\0"), length, time=time)
        for (n, length, _), time in zip(sent, times, strict=False)
    ]
    plan = ForwardPlan(
        encap.bare(), sampling_rate=planned, overload=True, least_level=least,
        rate_limit=bits, packet_limit=packets, overhead=overhead,
    )  # fmt: skip
    compare(plan, frames * 2)


def test_the_level_for_a_link_rises_each_second_and_falls_more_slowly_each_time() -> None:
    level = LinkLevel()
    assert [level.look(float(now), busy=True, room=False) for now in (1, 2, 3)] == [1, 2, 3]
    assert level.look(4.0, busy=False, room=False) == 3
    assert [level.look(float(now), busy=False, room=True) for now in range(4, 19)] == [3] * 4 + [2] * 5 + [1] * 5 + [0]
    assert level.look(19.0, busy=True, room=False) == 1
    assert [level.look(float(now), busy=False, room=True) for now in range(20, 30)] == [1] * 9 + [0]
    for now in range(100, 130):
        level.look(float(now), busy=True, room=False)
    assert level.level == 16
