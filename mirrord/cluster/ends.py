"""Where the destinations of a cluster's sessions are, as hosts have written it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from mirrord.cluster.index import Index
from mirrord.cluster.records import End, SessionKey


class Ends(NamedTuple):
    """By session and host; and which there are by host, and by VNI. Values: they may be read on any thread."""

    by_session: Mapping[SessionKey, Mapping[str, End]] = {}
    by_host: Mapping[str, frozenset[SessionKey]] = {}
    by_vni: Mapping[int | None, frozenset[tuple[SessionKey, str]]] = {}

    @classmethod
    def of(cls, by_session: Mapping[SessionKey, Mapping[str, End]]) -> Ends:
        """These, with their indexes."""
        kept = KeptEnds()
        for session, hosts in by_session.items():
            for end in hosts.values():
                kept.put(session, end.host, end)
        return kept.read()

    def of_host(self, host: str) -> dict[SessionKey, End]:
        """Those that this host wrote."""
        return {session: self.by_session[session][host] for session in self.by_host.get(host, ())}

    def others_by_vni(self, vni: int, sessions: Mapping[SessionKey, object]) -> Iterable[End]:
        """Those of sessions that are not among these."""
        there = self.by_vni.get(vni, ())
        return (self.by_session[session][host] for session, host in there if session not in sessions)


class KeptEnds:
    """Ends that are kept up, one at a time."""

    def __init__(self) -> None:
        self._by_session: dict[SessionKey, Mapping[str, End]] = {}
        self._shared = False  # with whoever has read it
        self._by_host, self._by_vni = Index[str, SessionKey](), Index[int | None, tuple[SessionKey, str]]()

    def get(self, session: SessionKey) -> Mapping[str, End]:
        return self._by_session.get(session, {})

    def put(self, session: SessionKey, host: str, end: End | None) -> None:
        """What this host says of the session's destination from now on; None: nothing."""
        hosts = dict(self.get(session))
        old = hosts.pop(host, None)
        if self._shared:
            self._by_session, self._shared = self._by_session.copy(), False
        if old is not None:
            self._by_vni.put(old.vni, (session, host), there=False)
        if end is not None:
            hosts[host] = end
            self._by_vni.put(end.vni, (session, host), there=True)
        self._by_host.put(host, session, there=end is not None)
        if hosts:
            self._by_session[session] = hosts
        else:
            self._by_session.pop(session, None)

    def pieces(self) -> Iterator[None]:
        """Have `read` less to do, a piece at a time. Nothing may be put in meanwhile."""
        self._by_host.read()
        yield
        self._by_vni.read()
        yield

    def read(self) -> Ends:
        """As they are now."""
        self._shared = True
        return Ends(self._by_session, self._by_host.read(), self._by_vni.read())
