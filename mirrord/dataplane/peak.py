"""The highest value seen lately, for a reader that looks from time to time and must not miss what came between.

It fades with time and not by being read: several readers see the same.
"""

from __future__ import annotations

WINDOW_SECONDS = 15


class Peak:
    """Tells the highest value of the last 15 to 30 seconds. One writer, any number of readers; times are monotonic."""

    def __init__(self) -> None:
        self._now = (0, 0.0, 0.0)  # a window's number, its peak, and that of the window before; changed as one

    def see(self, value: float, now: float) -> None:
        self._now = (int(now // WINDOW_SECONDS), max(value, self._since(0, now)), self._since(1, now))

    def last(self, now: float) -> float:
        """0 when nothing was seen."""
        return max(self._since(0, now), self._since(1, now))

    def _since(self, windows: int, now: float) -> float:
        """The peak of so many windows ago; of this one, so far."""
        number, *peaks = self._now
        place = number - int(now // WINDOW_SECONDS) + windows
        return peaks[place] if 0 <= place < len(peaks) else 0.0
