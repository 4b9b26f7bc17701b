"""What the data plane's tables may take together."""

from __future__ import annotations

from threading import Lock


class Memory:
    """A bound in bytes, 0 for none, on what several ask for, on any thread."""

    def __init__(self, limit: int = 0) -> None:
        self._limit, self._taken = limit, 0
        self._lock = Lock()

    def take(self, size: int) -> bool:
        """Take so much, if there is so much left."""
        with self._lock:
            if self._limit and self._taken + size > self._limit:
                return False
            self._taken += size
            return True

    def give_back(self, size: int) -> None:
        """So much of what was taken is not used any more."""
        with self._lock:
            self._taken -= size


class Share:
    """What one user has of it."""

    def __init__(self, memory: Memory) -> None:
        self._memory, self._held = memory, 0
        self.short = False
        """Whether it has not what it wants."""

    def want(self, size: int) -> bool:
        """Hold so much from now on; where that cannot be had, nothing."""
        if size != self._held or self.short:
            self._memory.give_back(self._held)
            self.short = not self._memory.take(size)
            self._held = 0 if self.short else size
        return not self.short
