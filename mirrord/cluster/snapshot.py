"""What the store's configuration says at a moment: every record that can be read, and what is wrong with the others.

Pure. A record that is the same as before is not read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mirrord.cluster import records
from mirrord.cluster.etcd import Found
from mirrord.cluster.keys import Keys
from mirrord.cluster.records import ClusterNetwork, ClusterSession
from mirrord.control.logs import logger
from mirrord.errors import Problem
from mirrord.model import DeviceDestination, Filter, Mirror, VmDestination, VmSource
from mirrord.model.validation import Examined, join, session_path
from mirrord.values import GLOB

log = logger("cluster")

SessionKey = tuple[str, str]
"""Mirror and session."""


class Unread(NamedTuple):
    """A record that this agent cannot use, and why."""

    kind: str
    name: str
    mirror: str
    path: str
    message: str


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
    sources: Users = field(default_factory=lambda: Users({}, {}, ()))
    destinations: Users = field(default_factory=lambda: Users({}, {}, ()))
    follow: frozenset[str] = frozenset()
    """Mirrors one of whose sessions may come to another host at any time, with the VM that it names."""


class Users(NamedTuple):
    """Sessions by what one of their ends is: a VM by name or UUID, something on a host, or anything on any host."""

    by_vm: Mapping[str, tuple[SessionKey, ...]]
    by_host: Mapping[str, tuple[SessionKey, ...]]
    anywhere: tuple[SessionKey, ...]  # VMs by a glob, too

    def of(self, host: str, vms: Iterable[str]) -> set[SessionKey]:
        """Those whose end may be on this host, where these VMs are."""
        found = {*self.anywhere, *self.by_host.get(host, ())}
        for vm in vms:
            found.update(self.by_vm.get(vm, ()))
        return found


Parsed = tuple[dict[str, Any], Any, list[Problem]]


class Reader:
    """Makes snapshots, one after the other."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._known: dict[str, tuple[int, Parsed]] = {}

    def snapshot(self, config: Mapping[str, Found]) -> Snapshot:
        """Of all keys below config/."""
        known, self._known = self._known, {}
        parsed: dict[str, dict[tuple[str, ...], Parsed]] = {section: {} for section in _EXAMINERS}
        unread: list[Unread] = []
        for key, found in sorted(config.items(), key=lambda item: (item[1].made, item[0])):
            section, *name = key.removeprefix(self._keys.config).split("/")
            if section not in parsed or len(name) != (2 if section == "sessions" else 1):
                continue  # the id, the guard, or what a newer version has
            before = known.get(key)
            one = before[1] if before and before[0] == found.modified else _parsed(section, name, found.value)
            self._known[key] = found.modified, one
            parsed[section][tuple(name)] = one
            unread += [
                Unread(
                    section.removesuffix("s"), name[-1], name[0] if len(name) > 1 else "", each.path, each.expectation
                )
                for each in one[2]
            ]
        return self._put_together(config, parsed, unread)

    def _put_together(
        self, config: Mapping[str, Found], parsed: Mapping[str, Mapping[tuple[str, ...], Parsed]], unread: list[Unread]
    ) -> Snapshot:
        def models(section: str) -> dict[Any, Any]:
            return {
                name if section == "sessions" else name[0]: model
                for name, (_, model, problems) in parsed[section].items()
                if model is not None and not problems
            }

        written: dict[str, dict[str, Any]] = {
            section: {name[0]: said for name, (said, _, _) in parsed[section].items()}
            for section in ("flow_networks", "filters", "mirrors")
        }
        written["mirrors"] = {name: {**said, "sessions": []} for name, said in written["mirrors"].items()}
        for (mirror, name), (said, _, _) in parsed["sessions"].items():
            if mirror in written["mirrors"]:
                written["mirrors"][mirror]["sessions"].append({**said, "name": name})
        sessions = models("sessions")
        told, _ = (
            records.read(config[self._keys.cluster].value, "cluster") if self._keys.cluster in config else ({}, [])
        )
        return Snapshot(
            cluster_id=str(told.get("id", "")),
            guard=config[self._keys.guard].modified if self._keys.guard in config else 0,
            networks=models("flow_networks"),
            filters=models("filters"),
            mirrors=models("mirrors"),
            sessions=sessions,
            written=written,
            unread=tuple(unread),
            sources=_users(sessions, _source),
            destinations=_users(sessions, _destination),
            follow=frozenset(one.mirror for one in sessions.values() if one.session.enabled and _follows(one)),
        )


def _session(name: list[str], written: dict[str, Any], path: str) -> Examined:
    if "name" in written:
        return Examined(None, [Problem(join(path, "name"), "unknown key: the record's own key has the name")])
    return records.examine_session(name[0], {"name": name[1], **written}, path)


_EXAMINERS: dict[str, Callable[[list[str], dict[str, Any], str], Examined]] = {
    "flow_networks": lambda _, written, path: records.examine_network(written, path),
    "filters": lambda _, written, path: records.examine_filter(written, path),
    "mirrors": lambda _, written, path: records.examine_mirror(written, path),
    "sessions": _session,
}


def _parsed(section: str, name: list[str], text: str) -> Parsed:
    path = session_path(*name) if section == "sessions" else join(section, *name)
    written, problems = records.read(text, path)
    problems += records.examine_names(name, path)
    if problems:
        return {}, None, problems
    try:
        model, problems = _EXAMINERS[section](name, written, path)
    except Exception:
        log.exception("a bug", record=path)  # one record holds up no other one
        return {}, None, [Problem(path, "this agent cannot read the record, which is a bug: its log tells more")]
    return written, model, problems


def _source(one: ClusterSession) -> tuple[str, str]:
    source = one.session.source
    if isinstance(source, VmSource):
        return ("", "") if GLOB.search(source.vm) else ("vm", source.vm)
    return ("host", one.source_host) if one.source_host is not None else ("", "")


def _destination(one: ClusterSession) -> tuple[str, str] | None:
    end = one.session.destination
    if isinstance(end, VmDestination):
        return "vm", end.vm
    if isinstance(end, DeviceDestination) and one.destination_host is not None:
        return "host", one.destination_host
    return None  # wherever the source is


def _follows(one: ClusterSession) -> bool:
    return isinstance(one.session.source, VmSource) or isinstance(one.session.destination, VmDestination)


def _users(
    sessions: Mapping[SessionKey, ClusterSession], of: Callable[[ClusterSession], tuple[str, str] | None]
) -> Users:
    found: dict[tuple[str, str], list[SessionKey]] = {}
    for key, one in sessions.items():
        if (end := of(one)) is not None:
            found.setdefault(end, []).append(key)
    by = {kind: {name: tuple(keys) for (each, name), keys in found.items() if each == kind} for kind in ("vm", "host")}
    return Users(by["vm"], by["host"], tuple(found.get(("", ""), ())))
