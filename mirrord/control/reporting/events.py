"""What changes, for whoever listens: states, objects, audit rows, and once a second what the sessions count.

Nothing is looked at for it while nobody listens. Several listeners share a look. States change rarely and cost most to
find out: they are looked at when something has happened that may have changed them, and now and then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, NamedTuple

from mirrord.control.planning.plan import Key
from mirrord.control.service import Service
from mirrord.control.store import Store
from mirrord.dataplane.counters import DROPPED, SKIPPED, Slot

EVERY_SECONDS = 1.0
SHARED_SECONDS = 0.5  # a look that is younger serves another listener, too
STATES_SECONDS = 15.0
MOST_ROWS = 100  # of the audit log at once; who was away for more asks for them

_TOLD = int(Slot.truncated)  # the first slot that says nothing of what becomes of a frame
_SKIPPED = [(reason, int(Slot[f"skipped_{reason}"])) for reason in SKIPPED]
_DROPPED = [(reason, int(Slot[f"dropped_{reason}"])) for reason in DROPPED]

Counts = tuple[int, ...]
Event = tuple[str, dict[str, Any]]
"""Its name, and what it says."""


class Look(NamedTuple):
    """How all was at a moment. Parts that did not change since the look before are the same objects."""

    at: float = 0.0  # monotonic
    states: Mapping[Key, tuple[str, str]] = {}
    states_at: float = -STATES_SECONDS
    happened: int = -1
    counts: Mapping[Key, Counts] = {}
    rates: Mapping[Key, tuple[float, float]] = {}
    objects: object = None
    audited: int = 0  # the newest row's id


class Events:
    """Of one daemon."""

    def __init__(self, service: Service, store: Store) -> None:
        self._service, self._store = service, store
        self._last = Look()
        self._lock = asyncio.Lock()

    async def listen(self) -> AsyncIterator[list[Event]]:
        """How all is, then what changed, once a second: an empty list where nothing did."""
        last = (await self._look())._replace(states={}, counts={}, rates={}, objects=None)
        while True:
            now = await self._look()
            rows = await asyncio.to_thread(self._rows, last.audited) if now.audited != last.audited else []
            yield [*_changes(last, now), *(("audit", row) for row in rows)]
            last = now
            await asyncio.sleep(EVERY_SECONDS)

    async def _look(self) -> Look:
        async with self._lock:
            if time.monotonic() - self._last.at > SHARED_SECONDS:
                self._last = await asyncio.to_thread(self._look_again, self._last)
            return self._last

    def _look_again(self, last: Look) -> Look:
        service, now = self._service, time.monotonic()
        states, states_at, happened = last.states, last.states_at, service.happened
        if happened != last.happened or now - states_at >= STATES_SECONDS:
            states = {row.entry.key: (row.state, row.reason) for row in service.rows()}
            states_at = now
        newest = self._store.audit_ids(limit=1)
        counts = {key: tuple(counted[:_TOLD]) for key, counted in service.counters().items()}
        return Look(now, states, states_at, happened, counts, service.rates, service.loaded, *newest)

    def _rows(self, after: int) -> list[dict[str, Any]]:
        new = [one for one in self._store.audit_ids(limit=MOST_ROWS) if one > after]
        return list(self._store.audit_rows(new))


def _changes(last: Look, now: Look) -> Iterator[Event]:
    """What is told of the difference: first that objects changed, since their names come with it."""
    if now.objects is not last.objects and last.objects is not None:
        yield "objects", {}
    if now.states is not last.states:
        changed = [
            {**key._asdict(), "state": state, "reason": reason}
            for key, (state, reason) in now.states.items()
            if last.states.get(key) != (state, reason)
        ]
        gone = [key._asdict() for key in last.states if key not in now.states]
        if changed or gone:
            yield "states", {"sessions": changed, "gone": gone}
    counted = [
        {**key._asdict(), **_counted(counts, *now.rates.get(key, (0.0, 0.0)))}
        for key, counts in now.counts.items()
        if last.counts.get(key) != counts or last.rates.get(key) != now.rates.get(key)
    ]
    if counted:
        yield "counters", {"sessions": counted}


def _counted(counts: Counts, frames: float, bits: float) -> dict[str, Any]:
    """By the names that `status` has; of reasons those that counted something."""
    return {
        "frames_per_second": round(frames, 1),
        "bits_per_second": round(bits, 1),
        "captured_frames": counts[Slot.captured],
        "mirrored_frames": counts[Slot.mirrored],
        "sent_bytes": counts[Slot.sent_bytes],
        "skipped_frames": {reason: counts[slot] for reason, slot in _SKIPPED if counts[slot]},
        "dropped_frames": {reason: counts[slot] for reason, slot in _DROPPED if counts[slot]},
    }
