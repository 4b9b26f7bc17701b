"""The workers there are, and which one runs what.

Sessions that send share workers, as many as there are processors: what they do waits for nothing. A session that writes
a file has one of its own, since a disk may not answer for as long as it likes; then the thread is stuck in the kernel,
and nobody else is held up.
"""

from __future__ import annotations

import errno
import itertools
import os
from typing import TYPE_CHECKING

from mirrord.control.logs import logger
from mirrord.dataplane.counters import Counters
from mirrord.dataplane.rounds import LATENCY_SECONDS
from mirrord.dataplane.tap import tap_of
from mirrord.dataplane.worker import ANSWER_SECONDS, Failure, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from mirrord.dataplane.budget import Budget
    from mirrord.dataplane.pipeline import Pipeline
    from mirrord.dataplane.tap import Tap

log = logger("workers")

STALLED_SECONDS = 5.0
"""A worker without progress for so long is told of; an idle one makes some each second."""

SHARED_SECONDS = 5.0
"""How long a worker of several sessions may take to end one, before it counts as stuck, which it has no cause to be."""


class Workers:
    """OSError or RuntimeError where the host has no descriptor, memory or thread for another one."""

    def __init__(self, nice: int, latency: float = LATENCY_SECONDS, budget: Budget | None = None) -> None:
        self._nice, self._latency, self._budget = nice, latency, budget
        self._shared: list[Worker] = []
        self._writers: list[Worker] = []
        self._numbers = itertools.count()
        self._stalled: list[str] = []  # as logged

    def least_busy(self, loads: Mapping[Worker, int], apart: Collection[Worker] = ()) -> Worker:
        """An idle worker, a new one while there are processors for it, or else the one with the fewest pipelines.

        `loads`: how many pipelines each has. None of those in `apart`: another one is made if need be.
        """
        fit = [one for one in self._shared if not (one in apart or one.ended or one.stands_still(STALLED_SECONDS))]
        load, worker = min(((loads.get(one, 0), one) for one in fit), key=lambda pair: pair[0], default=(1, None))
        if worker is not None and (load == 0 or not self.may_grow):
            return worker
        return self.another()

    def writer(self) -> Worker:
        """A new one, for a single session that writes a file."""
        return self._make("writer", self._writers)

    def _make(self, kind: str, row: list[Worker]) -> Worker:
        worker = Worker(f"{kind}-{next(self._numbers)}", self._nice, self._latency, self._budget)
        worker.start()
        row.append(worker)
        return worker

    def begin_to_end(self, pipelines: Sequence[Pipeline], worker: Worker) -> Callable[[], None]:
        """End pipelines of a worker, nothing lost on the way out. What it gives waits, so that more can end together.

        Where its worker is stuck, the rest is counted as lost.
        """
        own = worker in self._writers
        wait = worker.begin_to_remove(pipelines, ANSWER_SECONDS if own else SHARED_SECONDS)
        return lambda: self._ended(pipelines, worker, ended=wait())

    def _ended(self, pipelines: Sequence[Pipeline], worker: Worker, *, ended: bool) -> None:
        if not ended:
            log.error("a worker is stuck in the kernel: its sessions are given up", worker=worker.name)
            for pipeline in pipelines:
                _give_up(pipeline)
            worker.leave()
        if worker in self._writers:
            self._writers.remove(worker)
            if ended:
                worker.stop(ANSWER_SECONDS)
        elif worker.ended and worker in self._shared:
            self._shared.remove(worker)

    def stands_still(self, seconds: float) -> bool:
        """Whether a worker that sessions share made no progress for so long: one that waits for a disk harms nobody."""
        return any(worker.stands_still(seconds) for worker in list(self._shared))

    def stalled(self) -> list[str]:
        """The workers that make no progress, by name."""
        return [worker.name for worker in self._all() if worker.stands_still(STALLED_SECONDS)]

    def log_stalled(self) -> None:
        """Log which workers make no progress, when there are others than when this was last asked."""
        stalled = self.stalled()
        if stalled and stalled != self._stalled:
            log.error("worker makes no progress", workers=stalled)
        self._stalled = stalled

    def failures(self) -> list[tuple[Worker, Failure]]:
        """What went wrong since this was last asked."""
        return [(one, one.failures.get()) for one in self._all() for _ in range(one.failures.qsize())]

    def stop(self) -> None:
        """End them all, with what they may still run."""
        for worker in self._all():
            if not worker.stop(ANSWER_SECONDS):
                log.error("a worker is stuck in the kernel: it is left behind", worker=worker.name)
        self._shared.clear()
        self._writers.clear()

    def taps(self) -> set[Tap]:
        """All that they run, each once, also one that a worker hands over to another at this moment."""
        found: set[Tap] = set()
        while found != (again := {tap for worker in self._all() for tap in list(worker.taps)}):
            found = again
        return found

    @property
    def shared(self) -> list[Worker]:
        """Those that sessions share, and that get on."""
        return [one for one in self._shared if not (one.ended or one.stands_still(STALLED_SECONDS))]

    @property
    def may_grow(self) -> bool:
        """Whether there are processors for another one."""
        return len(self._shared) < len(os.sched_getaffinity(0))

    def another(self) -> Worker:
        """A new one for sessions to share."""
        return self._make("worker", self._shared)

    @property
    def all(self) -> list[Worker]:
        """Those that there are."""
        return self._all()

    def _all(self) -> list[Worker]:
        return [*self._shared, *self._writers]


def stall(pipeline: Pipeline, worker: Worker) -> str:
    """Why a pipeline does not get on, whose worker does not; "" where it does."""
    if not worker.stands_still(STALLED_SECONDS):
        return ""
    return pipeline.transmit.stuck()


def what(error: BaseException) -> str:
    """An error in a few words, with its kind."""
    return f"{type(error).__name__}: {error}"


def _give_up(pipeline: Pipeline) -> None:
    """Count as lost all that a pipeline has not got to, whose worker is stuck in it."""
    row, pipeline.counters = pipeline.counters.row, Counters()
    pipeline.counters.row[:] = row  # not the ones that its worker goes on with, should it come back
    if (tap := tap_of(pipeline)) is not None:
        pipeline.lose(tap.left_behind())
    if pipeline.plan.transmit.waits:
        pipeline.counters.add(pipeline.transmit.lost(errno.EIO), max(pipeline.counters.unaccounted(), 0))
