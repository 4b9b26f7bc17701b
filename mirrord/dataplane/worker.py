"""The threads that run pipelines.

A worker is a thread that waits for all of its pipelines at once and runs those that have frames. What it is told (a
pipeline to add or to take out) it does itself, between two rounds.

To take a pipeline out is to reject everything first, then to forward what was already captured, then to close:
nothing is lost uncounted. To open and to close a capture takes the kernel milliseconds, so a second thread, the
worker's helper, does it while frames go on; many that end at once are closed by as many threads, see closers.py.

A pipeline whose work raises what nobody foresaw is put aside, and told of as a `Failure`; the others go on. Whoever has
the worker takes it out and begins it anew. The same holds for all of a worker's pipelines should its thread itself end.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from mirrord.dataplane.closers import Closers
from mirrord.dataplane.helper import Helper
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

LOOK_SECONDS = 0.05
"""How often who waits for a worker looks whether it is still there."""

ANSWER_SECONDS = 1.0
"""How long a worker may take for what it is told before it counts as stuck in the kernel: a disk may not answer."""


class Failure(NamedTuple):
    """What ended a pipeline's work; None: the whole worker's."""

    pipeline: Pipeline | None
    error: BaseException


class Worker:
    """A thread that runs pipelines. `progress` is the monotonic time of its last round, for a watchdog.

    `failures` are for who has the worker to take out. Raises OSError, and `start` RuntimeError, where the host has no
    descriptor, memory or thread left.
    """

    def __init__(self, name: str, nice: int = 0) -> None:
        self.name = name
        self.pipelines: list[Pipeline] = []
        self.progress = time.monotonic()
        self.failures: queue.SimpleQueue[Failure] = queue.SimpleQueue()
        self._nice = nice
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._rounds = rounds()
        try:
            self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except BaseException:
            self._rounds.close()
            raise
        self._bell_lock = threading.Lock()  # its descriptor is another's once it is closed
        self._rounds.register(self._bell, None)
        self._by_descriptor: dict[int, Pipeline] = {}
        self._broken: set[Pipeline] = set()  # an error ended their work
        self._draining: dict[Pipeline, tuple[float, threading.Event]] = {}
        self._awaited: set[Pipeline] = set()  # a successor of their capture is being opened
        self._succeeding: set[Pipeline] = set()  # it is there; their capture is read to its end
        self._helper = Helper(f"{name}-helper")
        self._closers = Closers(f"{name}-closer")
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        try:
            self._helper.start()
            self._thread.start()
        except BaseException:
            self._close()
            raise

    @property
    def ended(self) -> bool:
        """Whether its thread is not there any more, told to or not."""
        return not self._thread.is_alive()

    def stands_still(self, seconds: float) -> bool:
        """Whether it made no progress for so long."""
        return time.monotonic() - self.progress > seconds

    def add(self, pipeline: Pipeline) -> None:
        """Run this pipeline from now on."""
        self._order(lambda: self._add(pipeline))

    def replace(self, pipeline: Pipeline, plan: PipelinePlan) -> None:
        """Have a pipeline go on by another plan, soon."""
        self._order(lambda: self._attempt(pipeline, lambda: pipeline.replace(plan)))

    def remove(self, pipeline: Pipeline, seconds: float | None = None) -> bool:
        """Capture no more, forward what was captured, close. Returns when that is done, within a second.

        Or when everything is counted, where nobody else can want what is still to be closed. False when the worker did
        not get to it within so many seconds: it does if it ever comes back. None: wait as long as it takes.
        """
        return self.begin_to_remove(pipeline, seconds)()

    def begin_to_remove(self, pipeline: Pipeline, seconds: float | None = None) -> Callable[[], bool]:
        """As `remove`, but returns at once: what it gives waits, so that several can be removed together."""
        done, begun = threading.Event(), time.monotonic()
        self._order(lambda: self._drain(pipeline, done))

        def wait() -> bool:
            while not done.wait(LOOK_SECONDS):
                if self.ended:
                    self._helper.join(ANSWER_SECONDS)
                    self._closers.join(ANSWER_SECONDS)
                    if not done.is_set():
                        self._end(pipeline)
                    return True
                if seconds is not None and time.monotonic() - begun > seconds:
                    return False
            return True

        return wait

    def stop(self, seconds: float | None = None) -> bool:
        """Remove every pipeline and end the thread; False if it is still there after so many seconds for each."""
        removing = [self.begin_to_remove(pipeline, seconds) for pipeline in list(self.pipelines)]
        removed = [wait() for wait in removing]
        self.leave()
        if not all(removed):
            return False
        self._thread.join(seconds)
        self._helper.join(ANSWER_SECONDS)
        self._closers.join(ANSWER_SECONDS)
        return self.ended

    def leave(self) -> None:
        """End the thread, as soon as it gets to it, whatever becomes of its pipelines. Does not wait."""
        self._order(self._stop)

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.put(order)
        with self._bell_lock:
            if self._bell >= 0:
                os.eventfd_write(self._bell, 1)

    def _add(self, pipeline: Pipeline) -> None:
        self.pipelines.append(pipeline)
        self._attempt(pipeline, lambda: self._register(pipeline))

    def _drain(self, pipeline: Pipeline, done: threading.Event) -> None:
        self._draining[pipeline] = (time.monotonic() + DRAIN_SECONDS, done)
        self._attempt(pipeline, pipeline.reject_all)

    def _stop(self) -> None:
        self._stopping = True

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:  # noqa: BLE001 (whoever has the worker says it)
            self.failures.put(Failure(None, error))
        self._close()

    def _close(self) -> None:
        self._helper.stop()
        with self._bell_lock:
            os.close(self._bell)
            self._bell = -1
        self._rounds.close()

    def _loop(self) -> None:
        look_at, more = self.progress, False
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # no system call here is to be interrupted
        if self._nice:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._nice)
        while not (self._stopping and not self._draining):
            news = self._rounds.wait(0.001 if self._draining or self._succeeding else ROUND_SECONDS, more)
            now = time.monotonic()
            self.progress, more = now, False
            for descriptor, event, ran in news:
                if descriptor == self._bell:
                    os.eventfd_read(self._bell)
                    continue
                pipeline = self._by_descriptor[descriptor]
                try:
                    more |= self._turn(pipeline, event, ran=ran)
                except Exception as error:  # noqa: BLE001 (of any kind; see _fail)
                    self._fail(pipeline, error)
            if now >= look_at:
                look_at = now + ROUND_SECONDS
                self._look_round()
            while not self._orders.empty():
                self._orders.get()()
            if self._succeeding:
                self._finish_succeeding()
            if self._draining:
                self._finish_drained()

    def _turn(self, pipeline: Pipeline, event: int, *, ran: bool) -> bool:
        """What a pipeline's news call for. Tells whether there is more."""
        more = False
        if event & select.EPOLLERR:
            pipeline.update()  # first count what was captured before: what comes after clears the error
            pipeline.note_error()
        if ran:
            pipeline.ran()
        else:
            more = pipeline.run()
        self._move(pipeline)
        return more

    # --- what goes wrong ---

    def _attempt(self, pipeline: Pipeline, work: Callable[[], None]) -> None:
        if pipeline in self._broken:
            return
        try:
            work()
        except Exception as error:  # noqa: BLE001 (of any kind; see _fail)
            self._fail(pipeline, error)

    def _fail(self, pipeline: Pipeline, error: Exception) -> None:
        """Put the pipeline aside: what it is in the middle of nobody knows."""
        self._broken.add(pipeline)
        self._succeeding.discard(pipeline)
        pipeline.failure = f"an error in its work: {type(error).__name__}: {error}"
        self._unregister(pipeline)
        self.failures.put(Failure(pipeline, error))

    # --- what comes with time ---

    def _look_round(self) -> None:
        for pipeline in list(self.pipelines):
            if not pipeline.quiet():
                self._attempt(pipeline, partial(self._look, pipeline))

    def _look(self, pipeline: Pipeline) -> None:
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
            self._helper.submit(  # after the one that this capture came after was closed
                lambda: mode_switch.prepare(mode),
                lambda outcome: self._order(lambda: self._moved(pipeline, mode_switch, outcome)),
            )

    def _moved(self, pipeline: Pipeline, mode_switch: ModeSwitch, outcome: Capture | Exception) -> None:
        self._awaited.discard(pipeline)
        if isinstance(outcome, Exception):
            mode_switch.stay(_reason(outcome))
            return
        if pipeline in self._broken:
            mode_switch.successor = outcome  # it is counted, and closed, with the pipeline
            return
        self._succeeding.add(pipeline)
        try:
            mode_switch.expect(outcome)
        except OSError as error:
            pipeline.failure = _reason(error)

    def _finish_succeeding(self) -> None:
        for pipeline in list(self._succeeding):
            self._attempt(pipeline, partial(self._succeed, pipeline))

    def _succeed(self, pipeline: Pipeline) -> None:
        pipeline.update()
        if not pipeline.drained():
            return
        self._succeeding.discard(pipeline)
        self._unregister(pipeline)
        ended = pipeline.succeed()
        self._register(pipeline)
        self._helper.submit(
            lambda: _follow(pipeline, ended), lambda outcome: self._order(lambda: self._leave_by(pipeline, outcome))
        )

    def _leave_by(self, pipeline: Pipeline, outcome: TxRing | Exception | None) -> None:
        """The copies' way out follows the capture's; without a ring they leave by a socket as well."""
        ring = None if isinstance(outcome, Exception) else outcome
        unused = ring
        if pipeline in self.pipelines and pipeline not in self._broken:
            unused = pipeline.leave_by(ring)
        if unused is not None:
            self._helper.submit(unused.close, lambda _: None)

    def _register(self, pipeline: Pipeline) -> None:
        self._by_descriptor[pipeline.capture.fileno()] = pipeline
        self._rounds.register(pipeline.capture.fileno(), pipeline.native)

    def _unregister(self, pipeline: Pipeline) -> None:
        """Wait for it no more, whatever has become of its descriptor."""
        for descriptor in [one for one, held in self._by_descriptor.items() if held is pipeline]:
            del self._by_descriptor[descriptor]
            with suppress(OSError):
                self._rounds.unregister(descriptor)

    # --- the end of a pipeline ---

    def _finish_drained(self) -> None:
        for pipeline, (deadline, done) in list(self._draining.items()):
            if pipeline in self._awaited:
                continue
            self._attempt(pipeline, pipeline.update)
            broken = pipeline in self._broken
            if broken or self.progress >= deadline or (pipeline not in self._succeeding and pipeline.drained()):
                self._end_drained(pipeline, done)

    def _end_drained(self, pipeline: Pipeline, done: threading.Event) -> None:
        _count(pipeline)
        del self._draining[pipeline]
        self._succeeding.discard(pipeline)
        self._broken.discard(pipeline)
        self._unregister(pipeline)
        self.pipelines.remove(pipeline)
        if not pipeline.exclusive:
            done.set()  # to close two packet sockets takes the kernel 30 ms
        self._helper.submit(partial(self._closers.submit, partial(_close, pipeline, done)), lambda _: None)

    def _end(self, pipeline: Pipeline) -> None:
        """In place of the thread, which is not there any more."""
        with suppress(Exception):
            pipeline.reject_all()
        _count(pipeline)
        with suppress(Exception):
            pipeline.close()
        with suppress(ValueError):
            self.pipelines.remove(pipeline)


def _count(pipeline: Pipeline) -> None:
    """Count what the kernel counted last, of the capture and of the one that it was to move to, whatever is broken."""
    for step in (pipeline.update, pipeline.give_up):
        with suppress(Exception):
            step()


def _close(pipeline: Pipeline, done: threading.Event) -> None:
    with suppress(Exception):  # it is the last that anybody hears of it
        pipeline.close()
    done.set()


def _follow(pipeline: Pipeline, ended: Capture | Listener) -> TxRing | None:
    """Close the capture that was moved from, and make the ring that fits the one that it was moved to."""
    ended.close()
    return pipeline.new_tx_ring()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
