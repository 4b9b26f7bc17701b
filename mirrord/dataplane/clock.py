"""The clock that the kernel stamps frames by, and whether somebody set it.

It is the wall clock, which a person or a time service may set at any moment, either way. What is told by comparing two
stamps is wrong then, so it has to be noticed: the distance to the clock that is never set changes by that, and by
nothing else, since what slews one of them slews the other one as much (clock_gettime(2)).
"""

from __future__ import annotations

import time
from typing import NamedTuple

_CLOSE = 20_000
"""Nanoseconds in which both clocks are to be read: a smaller step is not noticed."""

_TRIES = 10


class Reading(NamedTuple):
    """The time in nanoseconds since 1970, and how far that is ahead of the clock that is never set: between these."""

    time: int
    least: int
    most: int

    def tells_of_a_step(self, before: Reading) -> bool:
        """Whether the clock was set since an earlier reading, or the machine slept."""
        return self.most < before.least or before.most < self.least


def read_clock() -> Reading:
    """Read it now."""
    for _ in range(_TRIES):
        before, now, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        if after - before < _CLOSE:
            break
    return Reading(now, now - after, now - before)


class Watch:
    """Sees whether the clock is set, from a reading of it on."""

    def __init__(self, since: Reading | None = None) -> None:
        self.reading = since or read_clock()

    def stepped(self) -> bool:
        """Whether it was, since this was last asked."""
        before, self.reading = self.reading, read_clock()
        return self.reading.tells_of_a_step(before)
