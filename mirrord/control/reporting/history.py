"""The last hour, kept by the daemon itself: what all sessions counted each second, what each counted every ten.

What it takes is bounded, whatever the number of sessions: `MOST_SESSIONS` of them have rows of their own, the ones that
counted something last. A row holds rates a second in single precision.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mirrord.control.planning.plan import Key
from mirrord.dataplane.counters import DROPPED, LATENCY_BOUNDS, SKIPPED, Slot

HOUR = 3600
STEP = 10  # seconds, of a session's points
MOST_SESSIONS = 500  # each has 360 points of 8 numbers of 4 bytes and a time: 14 KB

_SUMS: Mapping[str, tuple[Slot, ...]] = {
    "captured_frames": (Slot.captured,),
    "mirrored_frames": (Slot.mirrored,),
    "sent_packets": (Slot.sent_packets,),
    "sent_bytes": (Slot.sent_bytes,),
}
_CAUSES: Mapping[str, tuple[Slot, ...]] = {
    **{f"skipped_{reason}": (Slot[f"skipped_{reason}"],) for reason in SKIPPED},
    **{f"dropped_{reason}": (Slot[f"dropped_{reason}"],) for reason in DROPPED},
}
_OF_DAEMON = {**_SUMS, **_CAUSES}
_BRIEF: Mapping[str, tuple[Slot, ...]] = {
    **_SUMS,
    "skipped_frames": tuple(Slot[f"skipped_{reason}"] for reason in SKIPPED),
    "dropped_frames": tuple(Slot[f"dropped_{reason}"] for reason in DROPPED),
}
_LATENCY, _FILL = "latency_p99_seconds", "ring_fill"


class Rows:
    """Numbers of the last `points` points in time, by name; the oldest gives way to the newest."""

    def __init__(self, names: Iterable[str], points: int) -> None:
        self._points = points
        self._times = array("d", bytes(8 * points))
        self._columns = {name: array("f", bytes(4 * points)) for name in names}

    def put(self, number: int, at: float, values: Mapping[str, float]) -> None:
        """The values of a point in time, in seconds of the epoch; those that are not there are 0."""
        self._times[number % self._points] = at
        for name, column in self._columns.items():
            column[number % self._points] = values.get(name, 0.0)

    def last(self, number: int, count: int) -> dict[str, list[float]]:
        """The last `count` points up to this one, oldest first."""
        at = [one % self._points for one in range(number - count + 1, number + 1)]
        values = {name: [round(column[one], 6) for one in at] for name, column in self._columns.items()}
        return {"time": [round(self._times[one], 3) for one in at], **values}


class History:
    """Filled by one thread, once a second; read by any."""

    def __init__(self) -> None:
        self._daemon = Rows((*_OF_DAEMON, _LATENCY, _FILL), HOUR)
        self._seconds = 0  # looked at so far
        self._sessions: dict[Key, Rows] = {}  # the one that counted last at the end
        self._since: dict[Key, int] = {}  # the first step of each
        self._gathered: dict[Key, list[int]] = {}  # of the step that goes on
        self._gathered_seconds = 0.0
        self._fills: dict[Key, float] = {}

    def add(self, gains: Mapping[Key, Sequence[int]], fills: Mapping[Key, float], seconds: float) -> None:
        """What sessions have counted in so many seconds, and how full their rings were."""
        total = [sum(column) for column in zip(*gains.values(), strict=True)]
        fill, now = max(fills.values(), default=0.0), time.time()
        self._daemon.put(self._seconds, now, _values(_OF_DAEMON, total, seconds, fill))
        for key, gain in gains.items():
            before = self._gathered.get(key)
            self._gathered[key] = [a + b for a, b in zip(before, gain, strict=True)] if before else list(gain)
        for key, fill in fills.items():
            self._fills[key] = max(fill, self._fills.get(key, 0.0))
        self._gathered_seconds += seconds
        self._seconds += 1
        if self._seconds % STEP == 0:
            self._end_step(self._seconds // STEP - 1, now)

    def _end_step(self, step: int, now: float) -> None:
        for key in self._gathered:
            rows = self._sessions.pop(key, None)
            if rows is None:
                self._since[key] = step
                rows = Rows((*_BRIEF, _LATENCY, _FILL), HOUR // STEP)
            self._sessions[key] = rows
        while len(self._sessions) > MOST_SESSIONS:
            oldest = next(iter(self._sessions))
            del self._sessions[oldest], self._since[oldest]
        for key, rows in self._sessions.items():
            fill = self._fills.get(key, 0.0)
            rows.put(step, now, _values(_BRIEF, self._gathered.get(key, ()), self._gathered_seconds, fill))
        self._gathered, self._fills, self._gathered_seconds = {}, {}, 0.0

    def of_daemon(self) -> dict[str, Any]:
        """Each second of the last hour, as far as the daemon has run, oldest first."""
        count = min(self._seconds, HOUR)
        return {"step_seconds": 1, **self._daemon.last(self._seconds - 1, count)}

    def of_sessions(self, mirror: str, session: str | None = None) -> dict[str, Any]:
        """Every ten seconds of it, for each session and source of a mirror that has counted anything of late."""
        steps = self._seconds // STEP
        found = [
            {**key._asdict(), **rows.last(steps - 1, min(steps - self._since[key], HOUR // STEP))}
            for key, rows in list(self._sessions.items())
            if key.mirror == mirror and session in (None, key.session)
        ]
        return {"step_seconds": STEP, "sessions": found}


def _values(
    names: Mapping[str, tuple[Slot, ...]], counted: Sequence[int], seconds: float, fill: float
) -> dict[str, float]:
    if not counted:
        return {_FILL: fill}
    rates = {name: sum([counted[slot] for slot in slots]) / seconds for name, slots in names.items()}
    return {**rates, _LATENCY: quantile(counted, 0.99), _FILL: fill}


def quantile(counted: Sequence[int], share: float) -> float:
    """The upper bound in seconds of the bucket below which this share of the latencies is; 0 where there are none."""
    buckets = counted[Slot.latency_bucket :]
    left = share * sum(buckets)
    if not left:
        return 0.0
    for bucket, bound in zip(buckets, LATENCY_BOUNDS, strict=False):
        left -= bucket
        if left <= 0:
            return bound / 1e9
    return LATENCY_BOUNDS[-1] / 1e9
