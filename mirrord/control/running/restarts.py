"""When a session whose work raised an error may be tried again, and on which worker it had better not run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mirrord.control.planning.plan import Key
    from mirrord.dataplane.worker import Worker

LONGEST_SECONDS = 60.0
"""The longest time between two attempts, and how long a session must have run for its errors to be forgotten."""


class _Failed(NamedTuple):
    times: int
    at: float
    worker: Worker


class Restarts:
    """The first error has a session begin anew at once, each one after that twice as late, from two seconds on."""

    def __init__(self) -> None:
        self._failed: dict[Key, _Failed] = {}

    def note(self, key: Key, worker: Worker) -> None:
        """The session's work raised an error, on this worker."""
        now, last = time.monotonic(), self._failed.get(key)
        again = last is not None and now - last.at < 2 * LONGEST_SECONDS
        self._failed[key] = _Failed(last.times + 1 if last is not None and again else 0, now, worker)

    def due(self, key: Key) -> bool:
        """Whether it may be begun."""
        failed = self._failed.get(key)
        if failed is None or failed.times == 0:
            return True
        return time.monotonic() - failed.at >= min(2.0**failed.times, LONGEST_SECONDS)

    def apart(self, key: Key) -> list[Worker]:
        """The worker that it failed on last."""
        failed = self._failed.get(key)
        return [failed.worker] if failed else []

    def forget(self, known: set[Key]) -> None:
        """Keep what concerns these sessions only."""
        self._failed = {key: failed for key, failed in self._failed.items() if key in known}
