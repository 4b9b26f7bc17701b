"""A source that is captured: its packet socket or the end of a tunnel, on its way from mode to mode, and what it has
counted. Which pipelines get its frames is told in sharing.py and tap.py.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from mirrord.dataplane.capture.mode_switch import ModeSwitch
from mirrord.dataplane.capture.packet_socket import BLOCK_SIZE
from mirrord.dataplane.counters import Seen
from mirrord.dataplane.native import core
from mirrord.dataplane.peak import Peak

if TYPE_CHECKING:
    from mirrord.dataplane.capture.numbers import Numbers
    from mirrord.dataplane.capture.way_in import WayIn


class Source:
    """An open source. `failure` says why no frames come ("" while they may).

    A capture that may move begins as it is given.
    """

    def __init__(self, capture: WayIn, *, native: bool) -> None:
        self.capture = capture
        self.failure = ""
        self.seen = Seen()
        self._ring_fill = Peak()
        self._closed, self._closing = False, threading.Lock()
        movable = capture.movable()
        self.mode_switch = None if movable is None else ModeSwitch(movable, self.seen)
        self.native: core.Tap | None = None
        self.numbers: Numbers | core.Numbers | None = capture.numbers
        if native:
            self.numbers = None if capture.numbers is None else core.Numbers()
            self.native = core.Tap(
                descriptor=capture.fileno(),
                ring=capture.ring,
                block_size=BLOCK_SIZE,
                seen=self.seen.row,
                numbers=self.numbers,
                sender=capture.sender,
                **capture.kind._asdict(),
            )

    def note_error(self) -> None:
        """Ask the capture what is wrong with it."""
        self._see_error(self.capture.error())

    def _see_error(self, error: int) -> None:
        if error:
            self.failure = os.strerror(error)

    def drained(self) -> bool:
        """Whether every frame that was taken has been read, and so is accounted for."""
        return self.capture.drained(self.seen)

    @property
    def mode(self) -> str:
        """How frames are captured now: "ring" or "socket"."""
        return self.capture.mode

    @property
    def fills_tx_rings(self) -> bool:
        """Whether enough of its copies leave by each way for a TX ring to pay."""
        return self.mode == "ring"

    @property
    def ring_size(self) -> int:
        """Bytes of its ring; 0 without one."""
        return self.capture.block_count * BLOCK_SIZE if self.mode == "ring" else 0

    @property
    def ring_fill(self) -> float | None:
        """The largest share of the ring's blocks that waited lately when it was their turn; None without a ring."""
        if self.mode != "ring":
            return None
        lately = 0.0 if self.native is None else self.native.most_waiting(False) / self.capture.block_count
        return max(self._ring_fill.last(time.monotonic()), lately)

    @property
    def captures_by(self) -> str:
        """Which way of capturing is in use, where the plan leaves it open or cannot be had as it is; else ""."""
        short = self.short_ring
        words = "" if self.mode_switch is None else str(self.mode_switch)
        return f"{words or 'ring'}, {short}" if short else words

    @property
    def short_ring(self) -> str:
        """How much of the ring could be had, where not all of it could; else ""."""
        return self.capture.short_ring

    def _reject_all(self) -> None:
        self.capture.reject_all()
        if self._successor is not None:
            self._successor.reject_all()

    @property
    def _successor(self) -> WayIn | None:
        return None if self.mode_switch is None else self.mode_switch.successor

    def take_unread(self) -> int:
        """What was thrown away when it was closed, and is not counted: once."""
        return self.capture.take_unread()

    @property
    def exclusive(self) -> bool:
        """Whether it holds what can be held only once: an address that is listened at."""
        return self.capture.exclusive

    def close(self) -> None:
        """Close the source. The caller closes its members, if it has any."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        if self.native is not None:
            # it holds on to the ring, and others may on to it
            self.native.move(descriptor=-1, ring=None, block_size=BLOCK_SIZE)
            self.native = None
        self.capture.close()
        if self._successor is not None:
            self._successor.close()
