"""The daemon's own short history, for charts where no Prometheus is: an hour of sums each second, and of each session
that counted anything each ten seconds.

Its memory is one block, `MOST_BYTES` at most however many sessions there are. The system gives a page where it is
written to. A value is two bytes, the logarithm of one more than itself: right to a thousandth, from 0 to 2^64.
"""

from __future__ import annotations

import math
import mmap
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import repeat
from operator import add
from typing import Any, NamedTuple

from mirrord.control.planning.plan import Key
from mirrord.dataplane.counters import DROPPED, Slot

KEPT_SECONDS = 3600
STEP = 10
"""Looks, of one a second, that a session's values are about."""

MOST_BYTES = 8_000_000

_FIRST = ("frames_per_second", "bits_per_second", "ring_fill", "latency_seconds")
_WIDTH = len(_FIRST) + len(DROPPED)
_SUMS, _ROWS = KEPT_SECONDS, KEPT_SECONDS // STEP
_TIMES = 8 * (_SUMS + _ROWS)  # bytes

SESSIONS = (MOST_BYTES - _TIMES - 2 * _WIDTH * _SUMS) // (2 * _WIDTH * _ROWS)
"""Of how many sessions there is a history: of those that counted something last; 912 with eight causes of drops."""

_VALUES = _WIDTH * (_SUMS + SESSIONS * _ROWS)
BYTES = 2 * _VALUES + _TIMES

_SCALE = 1024  # codes for a doubling
_NOTHING = array("H", bytes(2 * _WIDTH))
_BRIEF = slice(0, Slot.latency_sum + 1)  # the slots that are looked at
_ZEROS = (0,) * (Slot.latency_sum + 1)
_MIRRORED, _SENT_BYTES, _LATENCY = int(Slot.mirrored), int(Slot.sent_bytes), int(Slot.latency_sum)
_DROPPED = [int(Slot[f"dropped_{reason}"]) for reason in DROPPED]

Name = tuple[str, str]
"""A session's mirror and its own name."""


class Values(NamedTuple):
    """What is kept of a while: rates, the fullest ring, the mean time from capture to send."""

    frames_per_second: float = 0.0
    bits_per_second: float = 0.0
    ring_fill: float = 0.0
    latency_seconds: float = 0.0
    dropped_per_second: Sequence[float] = (0.0,) * len(DROPPED)

    def shown(self) -> dict[str, Any]:
        """In JSON, to four digits."""
        first = {name: _digits(value) for name, value in zip(_FIRST, self[:4], strict=True)}
        return {**first, "dropped_per_second": dict(zip(DROPPED, map(_digits, self.dropped_per_second), strict=True))}


class Past(NamedTuple):
    """A part of the history: when each step ended, in seconds since 1970, and the values of each, by name."""

    step_seconds: int
    times: list[float]
    left_out: bool  # there was no room for this session
    columns: list[list[float]]

    def shown(self) -> dict[str, Any]:
        """In JSON."""
        first = dict(zip(_FIRST, self.columns, strict=False))
        dropped = dict(zip(DROPPED, self.columns[len(_FIRST) :], strict=True))
        told = {"step_seconds": self.step_seconds, "left_out": self.left_out, "times": self.times}
        return {**told, **first, "dropped_per_second": dropped}


class _Track:
    """Rows in a ring: the newest of so many."""

    def __init__(self, memory: memoryview, rows: int) -> None:
        self.memory, self.rows = memory, rows

    def write(self, number: int, codes: array[int]) -> None:
        at = number % self.rows * _WIDTH
        self.memory[at : at + _WIDTH] = codes

    def columns(self, numbers: Sequence[int]) -> list[list[float]]:
        places = [number % self.rows * _WIDTH for number in numbers]
        return [[_value(column, self.memory[at + column]) for at in places] for column in range(_WIDTH)]


class History:
    """`look` is called once a second, on one thread; it may be read on any. `clock`: seconds since 1970."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        memory = memoryview(mmap.mmap(-1, BYTES))
        values = memory[: 2 * _VALUES].cast("H")
        times = memory[2 * _VALUES :].cast("d")
        self._times = times[:_SUMS], times[_SUMS:]
        self._sums = _Track(values[: _WIDTH * _SUMS], _SUMS)
        rest = values[_WIDTH * _SUMS :]
        size = _WIDTH * _ROWS
        self._tracks = [_Track(rest[n * size : (n + 1) * size], _ROWS) for n in range(SESSIONS)]
        self._slots: dict[Name, int] = {}
        self._begun = [0] * SESSIONS  # the row that each slot begins with
        self._looks = self._rows = 0
        self._gathered: dict[Name, Sequence[int]] = {}  # of the step that goes on
        self._gathered_seconds = 0.0
        self._fills: dict[Name, float] = {}
        self.latest, self.looked_at = Values(), 0.0
        """The sums of the last second, and when that was."""

    def look(self, seconds: float, gains: Mapping[Key, Sequence[int]], fills: Mapping[Key, float]) -> None:
        """Take note of what those have counted that did, by Slot, and how full their rings were, in so many seconds."""
        with self._lock:
            self.looked_at = at = self._clock()
            total = _summed(gains.values()) if gains else _ZEROS
            self.latest = _values(total, seconds, max(fills.values(), default=0.0))
            self._times[0][self._looks % _SUMS] = at
            self._sums.write(self._looks, _codes(self.latest))
            self._looks += 1
            self._gather(seconds, gains, fills)
            if self._looks % STEP == 0:
                self._end_step(at)

    def _gather(self, seconds: float, gains: Mapping[Key, Sequence[int]], fills: Mapping[Key, float]) -> None:
        """Sum up the present step of each session, its sources together."""
        self._gathered_seconds += seconds
        for key, gain in gains.items():
            name, brief = key[:2], gain[_BRIEF]
            before = self._gathered.get(name)
            self._gathered[name] = brief if before is None else tuple(map(add, before, brief))
        for key, fill in fills.items():
            name = key[:2]
            self._fills[name] = max(fill, self._fills.get(name, 0.0))

    def _end_step(self, at: float) -> None:
        self._give_places()
        self._times[1][self._rows % _ROWS] = at
        for name, slot in self._slots.items():
            codes = _NOTHING
            if gain := self._gathered.get(name):
                codes = _codes(_values(gain, self._gathered_seconds, self._fills.get(name, 0.0)))
            self._tracks[slot].write(self._rows, codes)
        self._rows += 1
        self._gathered, self._fills, self._gathered_seconds = {}, {}, 0.0

    def _give_places(self) -> None:
        """One to each session that counted something: its own, a free one, or that of the one quiet for longest."""
        wanted = []
        for name in self._gathered:
            if (slot := self._slots.pop(name, None)) is not None:
                self._slots[name] = slot  # to the end
            else:
                wanted.append(name)
        for name in wanted:
            slot = len(self._slots)
            if slot == SESSIONS:
                idle = next(iter(self._slots))
                if idle in self._gathered:
                    return
                slot = self._slots.pop(idle)
            self._slots[name] = slot
            self._begun[slot] = self._rows

    def sums(self, since: float = 0.0) -> Past:
        """The sums of all sessions, of the seconds that ended after this time."""
        with self._lock:
            first = max(self._looks - _SUMS, 0)
            return self._past(self._sums, 1, range(first, self._looks), since)

    def of(self, mirror: str, session: str, since: float = 0.0) -> Past:
        """A session's, all its sources together. Nothing of one that is not known, or that there is no room for."""
        with self._lock:
            slot = self._slots.get((mirror, session))
            if slot is None:
                return Past(STEP, [], len(self._slots) == SESSIONS, [[] for _ in range(_WIDTH)])
            first = max(self._rows - _ROWS, self._begun[slot])
            return self._past(self._tracks[slot], STEP, range(first, self._rows), since)

    def _past(self, track: _Track, step: int, numbers: range, since: float) -> Past:
        times = self._times[0] if step == 1 else self._times[1]
        wanted = [number for number in numbers if times[number % track.rows] > since]
        return Past(step, [round(times[n % track.rows], 3) for n in wanted], False, track.columns(wanted))


def _summed(gains: Iterable[Sequence[int]]) -> Sequence[int]:
    return tuple(map(sum, zip(*[gain[_BRIEF] for gain in gains], strict=True)))


def _values(grown: Sequence[int], seconds: float, fill: float) -> Values:
    mirrored = grown[_MIRRORED]
    return Values(
        mirrored / seconds,
        grown[_SENT_BYTES] * 8 / seconds,
        fill,
        grown[_LATENCY] / mirrored / 1e9 if mirrored > 0 else 0.0,
        [grown[slot] / seconds for slot in _DROPPED],
    )


_UNITS = (1.0, 1.0, 1000.0, 1e9, *repeat(1.0, len(DROPPED)))
"""What each value is multiplied by before it is kept: nanoseconds and thousandths are finer than one."""


def _codes(values: Values) -> array[int]:
    flat = (*values[:4], *values.dropped_per_second)
    log2, most = math.log2, 0xFFFF
    return array(
        "H",
        [
            min(round(log2(1 + value * unit) * _SCALE), most) if value > 0 else 0
            for value, unit in zip(flat, _UNITS, strict=True)
        ],
    )


@lru_cache(1 << 13)
def _value(column: int, code: int) -> float:
    return _digits((2 ** (code / _SCALE) - 1) / _UNITS[column]) if code else 0.0


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
