"""A source that is captured: its packet socket or the end of a tunnel, on its way from mode to mode, and what it has
counted. Who gets its frames is not its concern, see tap.py.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from mirrord.dataplane.capture.listener import Listener
from mirrord.dataplane.capture.mode_switch import ModeSwitch
from mirrord.dataplane.capture.packet_socket import BLOCK_SIZE, Capture
from mirrord.dataplane.counters import Seen
from mirrord.dataplane.native import core
from mirrord.dataplane.peak import Peak
from mirrord.plans import CapturePlan, ListenPlan

if TYPE_CHECKING:
    from mirrord.dataplane.capture.fanout import Group
    from mirrord.dataplane.filter.rules import Selection


class Source:
    """An open source. `failure` says why no frames come ("" while they may).

    A capture that may move begins as it is given.
    """

    def __init__(self, capture: Capture | Listener, *, native: bool) -> None:
        self.capture = capture
        self.failure = ""
        self.seen = Seen()
        self._ring_fill = Peak()
        self._closed, self._closing = False, threading.Lock()
        self.mode_switch: ModeSwitch | None = None
        if isinstance(capture, Capture) and capture.plan.mode == "auto":
            self.mode_switch = ModeSwitch(capture, self.seen)
        self.native: core.Tap | None = None
        if native:
            tunnel, ip_header, raw = _kind(capture)
            self.native = core.Tap(
                descriptor=capture.fileno(),
                ring=capture.ring,
                block_size=BLOCK_SIZE,
                seen=self.seen.row,
                tunnel=tunnel,
                ip_header=ip_header,
                raw=raw,
            )

    def note_error(self) -> None:
        """Ask the capture what is wrong with it."""
        self._see_error(self.capture.error())

    def _see_error(self, error: int) -> None:
        if error:
            self.failure = os.strerror(error)

    def drained(self) -> bool:
        """Whether every frame that was taken has been read, and so is accounted for."""
        return not self.capture.waiting() if isinstance(self.capture, Listener) else self.seen.waiting == 0

    @property
    def mode(self) -> str:
        """How frames are captured now: "ring" or "socket"."""
        return "socket" if self._in_ring is None else "ring"

    @property
    def _in_ring(self) -> Capture | None:
        capture = self.capture
        return capture if isinstance(capture, Capture) and capture.mode == "ring" else None

    @property
    def ring_fill(self) -> float | None:
        """The largest share of the ring's blocks that waited lately when it was their turn; None without a ring."""
        capture, native = self._in_ring, self.native
        if capture is None:
            return None
        lately = 0.0 if native is None else native.most_waiting(False) / capture.block_count
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
        ring = self._in_ring
        if ring is None or not ring.shortened:
            return ""
        return f"of {ring.block_count * BLOCK_SIZE >> 10} KiB: no memory for {ring.plan.ring_size >> 10} KiB"

    def _reject_all(self) -> None:
        self.capture.reject_all()
        if self._successor is not None:
            self._successor.reject_all()

    @property
    def _successor(self) -> Capture | None:
        return None if self.mode_switch is None else self.mode_switch.successor

    def take_unread(self) -> int:
        """What was thrown away when it was closed, and is not counted: once."""
        if not isinstance(self.capture, Listener):
            return 0
        unread, self.capture.unread = self.capture.unread, 0
        return unread

    @property
    def exclusive(self) -> bool:
        """Whether it holds what can be held only once: an address that is listened at."""
        return isinstance(self.capture, Listener)

    def close(self) -> None:
        """Let go of the source. Its members, if it has any, are the caller's to close."""
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


def open_source(
    plan: CapturePlan | ListenPlan, selections: tuple[Selection, ...], group: Group | None, *, busy: bool
) -> Capture | Listener:
    """Open what a plan says, for what any of the selections wants; by a ring, if that is open and it is `busy`."""
    if isinstance(plan, ListenPlan):
        return Listener(plan)
    return Capture(plan, selections, mode="ring" if busy and plan.mode == "auto" else "", group=group)


def _kind(capture: Capture | Listener) -> tuple[int, bool, bool]:
    """For the native core: the tunnel, 0 for none, and whether its packets begin with an IP header; or whether those of
    a device have no Ethernet header.
    """
    if isinstance(capture, Listener):
        return capture.plan.tunnel, capture.plan.local.version == 4, False
    return 0, False, capture.plan.raw
