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
from mirrord.values.names import GLOB

LAST = 65536  # behind every priority that can be given

TOLD_APART_BY = (
    *("device", "vlan", "path", "listen", "remote", "port", "netns", "erspan_type"),
    *("vni", "vni_egress", "key", "key_egress", "session_id", "session_id_egress"),
)
"""What a receiver knows of where a copy came from."""


Listed = dict[Hashable, dict[int, Session]]
"""Sessions by their identity, those together that mean the same."""


class Order:
    """A mirror's sessions in their order, by their sources and ends: those before one of them are found without a
    look at the others.

    Made of the one `before` it costs what comes and goes: sessions that stay are the same objects. The one before is
    not to be used any more.
    """

    def __init__(self, mirror: Mirror, before: Order | None = None) -> None:
        self.first = mirror.overlap == "first"
        if before is not None and before.first != self.first:
            before = None
        sessions = sorted(mirror.active, key=lambda one: one.priority or LAST)  # stable: else as written
        self.sessions = {id(one): one for one in sessions}
        self._places = {key: place for place, key in enumerate(self.sessions)}
        self.named: Listed = {} if before is None else before.named  # by an end and a source's name
        self.patterns: Listed = {} if before is None else before.patterns  # by an end and a namespace
        self._changed: set[int] | None = None  # None: all
        was = {} if before is None else before.sessions
        gone = [one for key, one in was.items() if key not in self.sessions]
        come = [one for key, one in self.sessions.items() if key not in was]
        for one in gone:
            self._leave(one)
        for one in come:
            self._enter(one)
        stay = [key for key in was if key in self.sessions]
        if before is not None and stay == [key for key in self.sessions if key in was]:
            self._changed = self._behind([*gone, *come])

    def changed(self, session: Session) -> bool:
        """Whether others may come before one of the sessions than did in the order before."""
        return self._changed is None or id(session) in self._changed

    def before(self, session: Session, device: str) -> list[Session]:
        """Those that come before one of the sessions on a device of its source, in their order."""
        if _looks_inside(session):
            return []
        end, source = self._end(session), session.source
        found = dict(self.named.get((end, _name(source, device)), {}))
        if isinstance(source, DeviceSource):
            patterns = self.patterns.get((end, source.netns), {})
            found |= {key: one for key, one in patterns.items() if _means(one.source, device)}
        own = self._places[id(session)]
        places = {place: one for key, one in found.items() if (place := self._places[key]) < own and self._takes(one)}
        return [places[place] for place in sorted(places)]

    def _takes(self, session: Session) -> bool:
        """Whether what it accepts is not copied for those behind it."""
        to = session.destination
        return self.first or not (_looks_inside(session) or (isinstance(to, VxlanDestination) and to.shared_vni))

    def _end(self, session: Session) -> Hashable:
        return None if self.first else end_of(session.destination)

    def _lists(self, session: Session) -> list[tuple[Listed, Hashable]]:
        """Where it stands."""
        end, source = self._end(session), session.source
        if not isinstance(source, DeviceSource):
            return [(self.named, (end, _name(source, "")))]
        return [
            (self.patterns, (end, source.netns)) if GLOB.search(one) else (self.named, (end, _name(source, one)))
            for one in source.device
        ]

    def _enter(self, session: Session) -> None:
        for listed, at in self._lists(session):
            listed.setdefault(at, {})[id(session)] = session

    def _leave(self, session: Session) -> None:
        for listed, at in self._lists(session):
            if at in listed:  # not twice, of two patterns
                listed[at].pop(id(session), None)
                if not listed[at]:
                    del listed[at]

    def _behind(self, moved: list[Session]) -> set[int] | None:
        """Those that these may have come or gone before, by their identity; None: it may be any."""
        touched: dict[Hashable, Listed] = {}
        for one in moved:
            for listed, at in self._lists(one):
                if listed is self.patterns:
                    return None
                touched[at] = listed
            if isinstance(one.source, DeviceSource):
                touched[self._end(one), one.source.netns] = self.patterns
        return {id(one) for one in moved} | {key for at, listed in touched.items() for key in listed.get(at, ())}


def _means(source: Source, device: str) -> bool:
    return isinstance(source, DeviceSource) and any(matches(device, one) for one in source.device)


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
