"""The threads that run pipelines.

A worker is a thread that waits for all of its pipelines at once and runs those that have frames. What it is told (a
pipeline to add or to take out) it does itself, between two rounds.

To take a pipeline out is to reject everything first, then to forward what was already captured, then to close:
nothing is lost uncounted. To open and to close a capture takes the kernel milliseconds, so a second thread, the
worker's helper, does it while frames go on; many that end at once are closed by as many threads, see closers.py.
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

from mirrord.dataplane.closers import Closers
from mirrord.dataplane.rounds import rounds

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrord.dataplane.capture.listener import Listener
    from mirrord.dataplane.capture.mode_switch import ModeSwitch
    from mirrord.dataplane.capture.packet_socket import Capture
    from mirrord.dataplane.pipeline import Pipeline, PipelinePlan
    from mirrord.dataplane.transmit.tx_ring import TxRing

DRAIN_SECONDS = 0.5
"""How long a pipeline that is taken out may go on with what it had captured."""

ROUND_SECONDS = 1.0
"""The longest wait of a worker, after which it looks at every pipeline that may have news."""


class Worker:
    """A thread that runs pipelines. `progress` is the monotonic time of its last round, for a watchdog."""

    def __init__(self, name: str, nice: int = 0) -> None:
        self.pipelines: list[Pipeline] = []
        self.progress = time.monotonic()
        self._nice = nice
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._rounds = rounds()
        self._rounds.register(self._bell, None)
        self._by_descriptor: dict[int, Pipeline] = {}
        self._draining: dict[Pipeline, tuple[float, threading.Event]] = {}
        self._awaited: set[Pipeline] = set()  # a successor of their capture is being opened
        self._succeeding: set[Pipeline] = set()  # it is there; their capture is read to its end
        self._helper = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-helper")
        self._closers = Closers(f"{name}-closer")
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, pipeline: Pipeline) -> None:
        """Run this pipeline from now on."""
        self._order(lambda: self._add(pipeline))

    def replace(self, pipeline: Pipeline, plan: PipelinePlan) -> None:
        """Have a pipeline go on by another plan, soon."""
        self._order(lambda: pipeline.replace(plan))

    def remove(self, pipeline: Pipeline) -> None:
        """Capture no more, forward what was captured, close. Returns when that is done, within a second.

        Or when everything is counted, where nobody else can want what is still to be closed.
        """
        self.begin_to_remove(pipeline)()

    def begin_to_remove(self, pipeline: Pipeline) -> Callable[[], None]:
        """As `remove`, but returns at once: what it gives waits, so that several can be removed together."""
        done = threading.Event()
        self._order(lambda: self._drain(pipeline, done))

        def wait() -> None:
            while not done.wait(DRAIN_SECONDS) and self._thread.is_alive():
                pass

        return wait

    def stop(self) -> None:
        """Remove every pipeline and end the thread."""
        for wait in [self.begin_to_remove(pipeline) for pipeline in list(self.pipelines)]:
            wait()
        self._order(self._stop)
        self._thread.join()
        self._helper.shutdown()
        self._closers.join()
        self._rounds.close()
        os.close(self._bell)

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.put(order)
        os.eventfd_write(self._bell, 1)

    def _add(self, pipeline: Pipeline) -> None:
        self.pipelines.append(pipeline)
        self._register(pipeline)

    def _drain(self, pipeline: Pipeline, done: threading.Event) -> None:
        pipeline.reject_all()
        self._draining[pipeline] = (time.monotonic() + DRAIN_SECONDS, done)

    def _stop(self) -> None:
        self._stopping = True

    def _loop(self) -> None:
        look_at, more = self.progress, False
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # no system call here is to be interrupted
        if self._nice:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._nice)
        while not self._stopping:
            news = self._rounds.wait(0.001 if self._draining or self._succeeding else ROUND_SECONDS, more)
            now = time.monotonic()
            self.progress, more = now, False
            for descriptor, event, ran in news:
                if descriptor == self._bell:
                    os.eventfd_read(self._bell)
                    continue
                pipeline = self._by_descriptor[descriptor]
                if event & select.EPOLLERR:
                    pipeline.update()  # first count what was captured before: what comes after clears the error
                    pipeline.note_error()
                if ran:
                    pipeline.ran()
                else:
                    more |= pipeline.run()
                self._move(pipeline)
            if now >= look_at:
                look_at = now + ROUND_SECONDS
                self._look_round()
            while not self._orders.empty():
                self._orders.get()()
            if self._succeeding:
                self._finish_succeeding()
            if self._draining:
                self._finish_drained()

    def _look_round(self) -> None:
        for pipeline in self.pipelines:
            if not pipeline.quiet():
                pipeline.look()
                self._move(pipeline)

    def _move(self, pipeline: Pipeline) -> None:
        """Begin to move its capture, if that is the time."""
        mode_switch = pipeline.mode_switch
        if mode_switch is None or pipeline in self._awaited or pipeline in self._draining:
            return
        mode = mode_switch.wanted(self.progress)
        if mode:
            self._awaited.add(pipeline)
            self._helper.submit(self._open_successor, pipeline, mode_switch, mode)

    def _open_successor(self, pipeline: Pipeline, mode_switch: ModeSwitch, mode: str) -> None:
        """On the helper's thread, after the one that this capture came after was closed."""
        try:
            successor = mode_switch.prepare(mode)
        except OSError as error:
            reason = error.strerror or str(error)
            self._order(lambda: self._stay(pipeline, mode_switch, reason))
        else:
            self._order(lambda: self._expect(pipeline, mode_switch, successor))

    def _stay(self, pipeline: Pipeline, mode_switch: ModeSwitch, reason: str) -> None:
        self._awaited.discard(pipeline)
        mode_switch.stay(reason)

    def _expect(self, pipeline: Pipeline, mode_switch: ModeSwitch, successor: Capture) -> None:
        self._awaited.discard(pipeline)
        self._succeeding.add(pipeline)
        try:
            mode_switch.expect(successor)
        except OSError as error:
            pipeline.failure = error.strerror or str(error)

    def _finish_succeeding(self) -> None:
        for pipeline in list(self._succeeding):
            pipeline.update()
            if not pipeline.drained():
                continue
            self._succeeding.discard(pipeline)
            self._unregister(pipeline)
            ended = pipeline.succeed()
            self._register(pipeline)
            self._helper.submit(self._after_moving, pipeline, ended)

    def _after_moving(self, pipeline: Pipeline, ended: Capture | Listener) -> None:
        """On the helper's thread: the copies' way out follows the capture's."""
        ended.close()
        ring = pipeline.new_tx_ring()
        self._order(lambda: self._leave_by(pipeline, ring))

    def _leave_by(self, pipeline: Pipeline, ring: TxRing | None) -> None:
        unused = pipeline.leave_by(ring) if pipeline in self.pipelines else ring
        if unused is not None:
            self._helper.submit(unused.close)

    def _register(self, pipeline: Pipeline) -> None:
        self._by_descriptor[pipeline.capture.fileno()] = pipeline
        self._rounds.register(pipeline.capture.fileno(), pipeline.native)

    def _unregister(self, pipeline: Pipeline) -> None:
        del self._by_descriptor[pipeline.capture.fileno()]
        self._rounds.unregister(pipeline.capture.fileno())

    def _finish_drained(self) -> None:
        for pipeline, (deadline, done) in list(self._draining.items()):
            if pipeline in self._awaited:
                continue
            pipeline.update()
            drained = pipeline.drained() and pipeline not in self._succeeding
            if drained or self.progress >= deadline:
                pipeline.give_up()
                del self._draining[pipeline]
                self._succeeding.discard(pipeline)
                self._unregister(pipeline)
                self.pipelines.remove(pipeline)
                if not pipeline.exclusive:
                    done.set()  # to close two packet sockets takes the kernel 30 ms
                self._helper.submit(self._closers.submit, partial(self._close, pipeline, done))

    @staticmethod
    def _close(pipeline: Pipeline, done: threading.Event) -> None:
        try:
            pipeline.close()
        finally:
            done.set()
