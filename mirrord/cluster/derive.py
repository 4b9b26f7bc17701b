"""A host's part of the cluster: from the configuration, the ends and what is on this host to what its daemon shall run.

Pure. Of a session whose two ends are on different hosts, the source's host runs the source half, from the source into
VXLAN to the destination's host by the mirror's flow network, and that host the destination half, from there to the
destination. Filter, limits and all else belong to the source half. The destination half stands for as long as the
destination is here, wherever the source is: a source that moves away needs nothing of it. Where both ends are on one
host the session runs there as it was written.

A VM that migrates is on two hosts for a while, and traffic passes one of them. As a source it is mirrored on both, so
that its first frame on the new host is. As a destination its new host listens from the start, but is the one to send
to only once the VM runs there. The old one listens on after the VM has left: what still comes is counted there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from mirrord import expiry
from mirrord.cluster.ends import Ends
from mirrord.cluster.records import RECEIVING, ClusterSession, SessionKey
from mirrord.cluster.snapshot import Snapshot
from mirrord.control.guests.inventory import Guest, Inventory, Place
from mirrord.control.logs import logger
from mirrord.model import DeviceDestination, Mirror, TunnelDestination, TunnelSource, VmDestination, VmSource
from mirrord.values.names import GLOB

log = logger("cluster")

SOURCE, DESTINATION, BOTH = "source", "destination", "both"

HERE, MOVES, LEFT, ELSEWHERE = "here", "moves", "left", "elsewhere"
"""Where a destination is: on this host; held still by a migration to or from it; away since a moment; or none of it."""


class Here(NamedTuple):
    """A host: its name, its devices by flow network, the address that it has in each, and the guests on it; the
    sessions whose destinations were here lately, each with whether sources are still told to send here; and why it
    has no address in a flow network where that is known.
    """

    host: str
    devices: Mapping[str, str]
    addresses: Mapping[str, str]
    guests: Inventory
    left: Mapping[SessionKey, bool] = {}
    without: Mapping[str, str] = {}


class Half(NamedTuple):
    """What this host has of a session; `reason` says why it does not run, "" where the daemon was told to."""

    mirror: str
    session: str
    side: str
    reason: str = ""


@dataclass(frozen=True)
class Part:
    """What the daemon shall run, by section and name in its own words; what of each session is here; the flow networks
    in which the host needs an address and has none; the destinations that are to be sent to here, with their flow
    networks; the sessions whose destinations are here; and the flow networks in which an address will be needed as
    soon as a VM arrives.
    """

    objects: Mapping[str, Mapping[str, Any]]
    halves: tuple[Half, ...] = ()
    lacking: frozenset[str] = frozenset()
    ends: Mapping[SessionKey, str] = field(default_factory=dict)
    destinations: frozenset[SessionKey] = frozenset()
    ahead: frozenset[str] = frozenset()


def derive(snapshot: Snapshot, ends: Ends, here: Here, now: float = 0.0) -> Part:
    """What this host shall do at a time, in seconds since 1970."""
    return _Derivation(snapshot, ends, here).part(now)


def ended(mirror: Mirror, now: float) -> bool:
    """Whether the time of a mirror is over."""
    end = expiry.end(mirror.expires)
    return end is not None and end <= now


class _Waiting(Exception):  # noqa: N818 (it is no fault)
    """Why this half does not run."""


class _Derivation:
    def __init__(self, snapshot: Snapshot, ends: Ends, here: Here) -> None:
        self.snapshot, self.ends, self.here = snapshot, ends, here
        self.running = {place: [one for one in told.guests if one.runs] for place, told in here.guests.items()}
        self.called: dict[tuple[Place, str], list[Guest]] = {}  # by name, and by UUID
        for place, guests in self.running.items():
            for guest in guests:
                for name in {guest.name, guest.id}:
                    self.called.setdefault((place, name), []).append(guest)
        self.objects: dict[str, dict[str, Any]] = {"flow_networks": {}, "filters": {}, "mirrors": {}}
        self.halves: list[Half] = []
        self.lacking: set[str] = set()
        self.here_ends: dict[SessionKey, str] = {}
        self.destinations: set[SessionKey] = set()

    def part(self, now: float) -> Part:
        names = {name for _, name in self.called}
        candidates = self.snapshot.sources.of(self.here.host, names)
        candidates |= self.snapshot.destinations.of(self.here.host, names)
        candidates |= self.here.left.keys() & self.snapshot.sessions.keys()
        for key in sorted(candidates):
            one, mirror = self.snapshot.sessions[key], self.snapshot.mirrors.get(key[0])
            if mirror is None or not (mirror.enabled and one.session.enabled) or ended(mirror, now):
                continue
            destination = self._where_destination_is(one)
            if self._source_is_here(one):
                self._try(one, mirror, BOTH if destination == HERE else SOURCE, self._source_half)
            if destination != ELSEWHERE and self._comes_from_elsewhere(one):
                self._try(one, mirror, DESTINATION, self._destination_half)
            if destination in (HERE, MOVES):
                self.destinations.add(key)
        ahead = frozenset(self._prepare(now)) - self.lacking
        lacking, destinations = frozenset(self.lacking), frozenset(self.destinations)
        return Part(self.objects, tuple(self.halves), lacking, self.here_ends, destinations, ahead)

    def _prepare(self, now: float) -> Iterator[str]:
        """Have the daemon take the addresses that a VM which arrives will need: to find them free takes a second. The
        flow networks in which the host has none yet.
        """
        for name in sorted(self.snapshot.follow):
            mirror = self.snapshot.mirrors.get(name)
            if mirror is None or not mirror.enabled or ended(mirror, now):
                continue
            network = mirror.flow_network
            if network is None or network not in self.snapshot.networks or network not in self.here.devices:
                continue
            if network in self.here.addresses:
                self._mirror(name, self._network(mirror))
            else:
                yield network

    # --- what is here ---

    def _source_is_here(self, one: ClusterSession) -> bool:
        source = one.session.source
        if isinstance(source, VmSource):
            place = Place("vm", source.connection)
            globbed = (fnmatchcase(guest.name, source.vm) for guest in self.running.get(place, ()))
            return (place, source.vm) in self.called or (bool(GLOB.search(source.vm)) and any(globbed))
        return one.source_host in (None, self.here.host)

    def _where_destination_is(self, one: ClusterSession) -> str:
        end = one.session.destination
        if isinstance(end, VmDestination):
            found = self.called.get((Place("vm", end.connection), end.vm))
            if found:
                return MOVES if all(guest.moves for guest in found) else HERE
            return LEFT if one.key in self.here.left else ELSEWHERE
        here = isinstance(end, DeviceDestination) and one.destination_host == self.here.host
        return HERE if here else ELSEWHERE

    def _is_sent_to_here(self, one: ClusterSession) -> bool:
        """Whether sources are to be told that they reach the destination by this host."""
        where = self._where_destination_is(one)
        if where == MOVES:
            own = self.ends.by_session.get(one.key, {}).get(self.here.host)
            return own is not None and bool(own.address) and not own.stale
        return where == HERE or self.here.left.get(one.key, False)

    def _comes_from_elsewhere(self, one: ClusterSession) -> bool:
        """Whether copies may come from another host, now or later."""
        return one.travels and one.source_host != self.here.host

    # --- the halves ---

    def _try(self, one: ClusterSession, mirror: Mirror, side: str, make: Any) -> None:
        reason = ""
        try:
            make(one, mirror, side)
        except _Waiting as waiting:
            reason = str(waiting)
        except Exception:
            log.exception("a bug", mirror=one.mirror, session=one.name)  # one session holds up no other one
            reason = "what this host shall do of it cannot be worked out, which is a bug: its agent's log tells more"
        self.halves.append(Half(one.mirror, one.name, side, reason))

    def _source_half(self, one: ClusterSession, mirror: Mirror, side: str) -> None:
        written = dict(one.written)
        tunnelled = isinstance(one.session.destination, TunnelDestination)
        if one.travels and side != BOTH:
            written["destination"] = {"type": "vxlan", **self._remote(one, mirror)}
            tunnelled = True
        network = self._network(mirror) if tunnelled else None
        if (received := _received(one)) is not None:
            self._named(received)
        if (name := one.session.filter) is not None:
            if name not in self.snapshot.filters:
                raise _Waiting(f"there is no filter {name!r} that this agent can read")
            self.objects["filters"][name] = self.snapshot.written["filters"][name]
        self._add(one, network, written)

    def _remote(self, one: ClusterSession, mirror: Mirror) -> dict[str, Any]:
        if mirror.flow_network is None:
            raise _Waiting("its destination is on another host, and its mirror has no flow network to reach it by")
        if one.vni is None:
            raise _Waiting("it has no VNI: set the mirror's flow_network again")
        # those of a session that was called otherwise are known by its VNI, until they are there by the new name
        known = self.ends.by_session.get(one.key, {}).values() or self.ends.others_by_vni(
            one.vni, self.snapshot.sessions
        )
        there = [end for end in known if end.host != self.here.host]
        last = max(there, key=lambda end: (bool(end.address), not end.stale, end.revision), default=None)
        if last is None or not last.address:
            raise _Waiting(_unknown(one))
        return {"remote": last.address, "vni": one.vni}

    def _destination_half(self, one: ClusterSession, mirror: Mirror, _: str) -> None:
        if mirror.flow_network is None or one.vni is None:
            raise _Waiting("its mirror has no flow network by which copies could come from another host")
        network = self._network(mirror)
        end = {**one.written["destination"], "original_vlan": getattr(one.session.destination, "original_vlan", "keep")}
        end.pop("host", None)
        source = {"type": "vxlan", "flow_network": network, "vni": one.vni}
        written = {"name": f"{one.name}{RECEIVING}", "source": source, "direction": "ingress", "destination": end}
        self._add(one, network, written)
        if self._is_sent_to_here(one):
            self.here_ends[one.key] = mirror.flow_network

    def _network(self, mirror: Mirror) -> str | None:
        """The mirror's flow network, which this host has a device and an address for."""
        return None if mirror.flow_network is None else self._named(mirror.flow_network)

    def _named(self, name: str) -> str:
        network, device = self.snapshot.networks.get(name), self.here.devices.get(name)
        if network is None:
            raise _Waiting(f"there is no flow network {name!r} that this agent can read")
        if device is None:
            raise _Waiting(f"this host has no device for flow network {name!r}: see devices in its agent.toml")
        if name not in self.here.addresses:
            self.lacking.add(name)
            why = self.here.without.get(name, "")
            raise _Waiting(f"this host has no address in flow network {name!r} yet{why and ': '}{why}")
        said = self.snapshot.written["flow_networks"][name]
        kept = {key: said[key] for key in ("description", "gateway") if key in said}
        address = f"{self.here.addresses[name]}/{network.addresses.prefix_length}"
        self.objects["flow_networks"][name] = {**kept, "device": device, "addresses": address}
        return name

    def _add(self, one: ClusterSession, network: str | None, written: Mapping[str, Any]) -> None:
        self._mirror(one.mirror, network)["sessions"].append(dict(written))

    def _mirror(self, name: str, network: str | None) -> dict[str, Any]:
        mirrors = self.objects["mirrors"]
        if name not in mirrors:
            said = self.snapshot.written["mirrors"][name]
            mirrors[name] = {key: value for key, value in said.items() if key != "flow_network"} | {"sessions": []}
        if network is not None:
            mirrors[name]["flow_network"] = network
        found: dict[str, Any] = mirrors[name]
        return found


def _received(one: ClusterSession) -> str | None:
    """The flow network that a tunnel's copies come by."""
    return one.session.source.flow_network if isinstance(one.session.source, TunnelSource) else None


def _unknown(one: ClusterSession) -> str:
    end = one.session.destination
    if isinstance(end, VmDestination):
        return f"VM {end.vm!r} is on no host of the cluster now"
    return f"host {one.destination_host!r} does not say that its destination can be reached there"
