"""Changes of a cluster's objects: asked for at any agent, each one transaction of the store.

A change is made on what the store has, and on condition that nobody has changed anything of it meanwhile: of two at
once one wins, and the other is made again on what is there then, or is refused where its own condition (If-Match) does
not hold any more. What must be unique is a key that is made only if it is not there.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from mirrord import expiry
from mirrord.cluster import allocation, records, vnis
from mirrord.cluster.audit import Entry, audited, shorten
from mirrord.cluster.errors import StoreError
from mirrord.cluster.etcd import Etcd, delete, delete_below, put, unchanged, unchanged_below
from mirrord.cluster.keys import Keys
from mirrord.cluster.reader import snapshot_of
from mirrord.cluster.records import ClusterNetwork
from mirrord.cluster.replica import Replica
from mirrord.cluster.snapshot import Snapshot
from mirrord.cluster.validate import Objects, alike, named_anew, used_at, validate
from mirrord.control.callers import Caller
from mirrord.control.targets import SECTION, WORDS, Target, named, replaced, tidy
from mirrord.errors import ConfigError, MirrordError, Problem, Refused, nearest, some
from mirrord.merge_patch import merge
from mirrord.model.validation import join, not_found
from mirrord.values.names import parse_name

TRIES = 10
CATCH_UP_SECONDS = 3.0
SHORTEN_EACH = 50  # revisions: how often the audit log is looked at for its length
HOLD_SECONDS = 60
"""How long a VNI that is not used any more is not given to another session: copies may still be on their way."""

SECTIONS = ("flow_networks", "filters", "mirrors")


class Condition(NamedTuple):
    """RFC 9110, 13.1, as of the daemon's own API; with `dry_run` nothing is changed."""

    match: tuple[str, ...] = ()
    none_match: tuple[str, ...] = ()
    dry_run: bool = False

    def check(self, target: Target, objects: Objects) -> None:
        """MirrordError `stale` or `exists`."""
        found = written(objects, target)
        tag = None if found is None else tag_of(found)
        if self.match and (tag is None or not {"*", tag} & {*self.match}):
            what = "does not exist" if tag is None else "was changed meanwhile"
            raise MirrordError("stale", f"{target} {what}: read it again")
        if tag is not None and {"*", tag} & {*self.none_match}:
            raise MirrordError("exists", f"{target} exists already")


class Done(NamedTuple):
    """What became of a change: what the object is called, whether it is new, all objects as they are now, what is
    doubtful, and the revision of the store that has it.
    """

    target: Target
    made: bool
    objects: Objects
    warnings: tuple[Problem, ...]
    revision: int


class _Freed(NamedTuple):
    """Addresses that hosts lose: the conditions and operations of it, and what is to be told."""

    conditions: list[dict[str, Any]]
    operations: list[dict[str, Any]]
    warnings: tuple[Problem, ...]


Edit = Callable[[Objects], tuple[Objects, Target, bool]]
"""From all objects to all objects, what the target is called then, and whether it is new."""


class Changes:
    """Every change that a client may ask for. Each raises MirrordError when it is refused."""

    def __init__(self, etcd: Etcd, keys: Keys, replica: Replica, host: str) -> None:
        self._etcd, self._keys, self._replica, self._host = etcd, keys, replica, host

    async def put(self, caller: Caller, target: Target, said: Any, condition: Condition) -> Done:
        """Make an object, or put another one in its place."""

        def edit(objects: Objects) -> tuple[Objects, Target, bool]:
            old = written(objects, target)
            return with_(objects, target, named(target, tidy(said))), target, old is None

        return await self._change(caller, "create" if condition.none_match else "replace", target, edit, condition)

    async def add(self, caller: Caller, target: Target, said: Any, condition: Condition) -> Done:
        """Add a session to its mirror, of which the condition is. `refused` when there is one of that name."""
        mirror = Target("mirror", target.mirror)

        def edit(objects: Objects) -> tuple[Objects, Target, bool]:
            condition.check(mirror, objects)
            if written(objects, target) is not None:
                raise Refused(f"{target} exists already")
            return with_(objects, target, named(target, tidy(said))), target, True

        return await self._change(caller, "create", target, edit, Condition(dry_run=condition.dry_run))

    async def patch(self, caller: Caller, target: Target, patch: dict[str, Any], condition: Condition) -> Done:
        """Change some keys (RFC 7396); another `name` renames."""
        operation = "change" if patch.get("name", target.name) == target.name else "rename"

        def edit(objects: Objects) -> tuple[Objects, Target, bool]:
            new = tidy(merge(_there(objects, target), patch))
            name = _name_of(new, target)
            if operation == "rename":
                if target.section != "mirrors":
                    _refuse_if_used(objects, target)
                if written(objects, target._replace(name=name)) is not None:
                    raise Refused(f"{WORDS[target.kind]} {name!r} exists already")
            return with_(objects, target, new), target._replace(name=name), False

        return await self._change(caller, operation, target, edit, condition)

    async def enable(self, caller: Caller, target: Target, condition: Condition, *, enabled: bool) -> Done:
        """Enable or disable a mirror or a session."""

        def edit(objects: Objects) -> tuple[Objects, Target, bool]:
            return with_(objects, target, {**_there(objects, target), "enabled": enabled}), target, False

        return await self._change(caller, "enable" if enabled else "disable", target, edit, condition)

    async def delete(self, caller: Caller, target: Target, condition: Condition) -> Done:
        """Delete an object. `in_use` while another one names it."""

        def edit(objects: Objects) -> tuple[Objects, Target, bool]:
            _there(objects, target)
            _refuse_if_used(objects, target)
            return with_(objects, target, None), target, False

        return await self._change(caller, "delete", target, edit, condition)

    async def apply(
        self, caller: Caller, said: Mapping[str, Any], *, prune: bool, dry_run: bool
    ) -> tuple[Done, list[tuple[Target, str]]]:
        """Make the objects equal to these, by section and name: all, or none. What became of each."""
        operations: list[tuple[Target, str]] = []

        def edit(objects: Objects) -> tuple[Objects, Target, bool]:
            wanted = _wanted(said)
            operations.clear()
            after = objects
            for section in SECTIONS:
                kind = next(kind for kind, name in SECTION.items() if name == section)
                going = [name for name in objects[section] if prune and name not in wanted[section]]
                for name in [*wanted[section], *going]:
                    target, old = Target(kind, name), objects[section].get(name)
                    new = None if name not in wanted[section] else named(target, tidy(wanted[section][name]))
                    same = old is not None and new is not None and alike(target, old, new)
                    word = "create" if old is None else "delete" if new is None else "same" if same else "change"
                    after = after if same else with_(after, target, new)
                    operations.append((target, word))
            return after, Target("mirror", ""), False

        done = await self._change(caller, "apply", Target("mirror", ""), edit, Condition(dry_run=dry_run))
        return done, operations

    # --- one transaction ---

    async def _change(self, caller: Caller, operation: str, target: Target, edit: Edit, condition: Condition) -> Done:
        entry = Entry(caller, self._host, operation, target)
        try:
            return await self._try(entry, target, edit, condition)
        except StoreError:
            raise  # there is nowhere to write it to
        except MirrordError as error:
            if not condition.dry_run:
                await audited(self._etcd, self._keys, entry.refused(error))
            raise

    async def _try(self, entry: Entry, target: Target, edit: Edit, condition: Condition) -> Done:
        for _ in range(TRIES):
            snapshot = await self._current()
            before = snapshot.written
            after, now, made = await asyncio.to_thread(_edited, edit, condition, target, before)
            taken = await self._etcd.range(f"{self._keys.allocated}vni/", keys_only=True)
            after = await asyncio.to_thread(vnis.with_vnis, self._keys, before, after, frozenset(taken.found))
            warnings = await asyncio.to_thread(validate, before, after)
            warnings += await self._strangers(before, after)
            freed = await self._addresses_freed(before, after)
            warnings += freed.warnings
            if condition.dry_run:
                return Done(now, made, after, warnings, self._replica.revision)
            lease = await self._etcd.grant(HOLD_SECONDS)
            conditions, operations = await asyncio.to_thread(self._transaction, before, after, lease)
            conditions += freed.conditions
            operations += [
                *freed.operations,
                entry._replace(old=_shown(before, target), new=_shown(after, now)).operation_now(self._keys),
            ]
            done = await self._etcd.change([unchanged(self._keys.guard, snapshot.guard), *conditions], operations)
            if done.succeeded:
                await self._replica.until(lambda: self._replica.revision >= done.revision, CATCH_UP_SECONDS)  # noqa: B023
                if done.revision % SHORTEN_EACH == 0:
                    await shorten(self._etcd, self._keys)
                return Done(now, made, after, warnings, done.revision)
            await asyncio.sleep(0.01)
        raise MirrordError("stale", "the cluster was changed by others again and again meanwhile: try again")

    async def _current(self) -> Snapshot:
        """The configuration as the store has it now."""
        found, _ = await self._etcd.get(self._keys.guard)
        guard = found.modified if found is not None else 0
        await self._replica.until(lambda: self._replica.snapshot.guard >= guard, CATCH_UP_SECONDS)
        if self._replica.snapshot.guard > guard:  # changed since
            return self._replica.snapshot
        if self._replica.snapshot.guard == guard and self._replica.cluster_id:
            return self._replica.snapshot
        contents = await self._etcd.range(self._keys.config)
        self._replica.recognize(contents.found.get(self._keys.cluster))
        return await asyncio.to_thread(snapshot_of, self._keys, contents.found)

    # --- what is written ---

    async def _strangers(self, before: Objects, after: Objects) -> tuple[Problem, ...]:
        """The hosts that are named anew, and do not live: a name may be misspelt."""
        named = await asyncio.to_thread(named_anew, before, after)
        if not named:
            return ()
        there = (await self._etcd.range(self._keys.hosts, keys_only=True)).found
        living = [key.removeprefix(self._keys.hosts) for key in there]
        why = "no host {!r} lives in the cluster now{}"
        return tuple(
            Problem(path, why.format(host, nearest(host, living))) for path, host in sorted(named) if host not in living
        )

    async def _addresses_freed(self, before: Objects, after: Objects) -> _Freed:
        """The addresses that are not of their flow network any more, since its range was changed."""
        freed = _Freed([], [], ())
        for name, one in after["flow_networks"].items():
            network = records.examine_network(one, "").model
            if before["flow_networks"].get(name, one) == one or not isinstance(network, ClusterNetwork):
                continue
            prefix = self._keys.addresses(name)
            there = await self._etcd.range(prefix)
            hosts = {key: allocation.owner(found.value) for key, found in there.found.items()}
            gone = [key for key in hosts if not allocation.within(key.removeprefix(prefix), network.addresses)]
            freed.conditions.append(unchanged_below(prefix, there.revision))
            freed.operations.extend(map(delete, gone))
            if gone:
                why = (
                    f"{some(sorted(hosts[key] for key in gone))} have addresses outside of {network.addresses} and take"
                )
                why += " others: no copies go to or from there until they have"
                path = join("flow_networks", name, "addresses")
                freed = freed._replace(warnings=(*freed.warnings, Problem(path, why)))
        return freed

    def _transaction(
        self, before: Objects, after: Objects, lease: int
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The conditions and the operations that make the one of the other."""
        conditions, operations = vnis.changes(self._keys, before, after, lease)
        old, new = self._records(before, after), self._records(after, before)
        operations += [delete(key) for key in old if key not in new]
        operations += [
            delete_below(below)
            for network in before["flow_networks"].keys() - after["flow_networks"].keys()
            for below in (self._keys.addresses(network), self._keys.vnis(network))
        ]
        operations += [put(key, records.record(said)) for key, said in new.items() if old.get(key) != said]
        return conditions, [*operations, put(self._keys.guard, records.guard(self._host))]

    def _records(self, objects: Objects, other: Objects) -> dict[str, Mapping[str, Any]]:
        """What the records of the objects say, by key, but of those that the other ones have just so."""
        found: dict[str, Mapping[str, Any]] = {}
        for section in ("flow_networks", "filters"):
            for name, one in _others(objects[section], other[section]):
                found[self._keys.object(section, name)] = one
        for name, mirror in _others(objects["mirrors"], other["mirrors"]):
            found[self._keys.object("mirrors", name)] = _without(mirror, "sessions")
            for session in mirror.get("sessions", []):
                found[self._keys.object("sessions", session["name"], name)] = _without(session, "name")
        return found


# --- objects ---


def written(objects: Objects, target: Target) -> dict[str, Any] | None:
    """What was written, with its name; None if there is nothing. MirrordError `not_found`: a session's mirror."""
    found = objects[target.section].get(target.holder)
    if target.kind == "session":
        if found is None:
            raise not_found("mirror", target.mirror, objects["mirrors"])
        return next((one for one in found["sessions"] if one["name"] == target.name), None)
    return None if found is None else {"name": target.name, **found}


def _shown(objects: Objects, target: Target) -> dict[str, Any] | None:
    """The same for the audit log, where a mirror that is gone is no error."""
    try:
        return written(objects, target)
    except MirrordError:
        return None


def tag_of(found: Mapping[str, Any]) -> str:
    """An object's entity tag, the same as long as the object is."""
    return f'"{hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:32]}"'


def with_(objects: Objects, target: Target, new: Any) -> Objects:
    """All objects, with this one in the place of the target's, or at the end; None: without it."""
    if target.kind != "session":
        value = None if new is None else {key: part for key, part in new.items() if key != "name"}
        if target.kind == "mirror" and value is not None:
            value = {**value, "sessions": value.get("sessions", [])}
        name = target.name if new is None else new["name"]
        return {**objects, target.section: replaced(objects[target.section], target.name, name, value)}
    mirror = objects["mirrors"][target.mirror]
    sessions = list(mirror["sessions"])
    place = next((n for n, one in enumerate(sessions) if one["name"] == target.name), len(sessions))
    sessions[place : place + 1] = [] if new is None else [new]
    return {**objects, "mirrors": {**objects["mirrors"], target.mirror: {**mirror, "sessions": sessions}}}


def _name_of(new: Mapping[str, Any], target: Target) -> str:
    try:
        return parse_name(new.get("name"))
    except ValueError as error:
        raise ConfigError([Problem(join(target.path, "name"), str(error))]) from error


def _edited(edit: Edit, condition: Condition, target: Target, before: Objects) -> tuple[Objects, Target, bool]:
    """What the objects are after it. MirrordError."""
    condition.check(target, before)
    after, now, made = edit(before)
    return _timed(before, after), now, made


def _others(objects: Mapping[str, Any], than: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name, one) for name, one in objects.items() if than.get(name) != one)


def _without(said: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {each: value for each, value in said.items() if each != key}


def _there(objects: Objects, target: Target) -> dict[str, Any]:
    found = written(objects, target)
    if found is None:
        if target.kind == "session":
            peers = [one["name"] for one in objects["mirrors"][target.mirror]["sessions"]]
        else:
            peers = list(objects[target.section])
        raise not_found(WORDS[target.kind], target.name, peers)
    return found


def _refuse_if_used(objects: Objects, target: Target) -> None:
    uses = used_at(objects, target.kind, target.name)
    if uses:
        raise MirrordError("in_use", f"{target} is used at {', '.join(uses)}", uses[0])


def _timed(before: Objects, after: Objects) -> Objects:
    """Of a mirror that is enabled the time begins that it is to last: it becomes the moment of its end."""
    mirrors = dict(after["mirrors"])
    for name, one in mirrors.items():
        if one == before["mirrors"].get(name) or not isinstance(one.get("expires"), str):
            continue
        try:
            lasts = expiry.parse(one["expires"])
        except ValueError:
            continue  # told by the validation
        if isinstance(lasts, timedelta) and one.get("enabled", True):
            end = (datetime.now(UTC) + lasts).replace(microsecond=0) + timedelta(seconds=1)
            mirrors[name] = {**one, "expires": expiry.show(end)}
        elif isinstance(lasts, datetime) and one.get("enabled", True) and lasts <= datetime.now(UTC):
            raise Refused(f"its time is over since {expiry.show(lasts)}: set another", f"mirrors.{name}.expires")
    return {**after, "mirrors": mirrors}


def _wanted(said: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    problems = [Problem(section, "unknown key") for section in said if section not in SECTIONS]
    problems += [
        Problem(f"{section}.{name}" if isinstance(content, dict) else section, "expected a table")
        for section, content in said.items()
        for name, one in (content.items() if isinstance(content, dict) else [("", content)])
        if not isinstance(one, dict)
    ]
    if problems:
        raise ConfigError(problems)
    return {section: dict(said.get(section, {})) for section in SECTIONS}
