"""How busy a source is, and which way of capturing fits: a plain socket or a ring.

A plain socket costs nothing while idle and hands a lone frame over at once, but a microsecond of the reader's time for
each frame. A ring costs a timer while idle and up to 8 ms of waiting, and hardly anything for each frame; but it
has a super-frame's payload copied on the sender's own processor, a plain socket on the reader's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirrord.dataplane.counters import Seen

BUSY, QUIET = 20_000, 10_000
"""Frames a second from which a ring is worth it, and below which it is not."""

SMALL, LARGE = 8 << 10, 16 << 10
"""Bytes of the mean frame: below the first a source is fit for a ring, from the second on it is bulk TCP."""

LOOK_SECONDS = {"socket": 0.02, "ring": 1.0}
"""How long frames are counted for one judgement: a socket's buffer fills fast, to leave a ring there is time."""

LEAST_SECONDS = 1e-6
"""What a clock may not tell from nothing."""

QUIET_SECONDS = 5.0
"""How long a source must be quiet, or send bulk TCP, before it leaves its ring."""


@dataclass(slots=True)
class _Look:
    time: float
    frames: int
    read: int
    read_bytes: int


def calls_for_ring(rate: float, size: float) -> bool:
    """Whether a source of so many frames a second, of so many bytes on average, is worth a ring."""
    return rate >= BUSY and size < SMALL


class Load:
    """Judges one source by what its capture has counted. Times are monotonic, in seconds."""

    def __init__(self, seen: Seen, now: float) -> None:
        self._seen = seen
        self._last = self._look(now)
        self._busy_at = now

    def fitting(self, mode: str, now: float) -> str:
        """The mode of capture that fits now, where `mode` is in use."""
        last = self._last
        if now - last.time < LOOK_SECONDS[mode] and not (mode == "socket" and self._outran(last)):
            return mode
        elapsed = max(now - last.time, LEAST_SECONDS)
        self._last = self._look(now)
        rate = (self._last.frames - last.frames) / elapsed
        size = (self._last.read_bytes - last.read_bytes) / max(self._last.read - last.read, 1)
        if mode == "socket":
            return "ring" if calls_for_ring(rate, size) else mode
        if rate >= QUIET and size < LARGE:
            self._busy_at = now
        return "socket" if now - self._busy_at >= QUIET_SECONDS else mode

    def _outran(self, last: _Look) -> bool:
        """Whether so many frames came already that it is busy whatever follows: its buffer may not last so long."""
        return self._seen.taken - last.frames >= BUSY * LOOK_SECONDS["socket"]

    def moved(self, now: float) -> None:
        """Begin anew: the source is captured in the other mode."""
        self._last, self._busy_at = self._look(now), now

    def _look(self, now: float) -> _Look:
        seen = self._seen
        return _Look(time=now, frames=seen.taken, read=seen.read, read_bytes=seen.read_bytes)
