"""The threads that run taps.

A worker is a thread that waits for all of its taps at once and runs those that have frames. What it is told (a tap to
add, a pipeline to join one or to leave it) it does itself, between two rounds.

To take a pipeline out is to take no more frames for it first, then to forward what was already captured, then to close:
nothing is lost uncounted. The last one of a tap takes the tap along. To open and to close a capture takes the kernel
milliseconds, so a second thread, the worker's helper, does it while frames go on; many that end at once are closed by
as many threads, see closers.py.

A pipeline whose work raises what nobody foresaw makes no copies any more, and is told of as a `Failure`; so is each of
a tap's where that itself fails. The others go on. Whoever has the worker takes them out and begins them anew. The same
holds for all of a worker's pipelines should its thread itself end.
"""

from __future__ import annotations

import errno
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
from mirrord.dataplane.rounds import LATENCY_SECONDS, rounds
from mirrord.dataplane.tap import Aside, Tap, tap_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mirrord.dataplane.capture.mode_switch import ModeSwitch
    from mirrord.dataplane.capture.packet_socket import Capture
    from mirrord.dataplane.pipeline import Pipeline
    from mirrord.dataplane.transmit.tx_ring import TxRing
    from mirrord.plans import PipelinePlan

DRAIN_SECONDS = 0.5
"""How long a pipeline that is taken out may go on with what was captured for it."""

ROUND_SECONDS = 1.0
"""The longest wait of a worker, after which it looks at every tap that may have news."""

LOOK_SECONDS = 0.05
"""How often who waits for a worker looks whether it is still there."""

ANSWER_SECONDS = 1.0
"""How long a worker may take for what it is told before it counts as stuck in the kernel: a disk may not answer."""


JOIN_SECONDS = 5.0
"""How long a worker may take to have a pipeline join before it is let be: it does so if it ever comes back."""


class Failure(NamedTuple):
    """What ended a pipeline's work; None: the whole worker's."""

    pipeline: Pipeline | None
    error: BaseException


class Worker:
    """A thread that runs taps. `progress` is the monotonic time of its last round, for a watchdog.

    `failures` are for who has the worker to take out. `lost` is how many frames taps that have ended had lost, by
    source. Raises OSError, and `start` RuntimeError, where the host has no descriptor, memory or thread left.
    """

    def __init__(self, name: str, nice: int = 0, latency: float = LATENCY_SECONDS) -> None:
        self.name = name
        self.taps: list[Tap] = []
        self.lost: dict[str, int] = {}
        self.progress = time.monotonic()
        self.failures: queue.SimpleQueue[Failure] = queue.SimpleQueue()
        self._nice = nice
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._rounds = rounds(latency)
        try:
            self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except BaseException:
            self._rounds.close()
            raise
        self._bell_lock = threading.Lock()  # its descriptor is another's once it is closed
        self._rounds.register(self._bell, None)
        self._by_descriptor: dict[int, Tap] = {}
        self._broken: set[Tap] = set()  # an error ended their work
        self._draining: dict[Pipeline, tuple[float, threading.Event]] = {}
        self._changing: set[Tap] = set()  # their members came or went a moment ago
        self._parting: dict[Tap, Aside] = {}  # some of its members go on with a capture of their own
        self._postponed: dict[Tap, list[Callable[[], None]]] = {}  # orders about one that parts
        self._awaited: set[Tap] = set()  # another capture is being opened for it
        self._succeeding: set[Tap] = set()  # it is there; their capture is read to its end
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
    def pipelines(self) -> list[Pipeline]:
        """All that its taps have."""
        return [pipeline for tap in list(self.taps) for pipeline in tap.pipelines]

    @property
    def ended(self) -> bool:
        """Whether its thread is not there any more, told to or not."""
        return not self._thread.is_alive()

    def stands_still(self, seconds: float) -> bool:
        """Whether it made no progress for so long."""
        return time.monotonic() - self.progress > seconds

    def add(self, tap: Tap) -> None:
        """Run this tap from now on."""
        self._order(lambda: self._add(tap))

    def join(self, tap: Tap, pipelines: Sequence[Pipeline]) -> None:
        """Have these pipelines get frames of a tap that runs. Returns when they do, or failed: then each says why."""
        done, begun = threading.Event(), time.monotonic()
        tap.foresee(joining=pipelines)
        self._order(lambda: self._join(tap, pipelines, done))
        while not done.wait(LOOK_SECONDS):
            if self.ended or time.monotonic() - begun > JOIN_SECONDS:
                for pipeline in pipelines:
                    pipeline.failure = "its worker makes no progress"
                return

    def replace(self, pipeline: Pipeline, plan: PipelinePlan) -> None:
        """Have a pipeline go on by another plan, soon."""
        if (tap := tap_of(pipeline)) is not None:
            tap.foresee(changed={pipeline: plan.capture.selection})
        self._order(lambda: self._replace(pipeline, plan))

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
        self._order(lambda: self._drain(done))

        def wait() -> bool:
            for pipeline, event in done.items():
                while not event.wait(LOOK_SECONDS):
                    if self.ended:
                        self._helper.join(ANSWER_SECONDS)
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

    def _add(self, tap: Tap) -> None:
        self.taps.append(tap)
        self._attempt(tap, lambda: self._register(tap))

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
            if tap in self._broken or tap not in self.taps:
                raise OSError(errno.EAGAIN, "its source has just ended: it is tried again")
            tap.join(pipelines)
        except OSError as error:
            for pipeline in pipelines:
                pipeline.failure = _reason(error)
        except Exception as error:  # noqa: BLE001 (of any kind; see _fail)
            self._fail(tap, error)
        else:
            self._changing.add(tap)
            if tap.mode == "ring":
                self._give_rings(pipelines)
        finally:
            done.set()

    def _replace(self, pipeline: Pipeline, plan: PipelinePlan) -> None:
        tap = tap_of(pipeline)
        if tap is None or pipeline not in tap.pipelines or self._later(tap, lambda: self._replace(pipeline, plan)):
            return

        def work() -> None:
            try:
                tap.replace(pipeline, plan)
            except OSError as error:
                pipeline.failure = _reason(error)
            self._changing.add(tap)

        self._attempt(tap, work)

    def _drain(self, done: dict[Pipeline, threading.Event]) -> None:
        deadline = time.monotonic() + DRAIN_SECONDS
        leaving: dict[Tap, list[Pipeline]] = {}
        for pipeline, event in done.items():
            tap = tap_of(pipeline)
            if tap is None or tap not in self.taps or pipeline not in tap.pipelines:  # it could not join
                self._dispose(None, pipeline, event)
            elif not self._later(tap, partial(self._drain, {pipeline: event})):
                leaving.setdefault(tap, []).append(pipeline)
                self._draining[pipeline] = deadline, event
        for tap, pipelines in leaving.items():
            self._attempt(tap, partial(tap.leave, pipelines))
            self._changing.add(tap)

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
            pressing = self._draining or self._succeeding or self._changing or self._parting
            news = self._rounds.wait(0.001 if pressing else ROUND_SECONDS, more)
            now = time.monotonic()
            self.progress, more = now, False
            for descriptor, event, ran in news:
                if descriptor == self._bell:
                    os.eventfd_read(self._bell)
                    continue
                tap = self._by_descriptor[descriptor]
                try:
                    more |= self._turn(tap, event, ran=ran)
                except Exception as error:  # noqa: BLE001 (of any kind; see _fail)
                    self._fail(tap, error)
            if now >= look_at:
                look_at = now + ROUND_SECONDS
                self._look_round()
            while not self._orders.empty():
                self._orders.get()()
            if pressing or self._draining or self._changing:
                self._finish()

    def _finish(self) -> None:
        """Go on with what takes several rounds."""
        for tap in list(self._succeeding):
            self._attempt(tap, partial(self._succeed, tap))
        for tap in list(self._parting):
            self._attempt(tap, partial(self._finish_parting, tap))
        self._finish_drained()
        for tap in list(self._changing):
            self._attempt(tap, partial(tap.tend, time.monotonic()))
            if tap in self._broken or not tap.changing:
                self._changing.discard(tap)

    def _turn(self, tap: Tap, event: int, *, ran: bool) -> bool:
        """What a tap's news call for. Tells whether there is more."""
        more = False
        if event & select.EPOLLERR:
            tap.update()  # first count what was captured before: what comes after clears the error
            tap.note_error()
        if ran:
            tap.ran()
        else:
            more = tap.run()
        self._note_failures(tap)
        self._move(tap)
        return more

    # --- what goes wrong ---

    def _attempt(self, tap: Tap, work: Callable[[], None]) -> None:
        if tap in self._broken:
            return
        try:
            work()
        except Exception as error:  # noqa: BLE001 (of any kind; see _fail)
            self._fail(tap, error)

    def _note_failures(self, tap: Tap) -> None:
        for pipeline, error in tap.take_failures():
            self.failures.put(Failure(pipeline, error))

    def _fail(self, tap: Tap, error: Exception) -> None:
        """Put the tap aside: what it is in the middle of nobody knows."""
        self._broken.add(tap)
        self._succeeding.discard(tap)
        tap.failure = f"an error in its work: {type(error).__name__}: {error}"
        self._unregister(tap)
        if aside := self._parting.pop(tap, None):
            self._helper.submit(aside.capture.close, lambda _: None)
        for pipeline in tap.pipelines:
            self.failures.put(Failure(pipeline, error))
        for order in self._postponed.pop(tap, []):
            order()

    # --- what comes with time ---

    def _look_round(self) -> None:
        for tap in list(self.taps):
            if not tap.quiet():
                self._attempt(tap, partial(self._look, tap))

    def _look(self, tap: Tap) -> None:
        tap.look()
        self._note_failures(tap)
        self._move(tap)

    def _move(self, tap: Tap) -> None:
        """Begin to move its capture, or to part its members, if that is the time."""
        settled = tap not in self._awaited and tap not in self._parting
        if not settled or any(pipeline in self._draining for pipeline in tap.pipelines):
            return
        if busy := tap.outgrown(self.progress):
            self._awaited.add(tap)
            self._helper.submit(
                lambda: tap.open_aside(busy), lambda outcome: self._order(lambda: self._part(tap, outcome))
            )
            return
        mode_switch = tap.mode_switch
        mode = "" if mode_switch is None else mode_switch.wanted(self.progress)
        if mode_switch is not None and mode:
            self._awaited.add(tap)
            self._helper.submit(  # after the one that this capture came after was closed
                lambda: mode_switch.prepare(mode),
                lambda outcome: self._order(lambda: self._moved(tap, mode_switch, outcome)),
            )

    def _moved(self, tap: Tap, mode_switch: ModeSwitch, outcome: Capture | Exception) -> None:
        self._awaited.discard(tap)
        if isinstance(outcome, Exception):
            mode_switch.stay(_reason(outcome))
            return
        if tap in self._broken:
            mode_switch.successor = outcome  # it is counted, and closed, with the tap
            return
        self._succeeding.add(tap)
        try:
            mode_switch.expect(outcome)
        except OSError as error:
            tap.failure = _reason(error)

    def _succeed(self, tap: Tap) -> None:
        tap.update()
        if not tap.drained():
            return
        self._succeeding.discard(tap)
        self._unregister(tap)
        ended = tap.succeed()
        self._register(tap)
        self._helper.submit(ended.close, lambda _: self._order(lambda: self._give_rings(tap.pipelines)))

    def _part(self, tap: Tap, outcome: Aside | Exception) -> None:
        self._awaited.discard(tap)
        if isinstance(outcome, Exception):  # they stay together
            return
        parts = False
        if tap in self.taps and tap not in self._broken:
            try:
                parts = tap.part(outcome)
            except Exception as error:  # noqa: BLE001 (of any kind; see _fail)
                self._fail(tap, error)
        if parts:
            self._parting[tap] = outcome
        else:
            self._helper.submit(outcome.capture.close, lambda _: None)

    def _finish_parting(self, tap: Tap) -> None:
        if not tap.has_parted(time.monotonic()):
            return
        aside = self._parting.pop(tap)
        try:
            made = Tap(aside.pipelines, native=tap.native is not None, aside=aside)
        except Exception as error:  # noqa: BLE001 (of any kind: they have no source any more)
            for pipeline in aside.pipelines:
                pipeline.failure = _reason(error)
                self.failures.put(Failure(pipeline, error))
            return
        made.source = tap.source
        self._add(made)
        self._changing |= {tap, made}
        if made.mode == "ring":
            self._give_rings(aside.pipelines)
        for order in self._postponed.pop(tap, []):
            order()

    def _give_rings(self, pipelines: Iterable[Pipeline]) -> None:
        """The copies' way out follows the capture's."""
        for pipeline in pipelines:
            self._helper.submit(pipeline.new_tx_ring, partial(self._made_ring, pipeline))

    def _made_ring(self, pipeline: Pipeline, outcome: TxRing | Exception | None) -> None:
        """On the helper's thread."""
        self._order(lambda: self._leave_by(pipeline, outcome))

    def _leave_by(self, pipeline: Pipeline, outcome: TxRing | Exception | None) -> None:
        """Without a ring they leave by a socket as well."""
        unused = ring = None if isinstance(outcome, Exception) else outcome
        tap = tap_of(pipeline)
        if tap is not None and tap in self.taps and tap not in self._broken and pipeline in tap.pipelines:
            unused = pipeline.leave_by(ring)
        if unused is not None:
            self._helper.submit(unused.close, lambda _: None)

    def _register(self, tap: Tap) -> None:
        self._by_descriptor[tap.capture.fileno()] = tap
        self._rounds.register(tap.capture.fileno(), tap.native)

    def _unregister(self, tap: Tap) -> None:
        """Wait for it no more, whatever has become of its descriptor."""
        for descriptor in [one for one, held in self._by_descriptor.items() if held is tap]:
            del self._by_descriptor[descriptor]
            with suppress(OSError):
                self._rounds.unregister(descriptor)

    # --- the end of a pipeline ---

    def _finish_drained(self) -> None:
        finished: dict[Tap, list[Pipeline]] = {}
        for pipeline, (deadline, _) in self._draining.items():
            tap = tap_of(pipeline)
            assert tap is not None  # it has joined one
            if tap in self._broken or self.progress >= deadline or self._has_left(tap, pipeline):
                finished.setdefault(tap, []).append(pipeline)
        for tap, pipelines in finished.items():
            last = len(pipelines) == len(tap.pipelines)
            if last and tap in self._awaited:
                continue
            with suppress(Exception):  # of a broken one; they are members no more all the same
                tap.drop(pipelines)
            if last:
                self._forget(tap)
            for pipeline in pipelines:
                _, done = self._draining.pop(pipeline)
                if not pipeline.exclusive and not tap.exclusive:
                    done.set()  # to close two packet sockets takes the kernel 30 ms
                self._dispose(tap if last else None, pipeline, done)

    def _has_left(self, tap: Tap, pipeline: Pipeline) -> bool:
        try:
            return tap.has_left(pipeline)
        except Exception as error:  # noqa: BLE001 (of any kind; see _fail)
            self._fail(tap, error)
            return True

    def _forget(self, tap: Tap) -> None:
        self._succeeding.discard(tap)
        self._changing.discard(tap)
        self._broken.discard(tap)
        self._unregister(tap)
        self.lost = {**self.lost, tap.source: self.lost.get(tap.source, 0) + tap.seen.lost}
        self.taps.remove(tap)

    def _dispose(self, tap: Tap | None, pipeline: Pipeline, done: threading.Event) -> None:
        self._helper.submit(partial(self._closers.submit, partial(_close, tap, pipeline, done)), lambda _: None)

    def _end(self, pipeline: Pipeline) -> None:
        """In place of the thread, which is not there any more."""
        tap = tap_of(pipeline)
        if tap is not None and pipeline in tap.pipelines:
            last = len(tap.pipelines) == 1
            for step in (partial(tap.leave, [pipeline]), partial(tap.drop, [pipeline])):
                with suppress(Exception):
                    step()
            if last:
                self.lost = {**self.lost, tap.source: self.lost.get(tap.source, 0) + tap.seen.lost}
                with suppress(ValueError):
                    self.taps.remove(tap)
                with suppress(Exception):
                    tap.close()
        with suppress(Exception):
            pipeline.close()


def _close(tap: Tap | None, pipeline: Pipeline, done: threading.Event) -> None:
    """The last that anybody hears of them."""
    if tap is not None:
        with suppress(Exception):
            tap.close()
            pipeline.lose(tap.take_unread())
    with suppress(Exception):
        pipeline.close()
    done.set()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
