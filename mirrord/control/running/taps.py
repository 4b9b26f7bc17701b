"""The sources that are captured, each once, and the workers that read them.

Sessions that ask for the same device in the same way share its tap, see dataplane/tap.py. A session whose source is
divided by n workers shares n of them, each on a thread of its own.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial

from mirrord.control.host.bystanders import Bystanders
from mirrord.control.host.device_rate import Place
from mirrord.control.logs import logger
from mirrord.control.planning.plan import Add, Key
from mirrord.control.running.balance import Levels, spare_bystanders
from mirrord.control.running.gathering import alone, how_captured
from mirrord.control.running.record import Running
from mirrord.control.running.workers import Workers
from mirrord.dataplane.memory import Memory
from mirrord.dataplane.pipeline import Pipeline
from mirrord.dataplane.tap import Tap, open_taps
from mirrord.dataplane.worker import Worker
from mirrord.plans import CapturePlan

log = logger("pipelines")

LOOK_SECONDS = 5.0
"""How often it is looked whether sources had better be captured otherwise."""

Shared = tuple[object, ...]
"""What sessions that share a source agree on."""


class Taps:
    """`place` and `remove` block, as Pipelines' calls do; the rest answers at once, on any thread.

    Sources are opened by the threads of `openers`, rings out of `memory`.
    """

    def __init__(self, workers: Workers, openers: Executor, *, native: bool, memory: Memory) -> None:
        self._workers, self._openers, self._native, self._memory = workers, openers, native, memory
        self._taps: dict[Shared, list[tuple[Tap, Worker]]] = {}
        self._lost: dict[str, int] = {}  # frames, by source, on workers that are gone
        self._bystanders, self._levels = Bystanders(), Levels()
        self._looked = time.monotonic()

    def how_captured(
        self,
        adds: Sequence[Add],
        running: Mapping[Key, Running],
        busy: Collection[Place],
        apart: Mapping[Key, Collection[Worker]],
    ) -> list[Add]:
        """As gathering.how_captured, beside what is captured now."""
        return how_captured(adds, running, self._workers.taps(), busy, apart)

    def place(
        self,
        opened: Mapping[Key, Sequence[Pipeline]],
        busy: Collection[Place],
        apart: Mapping[Key, Collection[Worker]],
    ) -> dict[Key, list[Worker] | Exception]:
        """Give frames to these sessions' pipelines. Returns the workers of each, or why it cannot have any.

        `busy`: sources that are captured by a ring at once, if that is open. `apart`: workers that a session is not to
        be on, where it can be had.
        """
        self._adopt()
        wanted: dict[Shared, list[Key]] = {}
        for key, pipelines in opened.items():
            shared = _shared(key, pipelines[0])
            if any(worker in apart.get(key, ()) for _, worker in self._taps.get(shared, [])):
                shared = *_alone(key, pipelines[0]), "apart"  # from the tap that its work failed on
            wanted.setdefault(shared, []).append(key)
        new = [shared for shared in wanted if not self._runs(shared)]
        results: dict[Key, list[Worker] | Exception] = {}
        made = self._openers.map(lambda shared: self._open([opened[key] for key in wanted[shared]], busy), new)
        for shared, taps in zip(new, made, strict=True):
            keys = wanted.pop(shared)
            aside = {worker for key in keys for worker in apart.get(key, ())}
            placed = taps if isinstance(taps, Exception) else self._add(shared, keys[0], opened[keys[0]], taps, aside)
            results |= dict.fromkeys(keys, placed)
        for shared, keys in wanted.items():
            running = self._taps[shared]
            for (tap, worker), column in zip(running, zip(*(opened[key] for key in keys), strict=True), strict=True):
                worker.join(tap, column)
            workers = [worker for _, worker in running]
            results |= dict.fromkeys(keys, workers)
        return results

    def remove(self, removed: Mapping[Key, Sequence[tuple[Pipeline, Worker]]]) -> None:
        """Forward what was captured for these, give them nothing more, and close them."""
        if not removed:
            return
        leaving: dict[Worker, list[Pipeline]] = {}
        for pipelines in removed.values():
            for pipeline, worker in pipelines:
                leaving.setdefault(worker, []).append(pipeline)
        for wait in [self._workers.begin_to_end(several, worker) for worker, several in leaving.items()]:
            wait()
        there = self._workers.all
        for worker in leaving:
            for source, lost in worker.lost.items() if worker not in there else ():
                self._lost[source] = self._lost.get(source, 0) + lost
        gone = {pipeline for several in leaving.values() for pipeline in several}  # also where their worker is stuck
        for shared in [shared for shared, taps in self._taps.items() if gone.issuperset(taps[0][0].pipelines)]:
            del self._taps[shared]

    def balance(self) -> dict[Pipeline, Worker]:
        """See every few seconds whether what one socket captures had better be captured by several, or be read by
        another worker. Returns whose worker is another one now.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return {}
        self._looked = now
        self._adopt()
        spare_bystanders(self._workers.all, self._bystanders)
        moved = self._levels.look(self._workers, now)
        for shared, taps in self._taps.items():
            self._taps[shared] = [(tap, moved.get(tap, worker)) for tap, worker in taps]
        return {pipeline: worker for tap, worker in moved.items() for pipeline in tap.pipelines}

    def workers(self, key: Key, pipeline: Pipeline) -> list[Worker]:
        """On which workers what shares this session's source comes to run; none where it is not captured any more."""
        shared = _shared(key, pipeline)
        return [worker for _, worker in self._taps[shared]] if self._runs(shared) else []

    def read(self) -> int:
        """Frames that were taken out of the rings and sockets that there are."""
        return sum(tap.seen.read for tap in self._workers.taps())

    def waiting(self) -> int:
        """Frames of these that were taken and not read yet."""
        return sum(tap.seen.waiting for tap in self._workers.taps())

    def left_out(self) -> int:
        """Frames of these that there was no room for while workers rested."""
        return sum(tap.left_out for tap in self._workers.taps())

    def lost(self) -> dict[str, int]:
        """Frames that there was no room for, by source: each once, whoever it was for."""
        counted = dict(self._lost)
        ended = [one for worker in self._workers.all for one in worker.lost.items()]
        for source, lost in (*ended, *((tap.source, tap.lost) for tap in self._workers.taps())):
            counted[source] = counted.get(source, 0) + lost
        return counted

    def _runs(self, shared: Shared) -> bool:
        """Whether there is a source to join: one whose worker is gone, or that an error put aside, is none."""
        taps = self._taps.get(shared, [])
        if taps and all(tap.pipelines and not worker.ended and not tap.failure for tap, worker in taps):
            return True
        self._taps.pop(shared, None)
        return False

    def _adopt(self) -> None:
        """Have whoever comes join sources, too, that have parted from those that they were captured together with."""
        known, parted = {id(tap) for taps in self._taps.values() for tap, _ in taps}, []
        for worker in self._workers.all:
            for tap in list(worker.taps):
                pipelines, plan = tap.pipelines, tap.plan
                if pipelines and id(tap) not in known and isinstance(plan, CapturePlan) and not tap.everywhere:
                    shared = alone(plan), pipelines[0].plan.workers, pipelines[0].group
                    if shared not in self._taps:
                        self._taps[shared] = [(tap, worker)]
                        parted.append(tap.source)
        if parted:
            log.info("sources are read by a socket of their own from now on", sources=parted)

    def _open(self, pipelines: Sequence[Sequence[Pipeline]], busy: Collection[Place]) -> list[Tap] | Exception:
        captures = [session[0].plan.capture for session in pipelines]
        rings = any(isinstance(one, CapturePlan) and (one.netns, one.device) in busy for one in captures)
        try:
            return open_taps(pipelines, native=self._native, busy=rings, memory=self._memory)
        except Exception as error:  # noqa: BLE001 (of any kind: other sources are not to mind)
            return error

    def _add(
        self, shared: Shared, key: Key, pipelines: Sequence[Pipeline], taps: Sequence[Tap], apart: Collection[Worker]
    ) -> list[Worker] | Exception:
        workers: list[Worker] = []
        writes = pipelines[0].plan.transmit.waits
        loads = {worker: len(worker.pipelines) for worker in self._workers.all}
        try:
            for _ in taps:
                together = self._together(pipelines[0].group, apart)
                another = (
                    self._workers.writer if writes else partial(self._workers.least_busy, loads, [*workers, *apart])
                )
                workers.append(together or another())
        except Exception as error:  # noqa: BLE001 (as above)
            for tap in taps:
                tap.close()
            return error
        self._taps[shared] = list(zip(taps, workers, strict=True))
        for tap, worker in self._taps[shared]:
            if not tap.everywhere:
                tap.source = key.source
            worker.add(tap)
        return workers

    def _together(self, group: object, apart: Collection[Worker]) -> Worker | None:
        """The worker that runs this group's sources, if there is one; None for no group."""
        running = (one for taps in self._taps.values() for one in taps) if group is not None else ()
        for tap, worker in running:
            if any(one.group is group for one in tap.pipelines) and not (worker.ended or worker in apart):
                return worker
        return None


def _shared(key: Key, pipeline: Pipeline) -> Shared:
    """A tunnel's end is one session's alone; so is the source of one that waits for a disk."""
    plan = pipeline.plan
    if not plan.capture.shared or plan.transmit.waits:
        return (key,)
    assert isinstance(plan.capture, CapturePlan)  # no other is shared
    capture = plan.capture.everywhere if plan.capture.together else alone(plan.capture)
    return capture, plan.workers, pipeline.group


def _alone(key: Key, pipeline: Pipeline) -> Shared:
    """What only the sources of one session share, where they are captured together; else one source's alone."""
    capture = pipeline.plan.capture
    together = isinstance(capture, CapturePlan) and capture.together
    return (*key[:2], *_shared(key, pipeline)) if together else (key,)
