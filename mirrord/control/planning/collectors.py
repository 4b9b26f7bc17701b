"""Who copies go to: a plan needs to know the routes there, and which of them are dead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mirrord.control.host.view import Collector, Lease, Path
from mirrord.control.planning.ways_out.tunnel import collectors
from mirrord.model import Config, Daemon, Session, TunnelDestination

NO_LEASES: Mapping[str, Lease] = {}


class Ways(NamedTuple):
    """Where copies go: of all sessions the ways, of those that are enabled who is at their ends."""

    paths: frozenset[Path]
    active: frozenset[Collector]


class _Known(NamedTuple):
    session: Session
    lease: Lease | None
    collectors: tuple[Collector, ...]


class Collectors:
    """Gives those of one configuration after the other: a session that is there as before is not looked at."""

    def __init__(self) -> None:
        self._daemon: Daemon | None = None
        self._sessions: dict[int, _Known] = {}  # by their identity: they never change
        self._each: dict[Collector, Collector] = {}  # equal ones are the same object, which is told apart faster

    def __call__(self, config: Config, leases: Mapping[str, Lease] = NO_LEASES) -> Ways:
        """Those of a configuration, with what its flow networks have taken."""
        known = self._sessions if config.daemon == self._daemon else {}
        now: dict[int, _Known] = {}
        every: dict[int, Collector] = {}
        active: dict[int, Collector] = {}
        for mirror in config.mirrors.values():
            lease = leases.get(mirror.flow_network or "")
            for session in mirror.sessions:
                if not isinstance(session.destination, TunnelDestination):
                    continue
                one = known.get(id(session))
                if one is None or one.lease != lease:
                    found = collectors(session.destination, config, lease)
                    one = _Known(session, lease, tuple(self._each.setdefault(each, each) for each in found))
                now[id(session)] = one
                for each in one.collectors:
                    every[id(each)] = each
                    if mirror.enabled and session.enabled:
                        active[id(each)] = each
        self._daemon, self._sessions = config.daemon, now
        self._each = {each: each for each in every.values()}
        return Ways(frozenset(each.path for each in every.values()), frozenset(active.values()))
