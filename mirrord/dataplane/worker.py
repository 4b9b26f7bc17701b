"""The threads that run taps.

A worker is a thread that waits for all of its taps at once and runs those that have frames. What it is told (a tap to
add, a pipeline to join one or to leave it) it does itself, between two rounds.

To take a pipeline out is to take no more frames for it first, then to forward what was already captured, then to close:
nothing is lost uncounted. The last one of a tap takes the tap along. To open and to close a capture takes the kernel
milliseconds, so a second thread, the worker's helper, does it while frames go on.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from mirrord.dataplane.rounds import LATENCY_SECONDS, rounds
from mirrord.dataplane.tap import Aside, Tap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirrord.dataplane.capture.listener import Listener
    from mirrord.dataplane.capture.mode_switch import ModeSwitch
    from mirrord.dataplane.capture.packet_socket import Capture
    from mirrord.dataplane.pipeline import Pipeline, PipelinePlan
    from mirrord.dataplane.transmit.tx_ring import TxRing

DRAIN_SECONDS = 0.5
"""How long a pipeline that is taken out may go on with what was captured for it."""

ROUND_SECONDS = 1.0
"""The longest wait of a worker, after which it looks at every tap that may have news."""


class Worker:
    """A thread that runs taps. `progress` is the monotonic time of its last round, for a watchdog."""

    def __init__(self, name: str, nice: int = 0, latency: float = LATENCY_SECONDS) -> None:
        self.taps: list[Tap] = []
        self.progress = time.monotonic()
        self.lost: dict[str, int] = {}  # frames, by source, of taps that have ended
        self._nice = nice
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._rounds = rounds(latency)
        self._rounds.register(self._bell, None)
        self._by_descriptor: dict[int, Tap] = {}
        self._draining: dict[Pipeline, tuple[float, threading.Event]] = {}
        self._changing: set[Tap] = set()  # their members came or went a moment ago
        self._awaited: set[Tap] = set()  # a successor of their capture is being opened
        self._succeeding: set[Tap] = set()  # it is there; their capture is read to its end
        self._parting: dict[Tap, Aside] = {}  # some of its members go on with a capture of their own
        self._postponed: dict[Tap, list[Callable[[], None]]] = {}  # orders about one that parts
        self._helper = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-helper")
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, tap: Tap) -> None:
        """Run this tap from now on."""
        self._order(lambda: self._add(tap))

    def join(self, tap: Tap, pipelines: Sequence[Pipeline]) -> None:
        """Have these pipelines get frames of a tap that runs. Returns when they do, or failed: then each says why."""
        tap.foresee(joining=pipelines)
        done = threading.Event()
        self._order(lambda: self._join(tap, pipelines, done))
        while not done.wait(DRAIN_SECONDS) and self._thread.is_alive():
            pass

    def replace(self, pipeline: Pipeline, plan: PipelinePlan) -> None:
        """Have a pipeline go on by another plan, soon."""
        if pipeline.tap is not None:
            pipeline.tap.foresee(changed={pipeline: plan.capture.selection})
        self._order(lambda: self._replace(pipeline, plan))

    def remove(self, *pipelines: Pipeline) -> None:
        """Take no more for them, forward what was captured, close. Returns when that is done, within a second.

        Or when everything is counted, where nobody else can want what is still to be closed.
        """
        done = {pipeline: threading.Event() for pipeline in pipelines}
        for tap in {pipeline.tap for pipeline in pipelines if pipeline.tap is not None}:
            tap.foresee(leaving=pipelines)
        if done:
            self._order(lambda: self._drain(done))
        for event in done.values():
            while not event.wait(DRAIN_SECONDS) and self._thread.is_alive():
                pass

    def stop(self) -> None:
        """Remove every pipeline and end the thread."""
        self.remove(*(pipeline for tap in list(self.taps) for pipeline in tap.pipelines))
        self._order(self._stop)
        self._thread.join()
        self._helper.shutdown()
        self._rounds.close()
        os.close(self._bell)

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.put(order)
        os.eventfd_write(self._bell, 1)

    def _add(self, tap: Tap) -> None:
        self.taps.append(tap)
        self._register(tap)

    def _later(self, tap: Tap, order: Callable[[], None]) -> bool:
        """Whether the tap is at something that the order has to wait for."""
        if tap in self._parting:
            self._postponed.setdefault(tap, []).append(order)
            return True
        return False

    def _join(self, tap: Tap, pipelines: Sequence[Pipeline], done: threading.Event) -> None:
        if self._later(tap, lambda: self._join(tap, pipelines, done)):
            return
        try:
            tap.join(pipelines)
        except OSError as error:
            for pipeline in pipelines:
                pipeline.fail(error)
        else:
            self._changing.add(tap)
            if tap.mode == "ring":
                self._helper.submit(self._give_rings, pipelines)
        finally:
            done.set()

    def _replace(self, pipeline: Pipeline, plan: PipelinePlan) -> None:
        tap = pipeline.tap
        if tap is None or pipeline not in tap.pipelines or self._later(tap, lambda: self._replace(pipeline, plan)):
            return
        try:
            tap.replace(pipeline, plan)
        except OSError as error:
            pipeline.fail(error)
        self._changing.add(tap)

    def _drain(self, done: dict[Pipeline, threading.Event]) -> None:
        deadline = time.monotonic() + DRAIN_SECONDS
        leaving: dict[Tap, list[Pipeline]] = {}
        for pipeline, event in done.items():
            if pipeline.tap is None or pipeline not in pipeline.tap.pipelines:  # it could not join
                self._helper.submit(self._close, None, pipeline, event)
                continue
            if not self._later(pipeline.tap, partial(self._drain, {pipeline: event})):
                leaving.setdefault(pipeline.tap, []).append(pipeline)
                self._draining[pipeline] = deadline, event
        for tap, pipelines in leaving.items():
            tap.leave(pipelines)
            self._changing.add(tap)

    def _stop(self) -> None:
        self._stopping = True

    def _loop(self) -> None:
        look_at, more = self.progress, False
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # no system call here is to be interrupted
        if self._nice:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._nice)
        while not self._stopping:
            pressing = self._draining or self._succeeding or self._changing or self._parting
            news = self._rounds.wait(0.001 if pressing else ROUND_SECONDS, more)
            now = time.monotonic()
            self.progress, more = now, False
            for descriptor, event, ran in news:
                if descriptor == self._bell:
                    os.eventfd_read(self._bell)
                    continue
                tap = self._by_descriptor[descriptor]
                if event & select.EPOLLERR:
                    tap.update()  # first count what was captured before: what comes after clears the error
                    tap.note_error()
                if ran:
                    tap.ran()
                else:
                    more |= tap.run()
                self._move(tap)
            if now >= look_at:
                look_at = now + ROUND_SECONDS
                self._look_round()
            while not self._orders.empty():
                self._orders.get()()
            if self._succeeding:
                self._finish_succeeding()
            if self._parting:
                self._finish_parting()
            if self._draining:
                self._finish_drained()
            if self._changing:
                self._tend_changing()

    def _look_round(self) -> None:
        for tap in self.taps:
            if not tap.quiet():
                tap.look()
                self._move(tap)

    def _tend_changing(self) -> None:
        for tap in list(self._changing):
            tap.tend(time.monotonic())
            if not tap.changing:
                self._changing.discard(tap)

    def _move(self, tap: Tap) -> None:
        """Begin to move its capture, or to part its members, if that is the time."""
        settled = tap not in self._awaited and tap not in self._parting
        if not settled or any(pipeline in self._draining for pipeline in tap.pipelines):
            return
        if busy := tap.outgrown(self.progress):
            self._awaited.add(tap)
            self._helper.submit(self._open_aside, tap, busy)
            return
        moving = tap.mode_switch
        mode = "" if moving is None else moving.wanted(self.progress)
        if moving is not None and mode:
            self._awaited.add(tap)
            self._helper.submit(self._open_successor, tap, moving, mode)

    def _open_successor(self, tap: Tap, moving: ModeSwitch, mode: str) -> None:
        """On the helper's thread, after the one that this capture came after was closed."""
        try:
            successor = moving.prepare(mode)
        except OSError as error:
            reason = error.strerror or str(error)
            self._order(lambda: self._stay(tap, moving, reason))
        else:
            self._order(lambda: self._expect(tap, moving, successor))

    def _stay(self, tap: Tap, moving: ModeSwitch, reason: str) -> None:
        self._awaited.discard(tap)
        moving.stay(reason)

    def _expect(self, tap: Tap, moving: ModeSwitch, successor: Capture) -> None:
        self._awaited.discard(tap)
        self._succeeding.add(tap)
        try:
            moving.expect(successor)
        except OSError as error:
            tap.failure = error.strerror or str(error)

    def _open_aside(self, tap: Tap, busy: Sequence[Pipeline]) -> None:
        """On the helper's thread."""
        try:
            aside = tap.open_aside(busy)
        except OSError:  # they stay together
            self._order(lambda: self._awaited.discard(tap))
        else:
            self._order(lambda: self._part(tap, aside))

    def _part(self, tap: Tap, aside: Aside) -> None:
        self._awaited.discard(tap)
        if tap in self.taps and tap.part(aside):
            self._parting[tap] = aside
        else:
            self._helper.submit(aside.capture.close)

    def _finish_parting(self) -> None:
        for tap, aside in list(self._parting.items()):
            if not tap.has_parted(time.monotonic()):
                continue
            del self._parting[tap]
            made = Tap(aside.pipelines, native=tap.native is not None, aside=aside)
            made.source = tap.source
            self._add(made)
            self._changing |= {tap, made}
            if made.mode == "ring":
                self._helper.submit(self._give_rings, aside.pipelines)
            for order in self._postponed.pop(tap, []):
                order()

    def _finish_succeeding(self) -> None:
        for tap in list(self._succeeding):
            tap.update()
            if not tap.drained():
                continue
            self._succeeding.discard(tap)
            self._unregister(tap)
            ended = tap.succeed()
            self._register(tap)
            self._helper.submit(self._after_moving, tap, ended)

    def _after_moving(self, tap: Tap, ended: Capture | Listener) -> None:
        """On the helper's thread: the copies' way out follows the capture's."""
        ended.close()
        self._give_rings(tap.pipelines)

    def _give_rings(self, pipelines: Sequence[Pipeline]) -> None:
        for pipeline in pipelines:
            ring = pipeline.new_tx_ring()
            self._order(partial(self._leave_by, pipeline, ring))

    def _leave_by(self, pipeline: Pipeline, ring: TxRing | None) -> None:
        runs = pipeline.tap is not None and pipeline in pipeline.tap.pipelines
        unused = pipeline.leave_by(ring) if runs else ring
        if unused is not None:
            self._helper.submit(unused.close)

    def _register(self, tap: Tap) -> None:
        self._by_descriptor[tap.capture.fileno()] = tap
        self._rounds.register(tap.capture.fileno(), tap.native)

    def _unregister(self, tap: Tap) -> None:
        del self._by_descriptor[tap.capture.fileno()]
        self._rounds.unregister(tap.capture.fileno())

    def _finish_drained(self) -> None:
        finished: dict[Tap, list[Pipeline]] = {}
        for pipeline, (deadline, _) in self._draining.items():
            tap = pipeline.tap
            assert tap is not None  # it has joined one
            if tap.has_left(pipeline) or self.progress >= deadline:
                finished.setdefault(tap, []).append(pipeline)
        for tap, pipelines in finished.items():
            last = len(pipelines) == len(tap.pipelines)
            if last and tap in self._awaited:
                continue
            tap.drop(pipelines)
            if last:
                self._forget(tap)
            for pipeline in pipelines:
                _, done = self._draining.pop(pipeline)
                if not pipeline.exclusive and not tap.exclusive:
                    done.set()  # to close two packet sockets takes the kernel 30 ms
                self._helper.submit(self._close, tap if last else None, pipeline, done)

    def _forget(self, tap: Tap) -> None:
        self._succeeding.discard(tap)
        self._changing.discard(tap)
        self._unregister(tap)
        self.lost = {**self.lost, tap.source: self.lost.get(tap.source, 0) + tap.seen.lost}
        self.taps.remove(tap)

    @staticmethod
    def _close(tap: Tap | None, pipeline: Pipeline, done: threading.Event) -> None:
        try:
            if tap is not None and not tap.closed:
                tap.close()
                pipeline.lose(tap.unread)
            pipeline.close()
        finally:
            done.set()
