"""A capture that moves between a plain socket and a ring ("auto") while frames come.

The successor is opened aside and gets every frame from then on. The capture is forwarded to its end, while the
successor holds what comes meanwhile; then the successor takes its place. So each frame is in one of the two, in order.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mirrord.dataplane.capture.load import Load

if TYPE_CHECKING:
    from mirrord.dataplane.capture.way_in import MovableWayIn
    from mirrord.dataplane.counters import Seen

RETRY_SECONDS = 10.0
"""How long after a failure a capture is tried to be moved again."""


class ModeSwitch:
    """One capture on its way from mode to mode. As text, which mode is in use, and why it cannot be left."""

    def __init__(self, capture: MovableWayIn, seen: Seen) -> None:
        self.successor: MovableWayIn | None = None
        self._capture = capture
        self._trouble = ""
        self._stays_until = 0.0
        self._load = Load(seen, time.monotonic())

    def __str__(self) -> str:
        return f"auto ({self._capture.mode}{f', cannot move: {self._trouble}' if self._trouble else ''})"

    def wanted(self, now: float) -> str:
        """The mode of capture that it is to move to; "" to stay. `now` is monotonic."""
        if self.successor is not None or now < self._stays_until:
            return ""
        mode = self._load.fitting(self._capture.mode, now)
        return "" if mode == self._capture.mode else mode

    def prepare(self, mode: str) -> MovableWayIn:
        """Open the capture to move to, which gets all frames from now on. OSError; takes long: not for the worker."""
        return self._capture.successor(mode)

    def expect(self, successor: MovableWayIn) -> None:
        """The capture gets no more frames, this one does. OSError when it cannot take what the other was told."""
        self.successor = successor
        successor.succeed(self._capture)

    def stay(self, reason: str) -> None:
        """The capture could not be moved."""
        self._trouble, self._stays_until = reason, time.monotonic() + RETRY_SECONDS

    def succeed(self) -> MovableWayIn:
        """The successor, which is the capture from now on: the one before it was read to its end."""
        assert self.successor is not None  # expected
        self._capture, self.successor = self.successor, None
        self._trouble = ""
        self._load.moved(time.monotonic())
        return self._capture
