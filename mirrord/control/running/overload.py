"""How many times fewer conversations a session with `overload = "flows"` mirrors for its destination's link.

What a limit or the ring tells, the data plane acts on itself, see dataplane/forward/overload.py; how busy a link is,
only the control plane sees, every second.
"""

from __future__ import annotations

from mirrord.dataplane.forward.overload import MOST

LEAST_SECONDS, LONGEST_SECONDS = 5.0, 60.0
"""How long a level lasts at least: twice as long each time that it had to rise again soon."""

SOON_SECONDS = 60.0


class LinkLevel:
    """One in two to the `level`. It rises each time that the link is too busy, and falls by one after a while."""

    def __init__(self) -> None:
        self.level = 0
        self._changed_at = 0.0
        self._fell_at: float | None = None  # None: it rose since
        self._hold = LEAST_SECONDS

    def look(self, now: float, *, busy: bool, room: bool) -> int:
        """The level, where the link is too `busy` now, or has `room`. Times are monotonic, in seconds."""
        if busy and self.level < MOST:
            if self._fell_at is not None:
                again = now - self._fell_at < SOON_SECONDS
                self._hold = min(2 * self._hold, LONGEST_SECONDS) if again else LEAST_SECONDS
            self.level, self._changed_at, self._fell_at = self.level + 1, now, None
        elif room and self.level and now - self._changed_at >= self._hold:
            self.level, self._changed_at, self._fell_at = self.level - 1, now, now
        return self.level
