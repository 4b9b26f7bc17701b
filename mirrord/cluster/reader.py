"""Reads the records of the store's configuration, each when it changes, into snapshots. Pure.

What a change costs goes by what changed: a record that is the same as before is not read again, and what a snapshot
shares with the one before is not made again. (A mapping of which one value is another is copied: 10,000 sessions take
a tenth of a millisecond.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from mirrord.cluster import records
from mirrord.cluster.etcd import Found
from mirrord.cluster.index import Index
from mirrord.cluster.keys import Keys
from mirrord.cluster.records import ClusterSession, SessionKey
from mirrord.cluster.snapshot import ANYWHERE, Snapshot, Unread, Users
from mirrord.control.guests.inventory import Place
from mirrord.control.logs import logger
from mirrord.errors import Problem
from mirrord.model import DeviceDestination, VmDestination, VmSource
from mirrord.model.validation import Examined, join, session_path
from mirrord.values.names import GLOB

log = logger("cluster")

End = tuple[str, str]
"""Of a session, as in Users."""


class _Record(NamedTuple):
    """What a record says, in the words of the API; its model, None where it cannot be used."""

    made: int
    name: str
    said: Mapping[str, Any]
    model: Any

    @property
    def place(self) -> tuple[int, str]:
        """Records are shown in the order in which they were made."""
        return self.made, self.name


class Reader:
    """Of one cluster. `config` is all that was put in, by key."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.config: dict[str, Found] = {}
        self._records: dict[str, dict[str, _Record]] = {"flow_networks": {}, "filters": {}, "mirrors": {}}
        self._mirrors: dict[str, dict[str, _Record]] = {}  # the sessions of each, by name
        self._sessions: dict[SessionKey, ClusterSession] = {}
        self._unread: dict[str, tuple[int, tuple[Unread, ...]]] = {}
        self._sources, self._destinations = Index[End, SessionKey](), Index[End, SessionKey]()
        self._follow = Index[str, SessionKey]()
        self._managers = Index[str, tuple[SessionKey, str]]()
        self._anew: set[str] = set()  # sections that another record is in since the last snapshot
        self._shown: dict[str, dict[str, Any]] = {}  # mirrors with their sessions
        self._stale: set[str] = set()  # of these, those to be made again
        self._last = Snapshot(written={section: {} for section in self._records})

    def put(self, key: str, found: Found | None) -> None:
        """Take what a key below config/ has now; None: it is there no more."""
        if self.config.get(key) == found:
            return
        if found is None:
            del self.config[key]
        else:
            self.config[key] = found
        section, *name = key.removeprefix(self._keys.config).split("/")
        if section in self._records and len(name) == 1:
            self._object(section, name[0], key, found)
        elif section == "sessions" and len(name) == 2:
            self._session(name[0], name[1], key, found)
        else:
            section = ""  # the id, the guard, or what a newer version has
        self._anew.add(section)

    def _object(self, section: str, name: str, key: str, found: Found | None) -> None:
        if section == "mirrors":
            self._stale.add(name)
        if found is None:
            self._records[section].pop(name, None)
            self._unread.pop(key, None)
            return
        path = join(section, name)
        said, model = self._read(key, found, path, lambda said: _EXAMINERS[section](said, path))
        self._records[section][name] = _Record(found.made, name, said, model)

    def _session(self, mirror: str, name: str, key: str, found: Found | None) -> None:
        self._stale.add(mirror)
        if (old := self._sessions.pop((mirror, name), None)) is not None:
            self._index(old, there=False)
        if found is None:
            self._unread.pop(key, None)
            self._mirrors[mirror].pop(name)
            if not self._mirrors[mirror]:
                del self._mirrors[mirror]
            return
        path = session_path(mirror, name)
        said, model = self._read(key, found, path, lambda said: _examine_session(mirror, name, said, path))
        self._mirrors.setdefault(mirror, {})[name] = _Record(found.made, name, {**said, "name": name}, model)
        if model is not None:
            self._sessions[mirror, name] = model
            self._index(model, there=True)

    def _read(
        self, key: str, found: Found, path: str, examine: Callable[[dict[str, Any]], Examined]
    ) -> tuple[dict[str, Any], Any]:
        """What a record says, and its model, None where there are problems, which are kept."""
        section, *name = key.removeprefix(self._keys.config).split("/")
        model = None
        said, problems = records.read(found.value, path)
        problems += records.examine_names(name, path)
        if problems:
            said = {}
        else:
            try:
                model, problems = examine(said)
            except Exception:
                log.exception("a bug", record=path)  # one record holds up no other one
                said, why = {}, "this agent cannot read the record, which is a bug: its log tells more"
                problems = [Problem(path, why)]
        self._unread.pop(key, None)
        if problems:
            about = section.removesuffix("s"), name[-1], name[0] if len(name) > 1 else ""
            self._unread[key] = found.made, tuple(Unread(*about, one.path, one.expectation) for one in problems)
            return said, None
        return said, model

    def _index(self, one: ClusterSession, *, there: bool) -> None:
        self._sources.put(_source(one), one.key, there=there)
        if (end := _destination(one)) is not None:
            self._destinations.put(end, one.key, there=there)
        for side, each in (("source", one.session.source), ("destination", one.session.destination)):
            if isinstance(each, VmSource | VmDestination):
                self._managers.put(each.connection, (one.key, side), there=there)
                if one.session.enabled:
                    self._follow.put(one.mirror, one.key, there=there)

    # --- what there is ---

    def snapshot(self) -> Snapshot:
        """All that was put in."""
        for _ in self.pieces():
            pass
        return self._last

    def pieces(self) -> Iterator[None]:
        """Make what `snapshot` gives, a piece at a time. Nothing is put in meanwhile; who breaks off begins anew."""
        if self._anew:
            news = {}
            for name, part in self._news():
                news[name] = part
                yield
            self._last = replace(self._last, **news)
            self._anew, self._stale = set(), set()

    def _news(self) -> Iterator[tuple[str, Any]]:
        """The parts of a snapshot that are others than before."""
        written = dict(self._last.written)
        for section, part in (("flow_networks", "networks"), ("filters", "filters"), ("mirrors", "mirrors")):
            if section in self._anew:
                ordered = sorted(self._records[section].values(), key=lambda one: one.place)
                written[section] = {one.name: one.said for one in ordered}
                yield part, {one.name: one.model for one in ordered if one.model is not None}
        if self._stale:
            written["mirrors"] = self._mirrors_written(written["mirrors"])
        yield "written", written
        if "sessions" in self._anew:
            yield "sessions", self._sessions.copy()
            yield "sources", Users(self._sources.read())
            yield "destinations", Users(self._destinations.read())
            yield "follow", self._follow.read().keys()
            yield "places", frozenset(Place("vm", one) for one in self._managers.read())
        told = sorted((made, key, unread) for key, (made, unread) in self._unread.items())
        yield "unread", tuple(one for _, _, unread in told for one in unread)
        guard, cluster = self.config.get(self._keys.guard), self.config.get(self._keys.cluster)
        yield "guard", guard.modified if guard is not None else 0
        yield "cluster_id", str(records.read(cluster.value, "cluster")[0].get("id", "")) if cluster is not None else ""

    def _mirrors_written(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """Every mirror with its sessions, in the order of `before`."""
        for name in self._stale:
            mirror = self._records["mirrors"].get(name)
            if mirror is None:
                self._shown.pop(name, None)
                continue
            sessions = sorted(self._mirrors.get(name, {}).values(), key=lambda one: one.place)
            self._shown[name] = {**mirror.said, "sessions": [one.said for one in sessions]}
        return {name: self._shown[name] for name in before}


def snapshot_of(keys: Keys, config: Mapping[str, Found]) -> Snapshot:
    """Of all that is below config/."""
    reader = Reader(keys)
    for key, found in config.items():
        reader.put(key, found)
    return reader.snapshot()


_EXAMINERS: dict[str, Callable[[dict[str, Any], str], Examined]] = {
    "flow_networks": records.examine_network,
    "filters": records.examine_filter,
    "mirrors": records.examine_mirror,
}


def _examine_session(mirror: str, name: str, said: dict[str, Any], path: str) -> Examined:
    if "name" in said:
        return Examined(None, [Problem(join(path, "name"), "unknown key: the record's own key has the name")])
    return records.examine_session(mirror, {"name": name, **said}, path)


def _source(one: ClusterSession) -> End:
    source = one.session.source
    if isinstance(source, VmSource):
        return ANYWHERE if GLOB.search(source.vm) else ("vm", source.vm)
    return ("host", one.source_host) if one.source_host is not None else ANYWHERE


def _destination(one: ClusterSession) -> End | None:
    end = one.session.destination
    if isinstance(end, VmDestination):
        return "vm", end.vm
    if isinstance(end, DeviceDestination) and one.destination_host is not None:
        return "host", one.destination_host
    return None  # wherever the source is
