"""What a cluster's agent wants of this host: all of it at once, as far as this host can take it.

An object that cannot be taken is left out and told, with what needs it: one that is wrong holds up no other one. It
gives way to a file's, or to one that was made here, of the same name. What the agent wanted last is kept in the state
database: a daemon that starts again runs it, whether the agent is there or not; and each reload looks anew at what of
it goes with the files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from mirrord.control.callers import Caller
from mirrord.control.changes import Outcome, outcome
from mirrord.control.configuration.config import SECTIONS, LeftOut, Loaded, Objects, combine
from mirrord.control.service import Service
from mirrord.control.store import AuditRecord, Store, Write
from mirrord.control.targets import SECTION
from mirrord.errors import ConfigError, MirrordError, Problem, Refused, of_host
from mirrord.model.validation import join, session_path
from mirrord.values.written import unexpected

ORIGINS, NAME = "origins", "cluster"
"""Section and name of what is kept."""

KINDS = {section: kind for kind, section in SECTION.items() if kind != "session"}


class Wanted(NamedTuple):
    """What an agent wants: a generation that tells one from another, and the objects by section and name."""

    generation: int
    cluster_id: str
    objects: Objects

    @property
    def cluster(self) -> str:
        return f"cluster {self.cluster_id!r}"

    @property
    def about(self) -> str:
        """In words; "" for nothing."""
        return "" if self is NONE else f"generation {self.generation} of {self.cluster}"

    def kept(self) -> dict[str, Any]:
        return {"generation": self.generation, "cluster_id": self.cluster_id, **self.objects}


NONE = Wanted(0, "", {section: {} for section in SECTIONS})


def read(body: Mapping[str, Any]) -> Wanted:
    """What a request says. ConfigError: it is none."""
    problems = [Problem(key, "unknown key") for key in body if key not in ("generation", "cluster_id", *SECTIONS)]
    generation, cluster_id = body.get("generation"), body.get("cluster_id")
    if not isinstance(generation, int) or isinstance(generation, bool):
        problems.append(Problem("generation", str(unexpected("a whole number", generation))))
    if not isinstance(cluster_id, str):
        problems.append(Problem("cluster_id", str(unexpected("text", cluster_id))))
    objects: dict[str, dict[str, Any]] = {}
    for section in SECTIONS:
        said = body.get(section, {})
        objects[section] = said if isinstance(said, dict) else {}
        if not isinstance(said, dict):
            problems.append(Problem(section, str(unexpected("an object", said))))
        for name, one in objects[section].items():
            if not isinstance(one, dict):
                problems.append(Problem(join(section, name), str(unexpected("an object", one))))
    if problems:
        raise ConfigError(problems)
    assert isinstance(generation, int)  # or there would be a problem
    return Wanted(generation, str(cluster_id), objects)


def lend(loaded: Loaded, wanted: Wanted) -> Loaded:
    """A configuration with as much of what is wanted as goes with all else of it, and with what does not left out.

    ConfigError: all else of it goes not together.
    """
    lent: dict[str, dict[str, Any]] = {section: dict(wanted.objects[section]) for section in SECTIONS}
    left: list[LeftOut] = []
    for section, objects in lent.items():
        for name in [one for one in objects if one in loaded.files.objects[section] or one in loaded.made[section]]:
            del objects[name]
            where = loaded.files.origins.get(join(section, name)) or "made at run time"
            why = f"this host has another one of that name ({where})"
            left.append(LeftOut(KINDS[section], name, "", "exists", join(section, name), why))
    while True:
        paths = [join(section, name) for section, objects in lent.items() for name in objects]
        try:
            found = combine(loaded.files, loaded.made, paths, loaded, lent)
            return found._replace(set_aside=loaded.set_aside, left_out=tuple(left))
        except ConfigError as error:
            out = list(dict.fromkeys(_blamed(error, lent)))
            if not out:
                raise
            lent = _without(lent, out)
            left += out


def _blamed(error: ConfigError, lent: Objects) -> Iterator[LeftOut]:
    """What of the cluster's objects the problems are about, each once."""
    told = set()
    for problem in error.problems:
        found = _at(problem.path, lent)
        if found is not None and found not in told:
            told.add(found)
            kind, name, mirror = found
            yield LeftOut(kind, name, mirror, error.code, problem.path, problem.expectation)


def _at(path: str, lent: Objects) -> tuple[str, str, str] | None:
    """The kind and name of the object that is at a path, or above it, and its mirror if it is a session."""
    for section, objects in lent.items():
        for name, one in objects.items():
            if not _below(path, join(section, name)):
                continue
            sessions = one.get("sessions") if section == "mirrors" else None
            for index, session in enumerate(sessions if isinstance(sessions, list) else ()):
                called = session.get("name") if isinstance(session, dict) else None
                at = join(section, name, "sessions", index)
                if _below(path, at) or (isinstance(called, str) and _below(path, session_path(name, called))):
                    return ("session", called, name) if isinstance(called, str) else ("mirror", name, "")
            return KINDS[section], name, ""
    return None


def _below(path: str, top: str) -> bool:
    return path == top or path.startswith((f"{top}.", f"{top}["))


def _without(lent: Objects, out: list[LeftOut]) -> dict[str, dict[str, Any]]:
    gone = {(one.kind, one.name, one.mirror) for one in out}
    kept: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for section, objects in lent.items():
        for name, one in objects.items():
            if (KINDS[section], name, "") in gone:
                continue
            sessions = one.get("sessions") if section == "mirrors" else None
            if isinstance(sessions, list):
                those = [each for each in sessions if ("session", each.get("name"), name) not in gone]
                kept[section][name] = {**one, "sessions": those}
            else:
                kept[section][name] = one
    return kept


class Origins:
    """What an agent wants, and what of it this host has. `wanted` is as of the last time."""

    def __init__(self, service: Service, store: Store, wanted: Wanted) -> None:
        self._service, self._store, self.wanted = service, store, wanted

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """What of it this host does not take."""
        return self._service.loaded.left_out

    async def put(self, caller: Caller, body: Mapping[str, Any], *, replace: bool) -> dict[str, Any]:
        """Run this, and nothing else of a cluster's. ConfigError: it is no such request; HostError, NotStoredError.

        `stale` for an older generation than what runs, `refused` for another cluster, unless that is to `replace` it.
        """
        wanted = read(body)
        await self._want(caller, "apply", wanted, replace=replace)
        return self.shown()

    async def check(self, body: Mapping[str, Any], *, replace: bool) -> tuple[tuple[LeftOut, ...], Outcome]:
        """What would be left out, and what would come of the rest; nothing is changed. Raises as `put`."""
        wanted = read(body)
        async with self._service.changing:
            before = self._service.loaded
            if not replace:
                self._refuse_older(wanted)
            after = await asyncio.to_thread(lend, before, wanted)
            entries = await self._service.check(after, refuse_failing=False)
            found = await asyncio.to_thread(outcome, before, after, self._service.entries(), entries, tried=True)
        return after.left_out, found

    async def delete(self, caller: Caller) -> None:
        """Run nothing of a cluster's any more, and forget that it wanted something."""
        await self._want(caller, "delete", NONE, replace=True)

    async def _want(self, caller: Caller, operation: str, wanted: Wanted, *, replace: bool) -> None:
        record = AuditRecord(caller, operation, "daemon", NAME, message=wanted.about)
        kept = None if wanted is NONE else wanted.kept()
        async with self._service.changing:
            before = self._service.loaded
            try:
                if not replace:
                    self._refuse_older(wanted)
                after = await asyncio.to_thread(lend, before, wanted)
                old, new = await asyncio.to_thread(_changed, before.lent, after.lent)
                records = [record._replace(old=old, new=new)] if old or new else []
                keep = partial(self._store.write, [Write(ORIGINS, NAME, kept)], *records)
                await self._service.change(after, keep, refuse_failing=False)
            except (MirrordError, OSError, RuntimeError) as error:
                refused = error if isinstance(error, MirrordError) else of_host(error)
                if refused is not None:
                    await asyncio.to_thread(self._store.note, record.refused(refused))
                raise
            self.wanted = wanted

    def _refuse_older(self, wanted: Wanted) -> None:
        """MirrordError `stale`; Refused for another cluster's."""
        runs = self.wanted
        if runs is NONE:
            return
        if wanted.cluster_id != runs.cluster_id:
            why = f"this host is in {runs.cluster}, not in {wanted.cluster}: replace=true leaves it"
            raise Refused(why, "cluster_id")
        if wanted.generation < runs.generation:
            why = f"this host has {runs.generation}, which is newer than {wanted.generation}: replace=true goes back"
            raise MirrordError("stale", why, "generation")

    def anew(self, loaded: Loaded) -> Loaded:
        """A configuration that was read again, with what of the wanted goes with it now."""
        return loaded if self.wanted is NONE else lend(loaded, self.wanted)

    def told(self) -> dict[str, Any]:
        """For the daemon's status: what is wanted, what of it is left out, and the addresses of its flow networks that
        others on the link have; {} where no agent has asked.
        """
        if self.wanted is NONE:
            return {}
        left = [one._asdict() for one in self.left_out]
        networks = self._service.loaded.config.flow_networks
        in_use = {
            name: str(networks[name].addresses)
            for name, lease in self._service.leases.items()
            if lease.in_use and name in networks and name in self.wanted.objects["flow_networks"]
        }
        about = {"id": self.wanted.cluster_id, "generation": self.wanted.generation}
        return {**about, "left_out": left, "addresses_in_use": in_use}

    def shown(self) -> dict[str, Any]:
        """What the agent wanted, and of each object whether it was taken, and if not, why."""
        out = {(one.kind, one.name, one.mirror) for one in self.left_out}
        taken = [
            {"kind": kind, "name": name, "mirror": mirror, "taken": True}
            for kind, name, mirror in _names(self.wanted.objects)
            if not {(kind, name, mirror), ("mirror", mirror, "")} & out
        ]
        left = [{**one._asdict(), "taken": False} for one in self.left_out]
        return {
            "generation": self.wanted.generation,
            "cluster_id": self.wanted.cluster_id,
            "objects": [*taken, *left],
        }


def _changed(before: Objects, after: Objects) -> tuple[dict[str, Any], dict[str, Any]]:
    """What differs, by section and name, as it was and as it is; of mirrors that stay their sessions that differ."""
    old: dict[str, Any] = {}
    new: dict[str, Any] = {}
    for section in SECTIONS:
        was, now = before.get(section, {}), after.get(section, {})
        for name in dict.fromkeys((*was, *now)):
            first, second = was.get(name), now.get(name)
            if first == second:
                continue
            if first is not None and second is not None and section == "mirrors":
                first, second = _without_same(first, second), _without_same(second, first)
            for found, one in ((old, first), (new, second)):
                if one is not None:
                    found.setdefault(section, {})[name] = one
    return old, new


def _without_same(mirror: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    sessions = {one.get("name"): one for one in other.get("sessions", ())}
    differing = [one for one in mirror.get("sessions", ()) if sessions.get(one.get("name")) != one]
    return {**mirror, "sessions": differing}


def _names(objects: Objects) -> Iterator[tuple[str, str, str]]:
    for section in SECTIONS:
        for name, one in objects[section].items():
            yield KINDS[section], name, ""
            sessions = one.get("sessions") if section == "mirrors" else None
            for session in sessions if isinstance(sessions, list) else ():
                if isinstance(session, dict) and isinstance(session.get("name"), str):
                    yield "session", session["name"], name


def of_store(store: Store) -> Wanted:
    """What an agent wanted before this daemon was started; NONE for nothing, or nothing that can be read."""
    for section, _, written in store.objects():
        if section == ORIGINS:
            try:
                return read(written)
            except ConfigError:
                return NONE
    return NONE
