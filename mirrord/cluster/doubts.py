"""What no host says of a session by itself: that its source is nowhere, or that nobody receives its copies. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mirrord.cluster.derive import DESTINATION, SOURCE, ended
from mirrord.cluster.records import ClusterSession, SessionKey
from mirrord.cluster.shown import Shown
from mirrord.cluster.snapshot import Snapshot
from mirrord.errors import nearest, some
from mirrord.model import VmDestination, VmSource


class Told(NamedTuple):
    """A host: whether its agent lives, its halves, whether there are more, and why VMs are not found on it."""

    alive: bool
    sessions: Sequence[Shown]
    left_out: int
    managers: Sequence[str]


Hosts = Mapping[str, Told]


def nowhere(snapshot: Snapshot, hosts: Hosts, now: float) -> Iterator[Shown]:
    """The sessions that should run, and of which no host has the source."""
    if any(one.left_out for one in hosts.values()):
        return  # it may be among those
    there = {(one.mirror, one.session) for told in hosts.values() for one in told.sessions if one.side != DESTINATION}
    for key, one in snapshot.sessions.items():
        mirror = snapshot.mirrors.get(key[0])
        if key in there or mirror is None or not (mirror.enabled and one.session.enabled) or ended(mirror, now):
            continue
        yield Shown(*key, SOURCE, "", "waiting", _source(one, hosts))


def unheard(snapshot: Snapshot, hosts: Hosts) -> dict[SessionKey, str]:
    """The sessions that are sent to another host, and that none which lives says it receives; why."""
    living = {name: told for name, told in hosts.items() if told.alive}
    if any(one.left_out for one in living.values()):
        return {}
    received = {(one.mirror, one.session) for told in living.values() for one in told.sessions if one.side != SOURCE}
    sent = {(one.mirror, one.session) for told in living.values() for one in told.sessions if one.side != DESTINATION}
    travel = {key: one for key, one in snapshot.sessions.items() if one.travels}
    return {key: _destination(travel[key], hosts) for key in sorted(sent & travel.keys()) if key not in received}


def _source(one: ClusterSession, hosts: Hosts) -> str:
    source = one.session.source
    if isinstance(source, VmSource):
        return f"VM {source.vm!r} is on no host of the cluster that lives{_silent(hosts)}"
    if one.source_host is not None:
        return _host(one.source_host, hosts)
    return "no host of the cluster lives"


def _destination(one: ClusterSession, hosts: Hosts) -> str:
    end = one.session.destination
    if isinstance(end, VmDestination):
        where = f"VM {end.vm!r} is on no host of the cluster that lives{_silent(hosts)}"
    else:
        where = _host(str(one.destination_host), hosts)
    return f"nobody says that its copies arrive: {where}"


def _host(name: str, hosts: Hosts) -> str:
    if name not in hosts:
        return f"there is no host {name!r} in the cluster{nearest(name, list(hosts))}"
    return f"host {name!r} " + ("has not told of it yet" if hosts[name].alive else "is away")


def _silent(hosts: Hosts) -> str:
    """Where it may be, unseen."""
    silent: dict[str, list[str]] = {}
    for name, told in hosts.items():
        for why in told.managers if told.alive else ():
            silent.setdefault(why, []).append(name)
    said = [f"on {some(names)}: {why}" for why, names in silent.items()]
    return f" ({'; '.join(said)})" if said else ""
