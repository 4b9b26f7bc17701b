"""Which sessions of a mirror come before another on the same source: what they accept is theirs, and not copied again.

With overlap = "first" these are all that have a higher priority. With "all" each session copies, but to equal
destinations the first one alone: the receiver could not tell the two copies apart. Both are copied where shared_vni is
set in both sessions, or where they are of two mirrors.

The filters alone decide. A session keeps what it accepts also while it waits, and what it samples out or cannot send.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import cache

from mirrord.control.planning.sources import matches
from mirrord.model import DeviceSource, Mirror, Model, Session, Source, VxlanDestination
from mirrord.values import GLOB

LAST = 65536  # behind every priority that can be given

TOLD_APART_BY = (
    *("device", "vlan", "path", "listen", "remote", "port", "netns", "erspan_type"),
    *("vni", "vni_egress", "key", "key_egress", "session_id", "session_id_egress"),
)
"""What a receiver knows of where a copy came from."""


class Order:
    """A mirror's sessions in their order, by their sources and ends: those before one of them are found without a
    look at the others.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._sessions = sorted(mirror.active, key=lambda one: one.priority or LAST)  # stable: else as written
        self._places = {session.name: place for place, session in enumerate(self._sessions)}
        first = mirror.overlap == "first"
        ends: dict[Hashable, int] = {}  # numbered: to hash one takes as long as all else here
        self._ends = [0 if first else ends.setdefault(end_of(one.destination), len(ends)) for one in self._sessions]
        self._named: dict[Hashable, list[int]] = {}  # places, by an end and a source's name
        self._patterns: dict[Hashable, list[tuple[int, str]]] = {}  # the same with a pattern, by an end and a namespace
        for place, session in enumerate(self._sessions):
            to = session.destination
            if first or not (_looks_inside(session) or (isinstance(to, VxlanDestination) and to.shared_vni)):
                self._enter(place, session.source)

    def before(self, session: Session, device: str) -> list[Session]:
        """Those that come before one of the sessions on a device of its source, in their order."""
        own, source = self._places[session.name], session.source
        end = self._ends[own]
        if _looks_inside(session):
            return []
        found = {place for place in self._named.get((end, _name(source, device)), ()) if place < own}
        if isinstance(source, DeviceSource):
            patterns = self._patterns.get((end, source.netns), ())
            found.update(place for place, pattern in patterns if place < own and matches(device, pattern))
        return [self._sessions[place] for place in sorted(found)]

    def _enter(self, place: int, source: Source) -> None:
        end = self._ends[place]
        for device in source.device if isinstance(source, DeviceSource) else ("",):
            if isinstance(source, DeviceSource) and GLOB.search(device):
                self._patterns.setdefault((end, source.netns), []).append((place, device))
            else:
                self._named.setdefault((end, _name(source, device)), []).append(place)


def _looks_inside(session: Session) -> bool:
    """Whether a session means frames inside of tunnel packets: what it takes, and another does, are not compared."""
    return getattr(session.source, "inside", None) is not None


def _name(source: Source, device: str) -> Hashable:
    """What is the same of two sources that share this device's frames, or their tunnel's; patterns are no names."""
    if isinstance(source, DeviceSource):
        return source.netns, device
    return source.model_copy(update={"vlan": None})


def end_of(destination: Model) -> Hashable:
    """What is the same of destinations that a receiver cannot tell apart."""
    return type(destination), *(getattr(destination, key) for key in _told_apart_by(type(destination)))


@cache
def _told_apart_by(kind: type[Model]) -> tuple[str, ...]:
    return tuple(key for key in TOLD_APART_BY if key in kind.model_fields)
