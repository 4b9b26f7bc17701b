"""Who wants a tap's frames, and how the native core is told: by device, since a tap may be on several."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from mirrord.dataplane.filter.assembler import pack
from mirrord.dataplane.filter.by_device import Wanted
from mirrord.dataplane.filter.several import compile_sets
from mirrord.dataplane.native import NativeMember

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mirrord.dataplane.filter.rules import Selection
    from mirrord.dataplane.filter.several import Candidate
    from mirrord.dataplane.pipeline import Pipeline

FOR_EVER = (1 << 64) - 1
ASKED = -1
"""The matcher of a device that has one member: that is asked itself."""


@dataclass(slots=True)
class Member:
    """A pipeline and what it gets of a tap."""

    pipeline: Pipeline
    device: int  # its index; 0: it wants whatever the tap captures
    got: int  # frames, before it was one
    since: int = 0  # nanoseconds since 1970: what was captured before is not its
    until: int = FOR_EVER  # the same of what was not captured before: it goes on elsewhere
    leaves: bool = False
    parted: bool = False  # it gets nothing that is still to be taken
    broken: bool = False  # an error ended its work: what it gets counts as lost
    leaves_at: int | None = None  # when so many frames have been read


class NativeMatcher(NamedTuple):
    """A program that gives the number of a set of those that may want a frame."""

    program: bytes
    sets: tuple[tuple[Candidate, ...], ...]


class Stretch(NamedTuple):
    """A device by its index, and its members: so many from the first on; by which matcher they are chosen from."""

    device: int
    first: int
    members: int
    matcher: int


class Described(NamedTuple):
    """What the core's Tap.have takes."""

    members: tuple[NativeMember, ...]
    matchers: tuple[NativeMatcher, ...]
    stretches: tuple[Stretch, ...]


def described(members: Sequence[Member]) -> Described:
    """Whose a device's frames may be. Devices of which the same is wanted share a matcher."""
    members = sorted(members, key=attrgetter("device"))
    groups = groups_of(Wanted(member.device, member.pipeline.selection) for member in members)
    numbers = {group: n for n, group in enumerate(dict.fromkeys(group for group in groups.values() if group[1:]))}
    stretches, first = [], 0
    for device, group in groups.items():
        stretches.append(Stretch(device, first, len(group), numbers.get(group, ASKED)))
        first += len(group)
    return Described(
        tuple(NativeMember(one.pipeline.native, one.since, one.until) for one in members),
        tuple(NativeMatcher(pack(made.program), made.sets) for made in map(compile_sets, numbers)),
        tuple(stretches),
    )


def groups_of(wanted: Iterable[Wanted]) -> dict[int, tuple[Selection, ...]]:
    """What each device's members want, one after the other, by the devices' indexes, ascending."""
    groups: dict[int, list[Selection]] = {}
    for device, selection in wanted:
        groups.setdefault(device, []).append(selection)
    return {device: tuple(groups[device]) for device in sorted(groups)}


def one_a_way(pipelines: Iterable[Pipeline]) -> list[Pipeline]:
    """One of those that leave by the same way, for each way."""
    return list({id(pipeline.transmit): pipeline for pipeline in pipelines}.values())
