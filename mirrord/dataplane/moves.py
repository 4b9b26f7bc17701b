"""Captures that change while frames come: from mode to mode, or in two where members of a tap part.

Each change takes several steps. The other capture is opened by the worker's helper, since that takes the kernel
milliseconds; then frames go on by both until what the first one holds has been read; then the first one gives way.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from mirrord.dataplane.loop import Failure, reason
from mirrord.dataplane.membership import one_a_way
from mirrord.dataplane.tap import Tap, tap_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from mirrord.dataplane.capture.mode_switch import ModeSwitch
    from mirrord.dataplane.capture.way_in import MovableWayIn, WayIn
    from mirrord.dataplane.loop import Loop
    from mirrord.dataplane.parting import Aside
    from mirrord.dataplane.pipeline import Pipeline
    from mirrord.dataplane.transmit.tx_ring import TxRings


class Moves:
    """The changes of one worker's captures. By the worker's thread, all of it."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._awaited: set[Tap] = set()  # another capture is being opened for it
        self._succeeding: set[Tap] = set()  # it is there; their capture is read to its end
        self._parting: dict[Tap, Aside] = {}  # some of its members go on with a capture of their own
        self._postponed: dict[Tap, list[Callable[[], None]]] = {}  # orders about one that parts

    @property
    def pressing(self) -> bool:
        """Whether a change takes its next step soon."""
        return bool(self._succeeding or self._parting)

    def postpone(self, tap: Tap, order: Callable[[], None]) -> bool:
        """Whether the tap is at something that the order has to wait for; then it is given later."""
        if tap in self._parting:
            self._postponed.setdefault(tap, []).append(order)
            return True
        return False

    def awaited(self, tap: Tap) -> bool:
        """Whether a capture is being opened for the tap, which may not be closed meanwhile."""
        return tap in self._awaited

    def under_way(self, tap: Tap) -> bool:
        """Whether its capture is about to change, or does."""
        return tap in self._awaited or tap in self._succeeding or tap in self._parting

    def begin(self, tap: Tap, leaving: Collection[Pipeline]) -> None:
        """Begin to move its capture, or to part its members, if it is time. Not while some of them leave."""
        settled = tap not in self._awaited and tap not in self._parting
        if not settled or (leaving and any(pipeline in leaving for pipeline in tap.pipelines)):
            return
        loop = self._loop
        busy = tap.outgrown(loop.progress)
        if tap.changing:
            loop.changing.add(tap)
        if busy:
            self._awaited.add(tap)
            loop.helper.submit(
                lambda: tap.open_aside(busy), lambda outcome: loop.order(lambda: self._part(tap, outcome))
            )
            return
        mode_switch = tap.mode_switch
        mode = "" if mode_switch is None else mode_switch.wanted(loop.progress)
        if mode_switch is not None and mode:
            self._awaited.add(tap)
            loop.helper.submit(  # after the one that this capture came after was closed
                lambda: mode_switch.prepare(mode),
                lambda outcome: loop.order(lambda: self._moved(tap, mode_switch, outcome)),
            )

    def finish(self) -> None:
        """Take the next step of each change that can."""
        for tap in list(self._succeeding):
            self._loop.attempt(tap, partial(self._succeed, tap))
        for tap in list(self._parting):
            self._loop.attempt(tap, partial(self._finish_parting, tap))

    def broke(self, tap: Tap) -> None:
        """An error put the tap aside: end its changes."""
        self._succeeding.discard(tap)
        if aside := self._parting.pop(tap, None):
            self._close(aside.capture)
        for order in self._postponed.pop(tap, []):
            order()

    def forget(self, tap: Tap) -> None:
        """The tap has ended."""
        self._succeeding.discard(tap)

    # --- from mode to mode ---

    def _moved(self, tap: Tap, mode_switch: ModeSwitch, outcome: MovableWayIn | Exception) -> None:
        self._awaited.discard(tap)
        if isinstance(outcome, Exception):
            mode_switch.stay(reason(outcome))
            return
        if tap in self._loop.broken:
            mode_switch.successor = outcome  # it is counted, and closed, with the tap
            return
        self._succeeding.add(tap)
        try:
            mode_switch.expect(outcome)
        except OSError as error:
            tap.failure = reason(error)

    def _succeed(self, tap: Tap) -> None:
        tap.update()
        if not tap.drained():
            return
        loop = self._loop
        self._succeeding.discard(tap)
        loop.unregister(tap)
        ended = tap.succeed()
        loop.register(tap)
        loop.helper.submit(ended.close, lambda _: loop.order(lambda: self.give_rings(tap.pipelines)))

    # --- in two ---

    def _part(self, tap: Tap, outcome: Aside | Exception) -> None:
        self._awaited.discard(tap)
        if isinstance(outcome, Exception):
            tap.stay_together(reason(outcome))
            return
        parts = False
        if tap in self._loop.taps and tap not in self._loop.broken:
            try:
                parts = tap.part(outcome)
            except Exception as error:  # noqa: BLE001 (of any kind; see Loop.fail)
                self._loop.fail(tap, error)
        if parts:
            self._parting[tap] = outcome
        else:
            self._close(outcome.capture)

    def _finish_parting(self, tap: Tap) -> None:
        if not tap.has_parted(time.monotonic()):
            return
        aside = self._parting.pop(tap)
        try:
            made = Tap(aside.pipelines, native=tap.native is not None, aside=aside)
        except Exception as error:  # noqa: BLE001 (of any kind: they have no source any more)
            for pipeline in aside.pipelines:
                pipeline.failure = reason(error)
                self._loop.failures.put(Failure(pipeline, error))
            return
        if made.everywhere or not tap.everywhere:
            made.source = tap.source
        self._loop.add_tap(made)
        self._loop.changing.add(made)
        if tap.pipelines:
            self._loop.changing.add(tap)
        else:
            self._loop.end(tap)
        if made.mode == "ring":
            self.give_rings(aside.pipelines)
        for order in self._postponed.pop(tap, []):
            order()

    # --- the way out follows ---

    def give_rings(self, pipelines: Iterable[Pipeline]) -> None:
        """Give the pipelines TX rings, one for each way out, where a ring captures their frames."""
        for pipeline in one_a_way(pipelines):
            self._loop.helper.submit(pipeline.new_tx_ring, partial(self._made_ring, pipeline))

    def _made_ring(self, pipeline: Pipeline, outcome: TxRings | Exception | None) -> None:
        """On the helper's thread."""
        self._loop.order(lambda: self._leave_by(pipeline, outcome))

    def _leave_by(self, pipeline: Pipeline, outcome: TxRings | Exception | None) -> None:
        """Without a ring they leave by a socket as well."""
        unused = ring = None if isinstance(outcome, Exception) else outcome
        tap, loop = tap_of(pipeline), self._loop
        if tap is not None and tap in loop.taps and tap not in loop.broken and pipeline in tap.pipelines:
            unused = pipeline.leave_by(ring)
        if unused is not None:
            self._close(unused)

    def _close(self, one: WayIn | TxRings) -> None:
        self._loop.helper.submit(one.close, lambda _: None)
