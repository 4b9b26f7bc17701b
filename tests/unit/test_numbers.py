"""Numbers of a tunnel's packets: what is missing is counted once, what is late is not, by both planes alike."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from mirrord.dataplane.capture.numbers import SERIES, STALE, WINDOW, Numbers
from mirrord.dataplane.native import core

A, B = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])


def settled(numbers: Numbers | core.Numbers) -> int:
    """What is known to be missing once it has been looked twice without anything new."""
    return numbers.settle()[0] + numbers.settle()[0]


def both(sequence: list[int], *, begins: int = 0) -> int:
    """How many are missing of a series that came so, by both planes."""
    found = []
    for numbers in (Numbers(), core.Numbers()):
        noted = sum(numbers.note(A, 7, (begins + number) & 0xFFFFFFFF) for number in sequence)
        found.append(noted + settled(numbers))
        assert numbers.settle() == (0, False)
    assert found[0] == found[1]
    return found[0]


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 4000),
    st.sets(st.integers(1, 3999), max_size=300),
    st.integers(0, WINDOW // 2),
    st.randoms(use_true_random=False),
)
def test_what_does_not_come_is_missing_however_they_overtake_each_other(
    begins: int, count: int, lost: set[int], reach: int, chance: random.Random
) -> None:
    came = [number for number in range(count) if number not in lost]
    shuffled = sorted(came[1:], key=lambda number: number + chance.uniform(0, reach))
    assert both([0, *shuffled], begins=begins) == max(came) + 1 - len(came)
    assert both([0, *(one for number in shuffled for one in (number, number))], begins=begins) == (
        max(came) + 1 - len(came)  # what comes twice has come
    )


def test_an_outage_is_missing_whole_and_a_new_beginning_is_none() -> None:
    assert both([0, 1, 1_000_000]) == 999_998
    assert both([*range(10_000), *range(10_000)]) == 0
    assert both([*range(5), *range(100, 200), *range(3)]) == 95
    assert both([5000, *range(STALE - 1), 5001]) == 0  # stragglers of long ago: the series goes on
    assert both([5000, *range(STALE + 5), STALE + 7]) == 2


def test_senders_and_ids_have_numbers_of_their_own() -> None:
    for numbers in (Numbers(), core.Numbers()):
        for n in range(50):
            for place, (sender, ident) in enumerate([(A, 1), (B, 1), (A, 2)]):
                assert numbers.note(sender, ident, 1000 * place + n * (1 + place)) == 0
        assert numbers.settle() == (0, True)  # the last ones may still come late
        assert numbers.settle() == (49 + 98, False)


def test_the_series_that_began_first_gives_way() -> None:
    for numbers in (Numbers(), core.Numbers()):
        for ident in range(SERIES + 1):
            numbers.note(A, ident, 0)
        numbers.note(A, 1, 2)  # is followed
        numbers.note(A, 0, 9)  # is not any more: it begins anew, in the place of 1
        numbers.note(A, 1, 9)
        assert settled(numbers) == 0
        numbers.note(A, 1, 11)
        assert settled(numbers) == 1


near = st.integers(-3 * WINDOW, 3 * WINDOW) | st.integers(-(2**31) - 2, -(2**31) + 2) | st.integers(-5, 5)


@given(st.lists(st.tuples(st.sampled_from([(A, 1), (B, 1), (A, 2)]), near) | st.none(), max_size=80))
def test_the_planes_agree(events: list[tuple[tuple[bytes, int], int] | None]) -> None:
    python, native, last = Numbers(), core.Numbers(), 0
    for event in events:
        if event is None:
            assert python.settle() == native.settle()
            continue
        (sender, ident), ahead = event
        last = (last + ahead) & 0xFFFFFFFF
        assert python.note(sender, ident, last) == native.note(sender, ident, last)
    assert python.settle() == native.settle()
