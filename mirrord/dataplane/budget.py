"""How much processor time all workers together may take, and how it is kept: a worker that has none left rests.

While it rests, nothing is read. The kernel holds what a source's ring or socket has room for, and counts the rest: to
the sender that costs less than a frame that is captured. When the budget has filled again, the worker goes on with what
waits. So the bound holds for either data plane, whatever comes, and no frame is lost uncounted.

A worker's time is its thread's own, as the kernel measures it (CLOCK_THREAD_CPUTIME_ID, clock_gettime(2)). What others
do on the workers' behalf (frames captured by the sender's own processor, captures opened and closed) is not in it.
"""

from __future__ import annotations

import time
from threading import Lock

DEPTH_SECONDS = 0.1
"""So long may workers take what they like after a quiet moment, by the limit's rate."""

WORTHWHILE_SECONDS = 0.002
"""A rest is long enough to have so much to spend after it, or a tenth of a second: to wake up is not free either."""


class Budget:
    """A bound in processors, 0 for none, which may be changed at any time. On any thread.

    `used` is what was spent, `rested` how long workers rested, all together; in seconds.
    """

    def __init__(self, limit: float = 0.0) -> None:
        self.limit = limit
        self.used = self.rested = 0.0
        self._level = 0.0  # in quiet: the seconds' worth that may be spent at once
        self._at = time.monotonic() - DEPTH_SECONDS
        self._lock = Lock()

    def spend(self, seconds: float) -> float:
        """Take so much. How many seconds the worker is to rest now; 0.0 where it may go on."""
        now = time.monotonic()
        with self._lock:
            self.used += seconds
            limit = self.limit
            if not limit:
                self._level, self._at = 0.0, now - DEPTH_SECONDS
                return 0.0
            depth = max(DEPTH_SECONDS * limit, WORTHWHILE_SECONDS)
            self._level = min(self._level + (now - self._at) * limit, depth) - seconds
            self._at = now
            short = min(WORTHWHILE_SECONDS, DEPTH_SECONDS * limit) - self._level
            return 0.0 if self._level >= 0 else short / limit

    def note_rest(self, seconds: float) -> None:
        """A worker has rested so long."""
        with self._lock:
            self.rested += seconds
