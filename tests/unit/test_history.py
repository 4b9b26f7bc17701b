"""The history of the last hour: what it keeps, how exactly, and how much memory that takes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping, Sequence

import pytest

from mirrord.control.planning.plan import Key
from mirrord.control.reporting.history import BYTES, SESSIONS, STEP, History
from mirrord.dataplane.counters import DROPPED, SLOTS, Slot

A, B = Key("m", "a", "tap0"), Key("m", "a", "tap1")


def gain(mirrored: int = 0, size: int = 0, latency: int = 0, **dropped: int) -> Sequence[int]:
    """What a session has counted; `latency` in nanoseconds a frame."""
    row = [0] * SLOTS
    row[Slot.mirrored], row[Slot.sent_bytes], row[Slot.latency_sum] = mirrored, mirrored * size, mirrored * latency
    for reason, count in dropped.items():
        row[Slot[f"dropped_{reason}"]] = count
    return tuple(row)


def look(one: History, gains: Mapping[Key, Sequence[int]], fills: Mapping[Key, float] | None = None) -> None:
    one.look(1.0, gains, fills or {})


@pytest.mark.parametrize("each", [1, 7, 1000, 1_234_567, 10**9])
def test_sums_of_each_second_are_right_to_a_thousandth(each: int) -> None:
    one = History()
    look(one, {})
    for _ in range(3):
        look(one, {A: gain(each, 100, 50_000, ring_full=3), B: gain(each, 100, 150_000)})
    past = one.sums().shown()
    assert past["frames_per_second"] == pytest.approx([0, *[2 * each] * 3], rel=1e-3)
    assert past["bits_per_second"] == pytest.approx([0, *[2 * each * 800] * 3], rel=1e-3)
    assert past["latency_seconds"] == pytest.approx([0, *[100e-6] * 3], rel=1e-3)
    assert past["dropped_per_second"]["ring_full"] == pytest.approx([0, 3, 3, 3], rel=1e-3)
    assert not any(any(past["dropped_per_second"][reason]) for reason in DROPPED[1:])


def test_a_sessions_sources_are_one_and_their_fullest_ring_counts() -> None:
    one = History(iter(range(1, 100)).__next__)
    for n in range(3 * STEP):
        gains = {A: gain(10, 100), B: gain(30, 100, 1000, no_route=1)}
        look(one, gains if n < 2 * STEP else {}, {A: 0.25, B: 0.5} if n < STEP else {})
    past = one.of("m", "a").shown()
    assert past["step_seconds"] == STEP
    assert past["times"] == [10, 20, 30]
    assert past["frames_per_second"] == pytest.approx([40, 40, 0], rel=1e-3)
    assert past["latency_seconds"] == pytest.approx([750e-9, 750e-9, 0], rel=1e-3)
    assert past["dropped_per_second"]["no_route"] == pytest.approx([1, 1, 0], rel=1e-3)
    assert past["ring_fill"] == pytest.approx([0.5, 0, 0], rel=2e-3)
    assert one.of("m", "a", since=10).times == [20, 30]
    assert one.of("m", "b").shown()["times"] == []
    assert not one.of("m", "b").left_out


def test_an_hour_is_kept_and_no_more() -> None:
    one = History(iter(range(1, 4000)).__next__)
    for _ in range(3700):
        look(one, {A: gain(1, 100)})
    assert one.sums().times == [*range(101, 3701)]
    assert one.of("m", "a").times == [*range(110, 3701, 10)]
    assert one.sums(since=3690).times == [*range(3691, 3701)]


def test_its_memory_is_bounded_whatever_the_number_of_sessions() -> None:
    """And a session that comes takes the place of one that has been quiet for longest, without its past."""
    assert BYTES <= 8_000_000
    one = History()
    many = {Key("m", str(n), "tap"): gain(n) for n in range(3 * SESSIONS)}
    tracemalloc.start()
    try:
        for _ in range(2 * STEP):
            look(one, many)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert BYTES + held < 8 << 20
    assert len(one.of("m", "0").times) == 2
    assert one.of("m", str(SESSIONS)).left_out
    assert not one.of("m", str(SESSIONS - 1)).left_out
    last = dict([*many.items()][1 - SESSIONS :])
    for _ in range(STEP):
        look(one, last)
    assert [len(one.of("m", str(n)).times) for n in (3 * SESSIONS - 1, 0, SESSIONS - 1)] == [1, 0, 3]
