"""What the store's configuration says at a moment: every record that can be read, and what is wrong with the others.

Values, which never change: who has a snapshot may read it on any thread. `reader.py` makes one after the other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mirrord.cluster.records import ClusterNetwork, ClusterSession, SessionKey
from mirrord.control.guests.inventory import Place
from mirrord.model import Filter, Mirror


class Unread(NamedTuple):
    """A record that this agent cannot use, and why."""

    kind: str
    name: str
    mirror: str
    path: str
    message: str


ANYWHERE = "", ""


class Users(NamedTuple):
    """Sessions by what one of their ends is: ("vm", a VM's name or UUID), ("host", where a device or the like is), or
    ANYWHERE: a VM by a glob, too.
    """

    by_end: Mapping[tuple[str, str], frozenset[SessionKey]] = {}

    def of(self, host: str, vms: Iterable[str]) -> set[SessionKey]:
        """Those whose end may be on this host, where these VMs are."""
        ends = (ANYWHERE, ("host", host), *(("vm", vm) for vm in vms))
        return {session for end in ends for session in self.by_end.get(end, ())}


@dataclass(frozen=True)
class Snapshot:
    """The cluster's configuration. `guard` is the revision at which it was changed last; `written` is what the records
    say, by section and name, sessions within their mirrors, in the words of the API.
    """

    cluster_id: str = ""
    guard: int = 0
    networks: Mapping[str, ClusterNetwork] = field(default_factory=dict)
    filters: Mapping[str, Filter] = field(default_factory=dict)
    mirrors: Mapping[str, Mirror] = field(default_factory=dict)
    sessions: Mapping[SessionKey, ClusterSession] = field(default_factory=dict)
    written: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unread: tuple[Unread, ...] = ()
    sources: Users = field(default_factory=Users)
    destinations: Users = field(default_factory=Users)
    follow: Collection[str] = frozenset()
    """Mirrors one of whose sessions may come to another host at any time, with the VM that it names."""
    places: frozenset[Place] = frozenset()
    """The managers of the VMs that sessions name."""
