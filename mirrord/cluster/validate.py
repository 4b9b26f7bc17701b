"""Whether a cluster's objects go together, before they are written. Pure.

What depends on a host (whether a device is there, whether a VM's NIC may be a destination) is that host's daemon's to
say: `status` tells what it refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mirrord.cluster import records
from mirrord.cluster.records import ClusterNetwork, ClusterSession
from mirrord.control.targets import SECTION, Target
from mirrord.errors import ConfigError, Problem, nearest
from mirrord.model import DeviceDestination, DeviceSource, Filter, Mirror, TunnelDestination, VmDestination, VmSource
from mirrord.model.mirrors import MOST_SESSIONS
from mirrord.model.validation import join, session_path
from mirrord.values.addresses import AddressRange
from mirrord.values.names import parse_name

Objects = Mapping[str, Mapping[str, Any]]
"""By section (flow_networks, filters, mirrors) and name, as they were written; sessions within their mirrors."""


def validate(before: Objects, after: Objects) -> tuple[Problem, ...]:
    """What is doubtful. ConfigError with every problem that a change brings. One that was there before, of a record
    that a newer agent or somebody by hand wrote, keeps nobody from changing something else.
    """
    changed = {
        section: [name for name, one in after[section].items() if before[section].get(name) != one]
        for section in ("flow_networks", "filters", "mirrors")
    }
    problems = list(_names(changed))
    filters = {}
    for name in changed["flow_networks"]:
        problems += records.examine_network(after["flow_networks"][name], join("flow_networks", name)).problems
    for name in changed["filters"]:
        filters[name], found = records.examine_filter(after["filters"][name], join("filters", name))
        problems += found
    sessions: list[ClusterSession] = []
    for name in changed["mirrors"]:
        known = before["mirrors"].get(name, {}).get("sessions", [])
        found_sessions, found = _mirror(name, after["mirrors"][name], known)
        sessions += found_sessions
        problems += found
    if problems:
        raise ConfigError(problems)
    refused = [*_together(after), *_same_ends(sessions)]
    there = {*_together(before)} if refused else set()
    if refused := [one for one in refused if one not in there]:
        raise ConfigError(refused, "refused")
    return tuple(_doubts(filters, sessions, after))


def _together(objects: Objects) -> Iterator[Problem]:
    """What is wrong with objects that name each other."""
    yield from _uses(objects)
    yield from _shared_networks(objects)
    yield from _shared_addresses(objects)


def _names(changed: Mapping[str, Iterable[str]]) -> Iterator[Problem]:
    for section, names in changed.items():
        for name in names:
            try:
                parse_name(name)
            except ValueError as error:
                yield Problem(join(section, name), str(error))


def _mirror(name: str, written: Any, known: Sequence[Any]) -> tuple[list[ClusterSession], list[Problem]]:
    """The sessions that can be read; and the problems but of those that were `known` before."""
    path = join("mirrors", name)
    model, problems = records.examine_mirror(written, path)
    sessions, listed = [], written.get("sessions", [])
    if not isinstance(listed, list):
        return [], [*problems, Problem(join(path, "sessions"), "expected a list")]
    if len(listed) > MOST_SESSIONS:
        problems.append(Problem(join(path, "sessions"), f"expected at most {MOST_SESSIONS}, not {len(listed)}"))
    names: set[str] = set()
    for each in listed:
        called = str(each.get("name", "")) if isinstance(each, dict) else ""
        one, found = records.examine_session(name, each, session_path(name, called))
        problems += [] if found and each in known else found
        if called in names:
            problems.append(Problem(session_path(name, called), "another session of the mirror has this name"))
        names.add(called)
        if one is not None:
            sessions.append(one)
            if isinstance(model, Mirror) and model.duplicates == "drop" and one.session.workers > 1:
                why = 'one worker reads all sources of a mirror with duplicates = "drop"'
                problems.append(Problem(join(session_path(name, called), "workers"), why))
    return sessions, problems


def _uses(objects: Objects) -> Iterator[Problem]:
    """Names that are used and defined nowhere."""
    for mirror, written in objects["mirrors"].items():
        uses = [(join("mirrors", mirror, "flow_network"), "flow_network", written.get("flow_network"))]
        uses += [
            (join(session_path(mirror, str(one.get("name"))), "filter"), "filter", one.get("filter"))
            for one in written.get("sessions", [])
        ]
        uses += [
            (join(session_path(mirror, str(one.get("name"))), "source", "flow_network"), "flow_network", name)
            for one in written.get("sessions", [])
            if (name := received(one)) is not None
        ]
        for path, kind, name in uses:
            if name is not None and name not in objects[SECTION[kind]]:
                words = kind.replace("_", " ")
                yield Problem(path, f"there is no {words} {name!r}{nearest(str(name), objects[SECTION[kind]])}")


def received(session: Mapping[str, Any]) -> Any:
    """The flow network that a session's source is received by."""
    source = session.get("source")
    return source.get("flow_network") if isinstance(source, Mapping) else None


def _shared_networks(objects: Objects) -> Iterator[Problem]:
    users: dict[str, str] = {}
    for mirror, written in objects["mirrors"].items():
        name = written.get("flow_network")
        if name is not None and users.setdefault(name, mirror) != mirror:
            path = join("mirrors", mirror, "flow_network")
            yield Problem(path, f"flow network {name!r} is already used at mirrors.{users[name]}")


def _shared_addresses(objects: Objects) -> Iterator[Problem]:
    """Each flow network gives out its own addresses, without looking at those of another."""
    ranges: dict[str, AddressRange] = {}
    for name, written in objects["flow_networks"].items():
        model, problems = records.examine_network(written, "")
        if problems or not isinstance(model, ClusterNetwork):
            continue
        one = model.addresses
        for other, there in ranges.items():
            if one.first.version == there.first.version and _overlap(one, there):
                why = f"{one} has addresses of flow network {other!r} ({there}): two hosts could have the same"
                yield Problem(join("flow_networks", name, "addresses"), why)
        ranges[name] = one


def _overlap(one: AddressRange, other: AddressRange) -> bool:
    return int(one.first) <= int(other.last) and int(other.first) <= int(one.last)


def _same_ends(sessions: list[ClusterSession]) -> Iterator[Problem]:
    for one in sessions:
        source, end = one.session.source, one.session.destination
        path = join(session_path(one.mirror, one.name), "destination")
        if isinstance(source, DeviceSource) and isinstance(end, DeviceDestination):
            same_host = one.source_host == one.destination_host and source.netns == end.netns
            if same_host and end.device in source.device:
                yield Problem(path, f"{end.device!r} is also the source")
        if not isinstance(end, VmDestination):
            continue
        if isinstance(source, VmSource) and (source.vm, source.nic) == (end.vm, end.nic):
            yield Problem(path, f"NIC {end.nic} of {end.vm!r} is also the source")
        if end.nic == 0 and not end.allow_default_route:
            why = f"is the first NIC of {end.vm!r}, by which it is reached: choose another, or set allow_default_route"
            yield Problem(join(path, "nic"), why)


def _doubts(filters: Mapping[str, Filter], sessions: list[ClusterSession], objects: Objects) -> Iterator[Problem]:
    for name, one in filters.items():
        if all(rule.action == "reject" for rule in one.rules):
            yield Problem(join("filters", name), "has only reject rules: nothing is copied")
    for each in sessions:
        network = objects["mirrors"][each.mirror].get("flow_network")
        path = session_path(each.mirror, each.name)
        if each.travels and network is None:
            why = "its mirror has no flow network: it runs only while both ends are on one host"
            yield Problem(path, why)
        if isinstance(each.session.destination, TunnelDestination) and each.session.destination.local is not None:
            yield Problem(join(path, "destination", "local"), "is an address of one host only")


def named_anew(before: Objects, after: Objects) -> set[tuple[str, str]]:
    """The hosts that sessions name since a change, each with where."""
    return _named_hosts(after, before) - _named_hosts(before, after)


def _named_hosts(objects: Objects, other: Objects) -> set[tuple[str, str]]:
    """By sessions of mirrors that the other ones have not just so."""
    return {
        (join(session_path(mirror, str(one.get("name"))), side, "host"), end["host"])
        for mirror, written in objects["mirrors"].items()
        if other["mirrors"].get(mirror) != written
        for one in written.get("sessions", [])
        for side in ("source", "destination")
        if isinstance(end := one.get(side), Mapping) and isinstance(end.get("host"), str)
    }


def used_at(objects: Objects, kind: str, name: str) -> list[str]:
    """Where a filter or a flow network is used."""
    found = []
    for mirror, written in objects["mirrors"].items():
        if kind == "flow_network" and written.get("flow_network") == name:
            found.append(join("mirrors", mirror, "flow_network"))
        if kind == "flow_network":
            found += [
                join(session_path(mirror, one["name"]), "source", "flow_network")
                for one in written.get("sessions", [])
                if received(one) == name
            ]
        if kind == "filter":
            found += [
                join(session_path(mirror, one["name"]), "filter")
                for one in written.get("sessions", [])
                if one.get("filter") == name
            ]
    return found


def alike(target: Target, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two objects say the same, however they are written; ones that cannot be read do not."""
    return (read := _read(target, one)) is not None and read == _read(target, other)


def _read(target: Target, said: Mapping[str, Any]) -> Any:
    plain = {key: value for key, value in said.items() if key != "name"}
    if target.kind == "flow_network":
        return records.examine_network(plain, "").model
    if target.kind == "filter":
        return records.examine_filter(plain, "").model
    sessions = [
        records.examine_session(target.name, {key: value for key, value in one.items() if key != "vni"}, "").model
        for one in plain.get("sessions", [])
        if isinstance(one, dict)
    ]
    mirror = records.examine_mirror(plain, "").model
    if mirror is None or None in sessions:
        return None
    return mirror, [one._replace(written={}) for one in sessions if one is not None]
