"""Has sources that are captured by one socket, or read by one worker, go on by several, where there is a reason.

A socket on all devices harms those that nobody mirrors when these send much. A worker is one processor's work: where it
is nearly all of that, and another has room, one of its sources goes there; where it has but one socket for many
sources, half of these get a second one first. No frame is lost by either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from mirrord.control.host.bystanders import Bystanders
from mirrord.control.logs import logger
from mirrord.control.running.workers import Workers
from mirrord.dataplane.tap import Tap
from mirrord.dataplane.worker import Worker
from mirrord.plans import CapturePlan, Netns

log = logger("pipelines")

T = TypeVar("T")

FULL = 0.7
"""Of a processor: what a worker takes that has to give some away."""

ROOM = 0.3
"""Of a processor: how much less one takes that gets it."""

GAIN = 0.1
"""Of a processor: how much less the busier of the two is to take after a source has moved, or it stays."""


def spare_bystanders(workers: Iterable[Worker], bystanders: Bystanders) -> None:
    """Have sources that are gathered part, each for itself, where devices that nobody mirrors have become busy."""
    everywhere: list[tuple[Netns | None, Tap, Worker]] = []
    mirrored: dict[Netns | None, set[str]] = {}
    for worker in workers:
        for tap in list(worker.taps):
            if isinstance(tap.plan, CapturePlan):
                mirrored.setdefault(tap.plan.netns, set()).update(_devices(tap))
                everywhere += [(tap.plan.netns, tap, worker)] * tap.may_spread
    crowded = bystanders.look({netns: mirrored[netns] for netns, *_ in everywhere})
    for netns, tap, worker in everywhere:
        if netns in crowded:
            log.info("devices that nobody mirrors are busy: sources get a socket each", worker=worker.name)
            worker.spread(tap)


def _devices(tap: Tap) -> set[str]:
    captures = [pipeline.plan.capture for pipeline in tap.pipelines]
    return {capture.device for capture in captures if isinstance(capture, CapturePlan)}


class Levels:
    """How busy workers and their taps were, from look to look."""

    def __init__(self) -> None:
        self._at = 0.0
        self._spent: dict[Worker, float] = {}
        self._read: dict[Tap, int] = {}

    def look(self, workers: Workers, now: float) -> dict[Tap, Worker]:
        """Relieve the busiest worker, if another has room. Returns the tap that moved, and where to."""
        before, elapsed, self._at = self._spent, now - self._at, now
        there = workers.shared
        self._spent = {worker: worker.spent for worker in there}
        loads = {worker: (spent - before.get(worker, spent)) / elapsed for worker, spent in self._spent.items()}
        last, self._read = self._read, {tap: tap.seen.read for worker in there for tap in list(worker.taps)}
        gained = {tap: read - last.get(tap, read) for tap, read in self._read.items()}
        busiest = max(there, key=lambda one: loads[one], default=None)
        if busiest is None or loads[busiest] < FULL:
            return {}
        least = min(there, key=lambda one: loads[one])
        has_room = loads[busiest] - loads[least] >= ROOM
        if not has_room and not workers.may_grow:
            return {}
        read = {tap: gained[tap] for tap in list(busiest.taps) if gained.get(tap, 0) > 0}
        worth = worth_moving(read, loads[busiest], loads[least] if has_room else 0.0)
        fit = [tap for tap in worth if _is_apart(tap, busiest)]
        to = least if has_room or not fit else workers.another()
        for tap in fit:
            if busiest.hand_over(tap, to):
                log.info("source moved: its worker was busy", source=tap.source, worker=to.name, before=busiest.name)
                return {tap: to}
        largest = max(read, key=lambda one: read[one], default=None)
        if largest is not None and not fit and largest.may_spread and not _remembers(largest):
            busiest.halve(largest)
        return {}


def worth_moving(read: Mapping[T, int], busy: float, other: float) -> list[T]:
    """Which of a worker's sources to move to another worker, the best first. `read`: frames of each. `busy` and
    `other`: what the two workers take. A source that has nearly all frames would make the other one as busy.
    """
    every = max(sum(read.values()), 1)
    shares = {one: busy * frames / every for one, frames in read.items()}
    after = {one: max(busy - share, other + share) for one, share in shares.items()}
    return sorted((one for one in read if after[one] <= busy - GAIN), key=lambda one: after[one])


def _is_apart(tap: Tap, worker: Worker) -> bool:
    """Whether it shares neither a way out nor what was copied with others of its worker."""
    ways = {id(pipeline.transmit) for pipeline in tap.pipelines}
    others = [pipeline for one in list(worker.taps) if one is not tap for pipeline in one.pipelines]
    return not _remembers(tap) and not any(id(pipeline.transmit) in ways for pipeline in others)


def _remembers(tap: Tap) -> bool:
    """Whether it remembers, with others of its worker, what was copied."""
    return any(pipeline.group is not None for pipeline in tap.pipelines)
