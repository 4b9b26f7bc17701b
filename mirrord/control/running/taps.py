"""The sources that are captured, each once, and the workers that read them.

Sessions that ask for the same device in the same way share its tap, see dataplane/tap.py. A session whose source is
divided by n workers shares n of them, each on a thread of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from mirrord.control.host.device_rate import Place
from mirrord.control.planning.plan import Key
from mirrord.dataplane.capture.packet_socket import CapturePlan
from mirrord.dataplane.filter.rules import Selection
from mirrord.dataplane.pipeline import Pipeline, PipelinePlan
from mirrord.dataplane.rounds import LATENCY_SECONDS
from mirrord.dataplane.tap import Tap, open_taps
from mirrord.dataplane.transmit.file import FilePlan
from mirrord.dataplane.worker import Worker

OPENERS = 8

_ANY = Selection()

Shared = tuple[object, ...]
"""What sessions that share a source agree on."""


class Taps:
    """`place` and `remove` block, as Pipelines' calls do; the rest answers at once, on any thread."""

    def __init__(self, *, native: bool, nice: int = 0, latency: float = LATENCY_SECONDS) -> None:
        self._native, self._nice, self._latency = native, nice, latency
        self.workers: list[Worker] = []
        self._taps: dict[Shared, list[tuple[Tap, Worker]]] = {}

    def place(
        self, opened: Mapping[Key, Sequence[Pipeline]], busy: Collection[Place]
    ) -> dict[Key, list[Worker] | OSError]:
        """Have these sessions' pipelines get frames: the workers of each, or why it cannot have any. `busy`: sources
        that are captured by a ring at once, if that is open.
        """
        wanted: dict[Shared, list[Key]] = {}
        for key, pipelines in opened.items():
            wanted.setdefault(_shared(key, pipelines[0].plan), []).append(key)
        new = [shared for shared in wanted if shared not in self._taps]
        results: dict[Key, list[Worker] | OSError] = {}
        with ThreadPoolExecutor(min(len(new), OPENERS) or 1, thread_name_prefix="opener") as openers:
            made = openers.map(lambda shared: self._open([opened[key] for key in wanted[shared]], busy), new)
            for shared, taps in zip(new, made, strict=True):
                keys = wanted.pop(shared)
                placed = taps if isinstance(taps, OSError) else self._add(shared, keys[0], taps)
                results |= dict.fromkeys(keys, placed)
        for shared, keys in wanted.items():
            running = self._taps[shared]
            for (tap, worker), column in zip(running, zip(*(opened[key] for key in keys), strict=True), strict=True):
                worker.join(tap, column)
            workers = [worker for _, worker in running]
            results |= dict.fromkeys(keys, workers)
        return results

    def remove(self, removed: Mapping[Key, Sequence[tuple[Pipeline, Worker]]]) -> None:
        """Have these get no more frames, once they have got what was captured for them; then they are closed."""
        leaving: dict[Worker, list[Pipeline]] = {}
        for pipelines in removed.values():
            for pipeline, worker in pipelines:
                leaving.setdefault(worker, []).append(pipeline)
        for worker, several in leaving.items():
            worker.remove(*several)
        for shared in [shared for shared, taps in self._taps.items() if not taps[0][0].pipelines]:
            del self._taps[shared]

    def lost(self) -> dict[str, int]:
        """Frames that there was no room for, by source: each once, whoever it was for."""
        counted: dict[str, int] = {}
        for worker in list(self.workers):
            running = [(tap.source, tap.seen.lost) for tap in list(worker.taps)]
            for source, lost in (*worker.lost.items(), *running):
                counted[source] = counted.get(source, 0) + lost
        return counted

    def stalled(self, seconds: float) -> list[str]:
        """The workers that made no progress for so long."""
        now = time.monotonic()
        return [self.name(worker) for worker in self.workers if now - worker.progress > seconds]

    def name(self, worker: Worker) -> str:
        """What a worker is called in logs."""
        return _name(self.workers.index(worker))

    def stop(self) -> None:
        """End the workers, and what still runs on them."""
        for worker in self.workers:
            worker.stop()
        self.workers.clear()

    def _open(self, pipelines: Sequence[Sequence[Pipeline]], busy: Collection[Place]) -> list[Tap] | OSError:
        capture = pipelines[0][0].plan.capture
        rings = isinstance(capture, CapturePlan) and (capture.netns, capture.device) in busy
        try:
            return open_taps(pipelines, native=self._native, busy=rings)
        except OSError as error:
            return error

    def _add(self, shared: Shared, key: Key, taps: Sequence[Tap]) -> list[Worker]:
        workers: list[Worker] = []
        for tap in taps:
            worker = self._least_busy(workers)
            workers.append(worker)
            tap.source = key.source
            self._taps.setdefault(shared, []).append((tap, worker))
            worker.add(tap)
        return workers

    def _least_busy(self, apart: Sequence[Worker]) -> Worker:
        """An idle worker, a new one while there are processors for it, or else the one with the fewest pipelines.

        None of those in `apart`: another one is made if need be.
        """
        loads = dict.fromkeys(self.workers, 0)
        for taps in self._taps.values():
            for tap, worker in taps:
                loads[worker] += len(tap.pipelines)
        free = [(load, worker) for worker, load in loads.items() if worker not in apart]
        load, found = min(free, key=lambda pair: pair[0], default=(1, None))
        if found is not None and (load == 0 or len(self.workers) >= len(os.sched_getaffinity(0))):
            return found
        made = Worker(_name(len(self.workers)), self._nice, self._latency)
        made.start()
        self.workers.append(made)
        return made


def _shared(key: Key, plan: PipelinePlan) -> Shared:
    """A tunnel's end is one session's alone; so is the source of one that waits for a disk."""
    if not isinstance(plan.capture, CapturePlan) or isinstance(plan.transmit, FilePlan):
        return (key,)
    return replace(plan.capture, selection=_ANY), plan.workers


def _name(n: int) -> str:
    return f"worker-{n}"
