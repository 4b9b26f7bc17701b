"""The threads that run taps: what a worker is told, and how pipelines leave it.

A worker is a thread that waits for all of its taps at once and runs those that have frames, see loop.py. What it is
told (a tap to add, a pipeline to join one or to leave it) it does itself, between two rounds.

To take a pipeline out is to take no more frames for it first, then to forward what was already captured, then to close:
nothing is lost uncounted. The last one of a tap takes the tap along. To open and to close a capture takes the kernel
milliseconds, so a second thread, the worker's helper, does it while frames go on; many that end at once are closed by
as many threads, see closers.py.
"""

from __future__ import annotations

import errno
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from mirrord.dataplane.closers import Closers
from mirrord.dataplane.loop import Failure, Loop, reason
from mirrord.dataplane.moves import Moves
from mirrord.dataplane.native import foresee
from mirrord.dataplane.rounds import LATENCY_SECONDS
from mirrord.dataplane.tap import tap_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mirrord.dataplane.budget import Budget
    from mirrord.dataplane.forward.own_copies import Guards
    from mirrord.dataplane.pipeline import Pipeline
    from mirrord.dataplane.tap import Tap
    from mirrord.plans import PipelinePlan

__all__ = ["ANSWER_SECONDS", "DRAIN_SECONDS", "Failure", "Worker"]

DRAIN_SECONDS = 0.5
"""How long a pipeline that is taken out may go on with what was captured for it."""

LOOK_SECONDS = 0.05
"""How often a thread that waits for a worker looks whether the worker is still there."""

ANSWER_SECONDS = 1.0
"""How long a worker may take for what it is told before it counts as stuck in the kernel: a disk may not answer."""

BETWEEN = 4
"""How many pipelines get another plan, which may open sockets, before frames have their turn."""

JOIN_SECONDS = 5.0
"""How long `join` waits for a worker. The pipeline joins later all the same, if the worker ever gets to it."""


class Worker(Loop):
    """A thread that runs taps. `lost` is how many frames taps that have ended had lost, by source. Raises as Loop."""

    def __init__(
        self, name: str, nice: int = 0, latency: float = LATENCY_SECONDS, budget: Budget | None = None
    ) -> None:
        super().__init__(name, nice, latency, budget)
        self.lost: dict[str, int] = {}
        self._draining: dict[Pipeline, tuple[float, threading.Event]] = {}
        self._moves = Moves(self)
        self._closers = Closers(f"{name}-closer")

    @property
    def pipelines(self) -> list[Pipeline]:
        """All that its taps have."""
        return [pipeline for tap in list(self.taps) for pipeline in tap.pipelines]

    # --- on any thread ---

    def add(self, tap: Tap) -> None:
        """Run this tap from now on."""
        self.order(lambda: self.add_tap(tap))

    def join(self, tap: Tap, pipelines: Sequence[Pipeline]) -> None:
        """Give frames of a running tap to these pipelines. Returns when they join or fail; `failure` then says why."""
        done, begun = threading.Event(), time.monotonic()
        tap.foresee(joining=pipelines)
        self.order(lambda: self._join(tap, pipelines, done))
        while not done.wait(LOOK_SECONDS):
            if self.ended or time.monotonic() - begun > JOIN_SECONDS:
                for pipeline in pipelines:
                    pipeline.failure = "its worker makes no progress"
                return

    def replace(self, plans: Mapping[Pipeline, PipelinePlan]) -> None:
        """Give pipelines other plans, which they follow soon."""
        for pipeline, plan in plans.items():
            if (tap := tap_of(pipeline)) is not None and plan.capture.selection != pipeline.selection:
                tap.foresee(changed={pipeline: plan.capture.selection})
            foresee(plan.forward)
        self.order(lambda: self._replace_all(plans))

    def guard(self, guards: Guards) -> threading.Event:
        """Have all pipelines skip what these tell: soon, when what it gives is set."""
        done = threading.Event()

        def order() -> None:
            self._guard(guards)
            done.set()

        self.order(order)
        return done

    def remove(self, *pipelines: Pipeline, seconds: float | None = None) -> bool:
        """Take no more for these, forward what was captured, close. Returns when that is done, within a second.

        Or when everything is counted, where nobody else can want what is still to be closed. False when the worker did
        not get to it within so many seconds: it does if it ever comes back. None: wait as long as it takes.
        """
        return self.begin_to_remove(pipelines, seconds)()

    def begin_to_remove(self, pipelines: Sequence[Pipeline], seconds: float | None = None) -> Callable[[], bool]:
        """As `remove`, but returns at once: what it gives waits, so that several workers' can be removed together."""
        done, begun = {pipeline: threading.Event() for pipeline in pipelines}, time.monotonic()
        for tap in {tap for pipeline in pipelines if (tap := tap_of(pipeline)) is not None}:
            tap.foresee(leaving=done)
        self.order(lambda: self._drain(done))

        def wait() -> bool:
            for pipeline, event in done.items():
                while not event.wait(LOOK_SECONDS):
                    if self.ended:
                        self.helper.join(ANSWER_SECONDS)
                        self._closers.join(ANSWER_SECONDS)
                        if not event.is_set():
                            self._end(pipeline)
                        break
                    if seconds is not None and time.monotonic() - begun > seconds:
                        return False
            return True

        return wait

    def stop(self, seconds: float | None = None) -> bool:
        """Remove every pipeline and end the thread; False if it is still there after so many seconds."""
        removed = self.remove(*self.pipelines, seconds=seconds)
        self.leave()
        if not removed:
            return False
        self._thread.join(seconds)
        self.helper.join(ANSWER_SECONDS)
        self._closers.join(ANSWER_SECONDS)
        return self.ended

    def spread(self, tap: Tap) -> None:
        """Have each device of a tap that is on all go on with a capture of its own, where it may: one by one, soon."""
        self.order(lambda: setattr(tap, "spreads", True))

    def halve(self, tap: Tap) -> None:
        """Have every second device of a tap that is on all go on with another capture, where it may: soon."""
        self.order(lambda: setattr(tap, "halves", True))

    def hand_over(self, tap: Tap, to: Worker) -> bool:
        """Have another worker run this tap from now on; its frames wait meanwhile. False where its capture is about to
        change, a session leaves it, or the worker does not get to it within a second.

        What shares a way out, or what was copied, with another tap of this worker has to stay.
        """
        done, answered = threading.Event(), threading.Lock()
        outcome = [False]

        def order() -> None:
            with answered:  # once: who asked may have given it up
                if not done.is_set():
                    outcome[0] = self._hand_over(tap, to)
                    done.set()

        self.order(order)
        done.wait(ANSWER_SECONDS)
        with answered:
            done.set()
        return outcome[0]

    # --- by the thread ---

    def pressing(self) -> bool:
        return bool(self._draining or self.changing or self._moves.pressing)

    def finish(self) -> None:
        self._moves.finish()
        self._finish_drained()
        for tap in list(self.changing):
            self.attempt(tap, partial(tap.tend, time.monotonic()))
            if tap in self.broken or not tap.changing:
                self.changing.discard(tap)
                if tap.spreads and tap not in self.broken:
                    self.ran(tap)  # the next one parts, though no frame may come

    def ran(self, tap: Tap) -> None:
        self._moves.begin(tap, self._draining)

    def end(self, tap: Tap) -> None:
        self._forget(tap)
        self.helper.submit(tap.close, lambda _: None)

    def broke(self, tap: Tap) -> None:
        self._moves.broke(tap)

    def _may_end(self) -> bool:
        return super()._may_end() and not self._draining

    def _hand_over(self, tap: Tap, to: Worker) -> bool:
        leaves = any(pipeline in self._draining for pipeline in tap.pipelines)
        if tap not in self.taps or tap in self.broken or self._moves.under_way(tap) or leaves:
            return False
        self.unregister(tap)
        to.taps.append(tap)  # first, so that who sums up all taps does not miss it
        self.taps.remove(tap)
        changing = tap in self.changing
        self.changing.discard(tap)
        to.order(lambda: to.take_over(tap, changing=changing))
        return True

    def take_over(self, tap: Tap, *, changing: bool) -> None:
        """Run a tap of another worker, which is in `taps` already. By the thread."""
        self.attempt(tap, lambda: self.register(tap))
        if changing:
            self.changing.add(tap)

    def _join(self, tap: Tap, pipelines: Sequence[Pipeline], done: threading.Event) -> None:
        if self._moves.postpone(tap, lambda: self._join(tap, pipelines, done)):
            return
        try:
            if tap in self.broken or tap not in self.taps:
                raise OSError(errno.EAGAIN, "its source has just ended: it is tried again")
            tap.join(pipelines)
        except OSError as error:
            for pipeline in pipelines:
                pipeline.failure = reason(error)
        except Exception as error:  # noqa: BLE001 (of any kind; see fail)
            self.fail(tap, error)
        else:
            self.changing.add(tap)
            if tap.mode == "ring":
                self._moves.give_rings(pipelines)
        finally:
            done.set()

    def _replace_all(self, plans: Mapping[Pipeline, PipelinePlan]) -> None:
        for number, (pipeline, plan) in enumerate(plans.items(), 1):
            self._replace(pipeline, plan)
            if number % BETWEEN == 0:  # hundreds take longer than rings are for
                self.serve(0, lagging=True)

    def _replace(self, pipeline: Pipeline, plan: PipelinePlan) -> None:
        tap = tap_of(pipeline)
        if tap is None or pipeline not in tap.pipelines:
            return
        if self._moves.postpone(tap, lambda: self._replace(pipeline, plan)):
            return

        def work() -> None:
            try:
                tap.replace(pipeline, plan)
            except OSError as error:
                pipeline.failure = reason(error)
            self.changing.add(tap)

        self.attempt(tap, work)

    def _guard(self, guards: Guards) -> None:
        for tap in list(self.taps):
            self.attempt(tap, partial(tap.guard, guards))

    def _drain(self, done: dict[Pipeline, threading.Event]) -> None:
        deadline = time.monotonic() + DRAIN_SECONDS
        leaving: dict[Tap, list[Pipeline]] = {}
        members = {tap: set(tap.pipelines) for tap in self.taps}
        for pipeline, event in done.items():
            tap = tap_of(pipeline)
            if tap is None or pipeline not in members.get(tap, ()):  # it could not join
                self._dispose(None, pipeline, event)
            elif not self._moves.postpone(tap, partial(self._drain, {pipeline: event})):
                leaving.setdefault(tap, []).append(pipeline)
                self._draining[pipeline] = deadline, event
        for tap, pipelines in leaving.items():
            self.attempt(tap, partial(tap.leave, pipelines))
            self.changing.add(tap)

    # --- the end of a pipeline ---

    def _finish_drained(self) -> None:
        draining: dict[Tap, list[Pipeline]] = {}
        for pipeline in self._draining:
            tap = tap_of(pipeline)
            assert tap is not None  # it has joined one
            draining.setdefault(tap, []).append(pipeline)
        finished = {tap: there for tap, pipelines in draining.items() if (there := self._finished(tap, pipelines))}
        for tap, pipelines in finished.items():
            last = len(pipelines) == len(tap.pipelines)
            if last and self._moves.awaited(tap):
                continue
            with suppress(Exception):  # of a broken one; they have ceased to be members all the same
                tap.drop(pipelines)
            if last:
                self._forget(tap)
            for pipeline in pipelines:
                _, done = self._draining.pop(pipeline)
                if not pipeline.exclusive and not tap.exclusive:
                    done.set()  # to close two packet sockets takes the kernel 30 ms
                self._dispose(tap if last else None, pipeline, done)

    def _finished(self, tap: Tap, pipelines: Sequence[Pipeline]) -> list[Pipeline]:
        """Those of a tap's that drain for which there is nothing more to wait."""
        if tap not in self.broken:
            try:
                left = set(tap.have_left(pipelines))
            except Exception as error:  # noqa: BLE001 (of any kind; see fail)
                self.fail(tap, error)
            else:
                return [one for one in pipelines if one in left or self.progress >= self._draining[one][0]]
        return list(pipelines)

    def _forget(self, tap: Tap) -> None:
        self._moves.forget(tap)
        self.changing.discard(tap)
        self.broken.discard(tap)
        self.unregister(tap)
        self.lost = {**self.lost, tap.source: self.lost.get(tap.source, 0) + tap.lost}
        self.taps.remove(tap)

    def _dispose(self, tap: Tap | None, pipeline: Pipeline, done: threading.Event) -> None:
        close = partial(_close, tap, pipeline, done)
        waits = tap is not None or not pipeline.transmit.closes_at_once
        self.helper.submit(partial(self._closers.submit, close) if waits else close, lambda _: None)

    def _end(self, pipeline: Pipeline) -> None:
        """Close it here: the worker's thread has ended."""
        tap = tap_of(pipeline)
        if tap is not None and pipeline in tap.pipelines:
            last = len(tap.pipelines) == 1
            for step in (partial(tap.leave, [pipeline]), partial(tap.drop, [pipeline])):
                with suppress(Exception):
                    step()
            if last:
                self.lost = {**self.lost, tap.source: self.lost.get(tap.source, 0) + tap.lost}
                with suppress(ValueError):
                    self.taps.remove(tap)
                with suppress(Exception):
                    tap.close()
        with suppress(Exception):
            pipeline.close()


def _close(tap: Tap | None, pipeline: Pipeline, done: threading.Event) -> None:
    """Close them, count what was left unread, and say that it is done."""
    if tap is not None:
        with suppress(Exception):
            tap.close()
            pipeline.lose(tap.take_unread())
    with suppress(Exception):
        pipeline.close()
    done.set()
