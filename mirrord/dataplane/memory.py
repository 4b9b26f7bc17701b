"""What the data plane's rings, tables and recorders may take together."""

from __future__ import annotations

from threading import Lock


class Memory:
    """A bound in bytes, 0 for none, on what several ask for, on any thread."""

    def __init__(self, limit: int = 0) -> None:
        self.limit, self.taken = limit, 0
        """The bound may change: what is taken already stays."""
        self._lock = Lock()

    def take(self, size: int) -> bool:
        """Take so much, if there is so much left."""
        with self._lock:
            if self.limit and self.taken + size > self.limit:
                return False
            self.taken += size
            return True

    def give_back(self, size: int) -> None:
        """So much of what was taken is not used any more."""
        with self._lock:
            self.taken -= size


class Share:
    """What one user has of it."""

    def __init__(self, memory: Memory) -> None:
        self._memory, self.held = memory, 0
        self.short = False
        """Whether it has not what it wants."""

    def want(self, size: int) -> bool:
        """Hold so much from now on; where that cannot be had, nothing."""
        if size != self.held or self.short:
            self._memory.give_back(self.held)
            self.short = not self._memory.take(size)
            self.held = 0 if self.short else size
        return not self.short
