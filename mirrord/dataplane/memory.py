"""What the data plane's rings, tables and recorders may take together."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from threading import Lock

WHY_NOT = "daemon.memory_limit, or a quarter of what the host has available"
"""What a refusal names."""
_AVAILABLE = re.compile(r"^MemAvailable: +(\d+) kB$", re.MULTILINE)


class Memory:
    """A bound in bytes, 0 for none, on what several ask for, on any thread. Whatever the bound, none of them gets more
    than a quarter of what the host has available: where it has not enough, the kernel kills whom it likes for a ring.
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit, self.taken = limit, 0
        """The bound may change: what is taken already stays."""
        self._lock = Lock()

    def take(self, size: int) -> bool:
        """Take so much, if there is so much left."""
        with self._lock:
            if (self.limit and self.taken + size > self.limit) or size > _available() // 4:
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


def _available() -> int:
    """Bytes that the kernel could give without swapping (proc_meminfo(5)); more than any where it does not tell."""
    try:
        told = _AVAILABLE.search(Path("/proc/meminfo").read_text())
    except OSError:  # no descriptor is left, or there is no /proc
        told = None
    return int(told[1]) << 10 if told else sys.maxsize
