"""Which sources of a session leave by one way: those that are captured together, so that its copies are in order.

One of them opens the way, the others follow it; all run on the same worker, as parts of one tap or of what parted from
it. One that is opened apart from a worker that its work failed on leaves by a way of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor

from mirrord.control.planning.plan import Add, Key
from mirrord.control.running.record import Running
from mirrord.control.running.taps import Taps
from mirrord.dataplane.pipeline import Pipeline
from mirrord.dataplane.worker import Worker
from mirrord.plans import CapturePlan, PipelinePlan

_Way = tuple[object, ...]
Opened = dict[Key, "list[Pipeline] | Exception"]


def open_all(
    adds: Sequence[Add],
    open_one: Callable[[Add, Sequence[Pipeline]], list[Pipeline] | Exception],
    *,
    openers: Executor,
    taps: Taps,
    running: Mapping[Key, Running],
    apart: Mapping[Key, Collection[Worker]],
) -> Opened:
    """Open these, several at a time: who opens one is given the pipelines whose way it takes, or none."""
    groups: dict[_Way, list[Add]] = {}
    for add in adds:
        way = _way(add.key, add.pipeline)
        groups.setdefault((add.key,) if way is None or apart[add.key] else way, []).append(add)
    leaders = {group[0].key: _leaders(group[0], taps, running) for way, group in groups.items() if len(way) > 1}
    firsts = [group[0] for group in groups.values()]
    opened = openers.map(lambda add: open_one(add, leaders.get(add.key, [])), firsts)
    made = dict(zip((add.key for add in firsts), opened, strict=True))
    rest = [(add, made[group[0].key]) for group in groups.values() for add in group[1:]]
    followed = openers.map(lambda one: one[1] if isinstance(one[1], Exception) else open_one(*one), rest)
    return made | dict(zip((add.key for add, _ in rest), followed, strict=True))


def _leaders(add: Add, taps: Taps, running: Mapping[Key, Running]) -> list[Pipeline]:
    """The pipelines of another source of the session, which run where this one is going to."""
    way = _way(add.key, add.pipeline)
    for key, one in running.items():
        if key[:2] == add.key[:2] and _way(key, one.plan) == way and not one.failure:
            pipelines, workers = zip(*one.placed, strict=True)
            if list(workers) == taps.workers(key, pipelines[0]):
                return list(pipelines)
    return []


def _way(key: Key, plan: PipelinePlan) -> _Way | None:
    """What sources agree on that leave by one way; None: it leaves by its own."""
    if not isinstance(plan.capture, CapturePlan) or not plan.capture.together:
        return None
    return *key[:2], plan.capture.everywhere, plan.transmit, plan.workers
