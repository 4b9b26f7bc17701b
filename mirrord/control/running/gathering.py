"""Which sources are captured by one socket on all devices of their network namespace, and which each by its own.

Together are captured, for their order, the devices of a session that has several; and, for what it costs, the sources
of different sessions where they are many: a socket for each of 200 quiet ones costs a frame several times what it costs
to read them as one, see dataplane/tap.py. So the first few sources get a socket each, and what begins from then on is
gathered. A source that is captured already stays where it is, and whoever else wants its frames joins there.

Apart stay busy sources, which would flood the others' ring; those whose capture is trimmed; files and streams, each of
which has a worker of its own; and sources that several workers divide. So does all of a namespace where devices that
nobody mirrors are busy. Of a mirror that drops duplicates one worker reads all sources, so that it stays with them when
another mirror's move: its sources are gathered among themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from mirrord.control.host.bystanders import too_busy
from mirrord.control.host.device_rate import Place
from mirrord.control.logs import logger
from mirrord.control.planning.plan import Add, Key
from mirrord.control.running.duplicates import Group
from mirrord.control.running.record import Running
from mirrord.dataplane.filter.by_device import Extent
from mirrord.dataplane.filter.rules import Selection
from mirrord.dataplane.tap import Tap
from mirrord.dataplane.trimming import may_trim
from mirrord.plans import CapturePlan, Netns

log = logger("pipelines")

FEW = 8
"""Sources of a namespace, captured in the same way, that get a socket each."""

MOST_MEMBERS = 1024
"""Sessions of sources that are gathered, from which on no other source is: each change of one goes through all."""

MOST_INSTRUCTIONS = 3000
"""Of the socket's program, from which on no other source is gathered: it is to say exactly what is wanted of each. The
kernel takes 4096."""

BYTES_AN_INSTRUCTION = 25
"""Of net.core.optmem_max: where it is 20480, the kernel takes 819 to 1,010 instructions of such programs."""

_ANY = Selection()


@dataclass(slots=True)
class Gathered:
    """What one socket on all devices captures for sources of different sessions, now or soon."""

    members: int = 0
    program: Extent = field(default_factory=Extent)

    def has_room(self, instructions: int) -> bool:
        return self.members < MOST_MEMBERS and self.program.instructions < instructions


class Source(NamedTuple):
    """What those agree on that share a capture, whatever they select."""

    capture: CapturePlan  # of one device, or of all
    mirror: str | None = None  # that drops duplicates, if it does

    @property
    def everywhere(self) -> Source:
        """The same of all devices."""
        return self._replace(capture=alone(self.capture.everywhere))


class Captured(NamedTuple):
    """What is captured: devices by sockets of their own, and by sockets on all devices."""

    alone: set[Source]
    together: dict[Source, Gathered]


def captured_by(taps: Iterable[Tap]) -> Captured:
    """What these taps capture."""
    found = Captured(set(), {})
    for tap in taps:
        pipelines = tap.pipelines
        if not isinstance(tap.plan, CapturePlan) or tap.failure or not pipelines:
            continue
        memory = pipelines[0].group
        source = Source(alone(tap.plan), memory.mirror if isinstance(memory, Group) else None)
        if not tap.everywhere:
            found.alone.add(source)
        elif pipelines[0].plan.workers == 1:  # which others may join
            group = found.together.setdefault(source, Gathered())
            group.members += len(pipelines)
            for device, selection in tap.wanted:
                group.program.add(device, selection)
    return found


def alone(plan: CapturePlan) -> CapturePlan:
    """What the plans of a device's capture have in common, whatever is selected and whoever else is captured."""
    return replace(plan, selection=_ANY, together=False)


def how_captured(
    adds: Sequence[Add],
    running: Mapping[Key, Running],
    taps: Iterable[Tap],
    busy: Collection[Place],
    apart: Mapping[Key, Collection[object]],
) -> list[Add]:
    """The same, each of whose captures says whether it is `together` with others. Takes 0.1 s where bystanders may be
    busy. `busy`: sources that have much traffic. `apart`: sessions that are not to run where they did, by workers.
    """
    chosen = gathered(adds, captured_by(taps), busy, apart)
    crowded = _crowded(chosen, running)
    if ordered := crowded & {capture.netns for add in adds if (capture := _capture(add)) and capture.together}:
        for netns in ordered:
            log.warning(
                "devices that nobody mirrors are busy: sources are captured one by one, copies of different devices"
                " leave in any order",
                netns=netns.path if netns else "",
            )
    return [
        _as(add, together=False) if (capture := _capture(add)) and capture.netns in crowded else add for add in chosen
    ]


def _crowded(adds: Sequence[Add], running: Mapping[Key, Running]) -> frozenset[Netns | None]:
    """The namespaces of these where devices that nobody mirrors are too busy for a socket on all of them."""
    together = {capture.netns for add in adds if (capture := _capture(add)) and capture.together}
    mirrored: dict[Netns | None, set[str]] = {netns: set() for netns in together}
    plans = (*(add.pipeline for add in adds), *(one.plan for one in running.values())) if together else ()
    for plan in plans:
        if isinstance(plan.capture, CapturePlan) and plan.capture.netns in together:
            mirrored[plan.capture.netns].add(plan.capture.device)
    return too_busy(mirrored)


def gathered(
    adds: Sequence[Add], there: Captured, busy: Collection[Place], apart: Mapping[Key, Collection[object]]
) -> list[Add]:
    """The same, of which those are `together` that are to be gathered, beside what is there."""
    fit: dict[Source, list[Add]] = {}
    for add in adds:
        capture = _capture(add)
        if capture is not None and _may_be_gathered(add) and not apart.get(add.key):
            mirror = None if add.pipeline.duplicates_of is None else add.key.mirror
            fit.setdefault(Source(alone(capture), mirror), []).append(add)
    new: dict[Source, list[Source]] = {}  # sources that are not captured yet, by what could be shared
    for source in fit:
        if source not in there.alone and (source.capture.netns, source.capture.device) not in busy:
            new.setdefault(source.everywhere, []).append(source)
    chosen: set[Source] = set()
    room = most_instructions()
    for shared, sources in new.items():
        group = there.together.get(shared, Gathered())
        now = sum(one.everywhere == shared for one in there.alone) + len(group.program.devices)
        many = now + len(sources) > FEW
        for source in sources:
            index = source.capture.index
            if index in group.program.devices or (many and group.has_room(room)):
                chosen.add(source)
                group.members += len(fit[source])
                for add in fit[source]:
                    group.program.add(index, add.pipeline.capture.selection)
    together = {add.key for source in chosen for add in fit[source]}
    return [_as(add, together=True) if add.key in together else add for add in adds]


def most_instructions() -> int:
    """How many the socket's program may have on this host."""
    try:
        room = int(Path("/proc/sys/net/core/optmem_max").read_text())
    except OSError:  # not shown in this network namespace
        room = 20480  # older kernels' own
    return min(MOST_INSTRUCTIONS, room // BYTES_AN_INSTRUCTION)


def _may_be_gathered(add: Add) -> bool:
    plan, capture = add.pipeline, add.pipeline.capture
    if not isinstance(capture, CapturePlan) or capture.together or capture.raw:
        return False
    return plan.workers == 1 and not (plan.transmit.waits or may_trim(plan))


def _capture(add: Add) -> CapturePlan | None:
    capture = add.pipeline.capture
    return capture if isinstance(capture, CapturePlan) else None


def _as(add: Add, *, together: bool) -> Add:
    capture = _capture(add)
    if capture is None or capture.together == together:
        return add
    return replace(add, pipeline=replace(add.pipeline, capture=replace(capture, together=together)))
