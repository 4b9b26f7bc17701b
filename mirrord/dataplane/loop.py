"""A worker's thread: it waits for all of its taps at once and runs those that have frames.

What it is told is done on the same thread, between two rounds: an order is a function without arguments.

A pipeline whose work raises an error makes no copies any more, and is reported as a `Failure`. Where the tap's own work
raises, the tap is put aside and each of its pipelines is reported; where the thread itself ends, that is. The other
pipelines go on.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from mirrord.dataplane.budget import Budget
from mirrord.dataplane.helper import Helper
from mirrord.dataplane.rounds import LATENCY_SECONDS, rounds

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrord.dataplane.pipeline import Pipeline
    from mirrord.dataplane.tap import Tap

ROUND_SECONDS = 1.0
"""The longest wait of a worker, after which it looks at every tap that may have news."""

BUDGETED_SECONDS = 0.02
"""The longest wait of a worker whose time is bounded: the core reads frames all the while."""

PRESSING_SECONDS = 0.001
"""The longest wait while something that takes several rounds is under way."""


class Failure(NamedTuple):
    """What ended a pipeline's work; None: the whole worker's."""

    pipeline: Pipeline | None
    error: BaseException


class Loop(ABC):
    """The thread and its taps. `progress` is the monotonic time of its last round, for a watchdog.

    `failures` are for the owner of the worker to take out. `broken` are the taps that an error put aside, `changing`
    those whose members came or went a moment ago. What it spends comes out of the `budget`. Raises OSError, and `start`
    RuntimeError, where the host has no descriptor, memory or thread left.
    """

    def __init__(self, name: str, nice: int, latency: float = LATENCY_SECONDS, budget: Budget | None = None) -> None:
        self.name = name
        self.taps: list[Tap] = []
        self.progress = time.monotonic()
        self.failures: queue.SimpleQueue[Failure] = queue.SimpleQueue()
        self.broken: set[Tap] = set()
        self.changing: set[Tap] = set()
        self.helper = Helper(f"{name}-helper")
        self._nice = nice
        self._budget = budget or Budget()
        self._spent = 0.0  # of the thread's time, what the budget knows of
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
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        try:
            self.helper.start()
            self._thread.start()
        except BaseException:
            self._close()
            raise

    @property
    def spent(self) -> float:
        """Seconds of a processor that the thread has taken, as of its last round."""
        return self._spent

    @property
    def ended(self) -> bool:
        """Whether the thread is not there any more, told to or not."""
        return not self._thread.is_alive()

    def stands_still(self, seconds: float) -> bool:
        """Whether it made no progress for so long."""
        return time.monotonic() - self.progress > seconds

    def leave(self) -> None:
        """End the thread as soon as it gets to it, whatever becomes of its pipelines. Does not wait."""
        self.order(self._stop)

    def order(self, order: Callable[[], None]) -> None:
        """Run a function on the thread, between two rounds. To be called on any thread."""
        self._orders.put(order)
        with self._bell_lock:
            if self._bell >= 0:
                os.eventfd_write(self._bell, 1)

    # --- what a worker adds ---

    @abstractmethod
    def pressing(self) -> bool:
        """Whether something is under way that takes several rounds."""

    @abstractmethod
    def finish(self) -> None:
        """Go on with what takes several rounds."""

    @abstractmethod
    def ran(self, tap: Tap) -> None:
        """A tap has run, or was looked at."""

    @abstractmethod
    def end(self, tap: Tap) -> None:
        """Close a tap that has no members any more."""

    @abstractmethod
    def broke(self, tap: Tap) -> None:
        """A tap was put aside."""

    # --- the thread ---

    def _stop(self) -> None:
        self._stopping = True

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:  # noqa: BLE001 (the owner of the worker reports it)
            self.failures.put(Failure(None, error))
        self._close()

    def _close(self) -> None:
        self.helper.stop()
        with self._bell_lock:
            os.close(self._bell)
            self._bell = -1
        self._rounds.close()

    def _loop(self) -> None:
        look_at, more = self.progress, False
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # no system call here is to be interrupted
        if self._nice:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._nice)
        while not self._may_end():
            pressing = self.pressing()
            longest = BUDGETED_SECONDS if self._budget.limit else ROUND_SECONDS
            now, more = self.serve(PRESSING_SECONDS if pressing else longest, lagging=more)
            if now >= look_at:
                look_at = now + ROUND_SECONDS
                self._look_round()
            self._carry_out()
            if pressing or self.pressing():
                self.finish()
            if rest := self._spend():
                self._rest(rest)

    def serve(self, seconds: float, *, lagging: bool = False) -> tuple[float, bool]:
        """Wait at most so long for frames, and run the taps that have some. The monotonic time, and whether there are
        more; `lagging`: there were. By the thread, also in between of what takes long.
        """
        news = self._rounds.wait(seconds, lagging)
        self.progress, more = time.monotonic(), False
        for descriptor, event, ran in news:
            if descriptor == self._bell:
                os.eventfd_read(self._bell)
                continue
            tap = self._by_descriptor[descriptor]
            try:
                more |= self._turn(tap, event, ran=ran)
            except Exception as error:  # noqa: BLE001 (of any kind; see fail)
                self.fail(tap, error)
        return self.progress, more

    def _carry_out(self) -> None:
        while not self._orders.empty():
            self._orders.get()()

    def _spend(self) -> float:
        """Tell the budget what was spent since this was last done. How long to rest."""
        spent, self._spent = self._spent, time.thread_time()
        return self._budget.spend(self._spent - spent)

    def _rest(self, seconds: float) -> None:
        """Leave frames where they are for so long, or until something is under way. Orders are carried out."""
        for tap in list(self.taps):
            self.attempt(tap, tap.rest)
        bell = select.poll()
        bell.register(self._bell, select.POLLIN)
        begun = time.monotonic()
        until = begun + seconds
        while (left := until - time.monotonic()) > 0 and not (self._may_end() or self.pressing()):
            if bell.poll(left * 1000):
                os.eventfd_read(self._bell)
            self.progress = time.monotonic()
            self._carry_out()
        self._budget.note_rest(time.monotonic() - begun)

    def _may_end(self) -> bool:
        return self._stopping

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
        self.ran(tap)
        return more

    def _look_round(self) -> None:
        for tap in list(self.taps):
            if not tap.quiet():
                self.attempt(tap, partial(self._look, tap))

    def _look(self, tap: Tap) -> None:
        tap.look()
        self._note_failures(tap)
        self.ran(tap)

    def _note_failures(self, tap: Tap) -> None:
        for pipeline, error in tap.take_failures():
            self.failures.put(Failure(pipeline, error))

    # --- by the thread: its taps ---

    def add_tap(self, tap: Tap) -> None:
        """Run this tap from now on."""
        self.taps.append(tap)
        self.attempt(tap, lambda: self.register(tap))

    def attempt(self, tap: Tap, work: Callable[[], None]) -> None:
        """Do this for a tap, unless it is put aside; an error puts it aside."""
        if tap in self.broken:
            return
        try:
            work()
        except Exception as error:  # noqa: BLE001 (of any kind; see fail)
            self.fail(tap, error)

    def fail(self, tap: Tap, error: Exception) -> None:
        """Put the tap aside: an error ended its work, so nobody knows what state it is in."""
        self.broken.add(tap)
        tap.failure = f"an error in its work: {type(error).__name__}: {error}"
        self.unregister(tap)
        for pipeline in tap.pipelines:
            self.failures.put(Failure(pipeline, error))
        self.broke(tap)

    def register(self, tap: Tap) -> None:
        """Wait for its capture, too."""
        self._by_descriptor[tap.capture.fileno()] = tap
        self._rounds.register(tap.capture.fileno(), tap.native)

    def unregister(self, tap: Tap) -> None:
        """Do not wait for it any more, whatever has become of its descriptor."""
        for descriptor in [one for one, held in self._by_descriptor.items() if held is tap]:
            del self._by_descriptor[descriptor]
            with suppress(OSError):
                self._rounds.unregister(descriptor)


def reason(error: Exception) -> str:
    """An error in a few words, without its kind."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
