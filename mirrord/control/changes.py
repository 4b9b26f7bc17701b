"""Changes of what was made at run time: asked for by somebody, all or nothing, one at a time, each in the audit log.

A change takes the road of a reload: files and run-time objects, with the change, make a whole configuration, which is
validated, planned, kept in the database, applied. What goes wrong on the way is told, and everything stays as it was.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from mirrord.control.callers import Caller, itself
from mirrord.control.configuration import expiries
from mirrord.control.configuration.config import CLUSTER, Loaded, Objects, by_name, combine
from mirrord.control.configuration.refusals import Declared
from mirrord.control.host import clock
from mirrord.control.pieces import pieces
from mirrord.control.planning.effects import Effect, effects
from mirrord.control.planning.plan import Entry, Key
from mirrord.control.service import Service
from mirrord.control.store import AuditRecord, Store, Write
from mirrord.control.targets import WORDS, Target, named, replaced, tidy
from mirrord.errors import ConfigError, MirrordError, Problem, Refused, of_any, of_host, some
from mirrord.merge_patch import merge
from mirrord.model.validation import join, not_found, session_path
from mirrord.values.written import unexpected


class Condition(NamedTuple):
    """RFC 9110, 13.1: entity tags of which the object must have one, and ones of which it must have none; * is any.

    With `dry_run` nothing is changed: what would be refused is, and what is doubtful is told.
    """

    match: tuple[str, ...] = ()
    none_match: tuple[str, ...] = ()
    dry_run: bool = False

    def check(self, target: Target, loaded: Loaded) -> None:
        """MirrordError `stale` or `exists`, by what the object is in a configuration."""
        if not (self.match or self.none_match):
            return
        tag = tag_of(loaded, target)
        if self.match and (tag is None or not {"*", tag} & {*self.match}):
            what = "does not exist" if tag is None else "was changed meanwhile"
            raise MirrordError("stale", f"{target} {what}: read it again")
        if tag is not None and {"*", tag} & {*self.none_match}:
            raise MirrordError("exists", f"{target} exists already")


NO_CONDITION = Condition()


class Outcome(NamedTuple):
    """What is doubtful since a change, and of one that was only tried what it would do to sessions."""

    warnings: tuple[Problem, ...] = ()
    effects: tuple[Effect, ...] = ()


class Done(NamedTuple):
    """What became of a change: what the object is called now, whether it is new, the configuration it is in, and what
    came of it.
    """

    target: Target
    made: bool
    loaded: Loaded
    outcome: Outcome


Edit = Callable[[Any], Any]
"""From what was written, None if there is nothing, to what is to be; None to delete. Both have their name in them."""


class Changes:
    """Every change that a client may ask for. Each raises MirrordError when it is refused."""

    def __init__(self, service: Service, store: Store) -> None:
        self._service, self.store = service, store

    async def put(self, caller: Caller, target: Target, written: Any, condition: Condition) -> Done:
        """Make an object, or put another one in its place."""
        operation = "create" if "*" in condition.none_match else ""  # what is there is not to be replaced

        def edit(old: Any) -> Any:
            return timed(target, old, named(target, written))

        return await self._change(caller, operation, target, written, edit, condition)

    async def add(self, caller: Caller, target: Target, written: Any, condition: Condition) -> Done:
        """Add a session to its mirror, of which the condition is. `refused` when there is one of that name."""
        mirror = Target("mirror", target.mirror)

        def edit(old: Any) -> Any:
            condition.check(mirror, self._service.loaded)
            if old is not None:
                raise Refused(f"{target} exists already")
            return named(target, written)

        only = Condition(dry_run=condition.dry_run)
        return await self._change(caller, "create", target, written, edit, only)

    async def patch(self, caller: Caller, target: Target, changes: dict[str, Any], condition: Condition) -> Done:
        """Change some keys (RFC 7396); another `name` renames."""
        operation = "change" if changes.get("name", target.name) == target.name else "rename"

        def edit(old: Any) -> Any:
            new = tidy(merge(self._there(target, old), changes))
            if operation == "rename" and target.section != "mirrors":
                _refuse_if_used(self._service.loaded, target)
            return timed(target, old, new)

        return await self._change(caller, operation, target, changes, edit, condition)

    async def enable(self, caller: Caller, target: Target, condition: Condition, *, enabled: bool) -> Done:
        """Enable or disable a mirror or a session."""

        def edit(old: Any) -> Any:
            return timed(target, old, {**self._there(target, old), "enabled": enabled})

        operation = "enable" if enabled else "disable"
        return await self._change(caller, operation, target, {"enabled": enabled}, edit, condition)

    async def delete(self, caller: Caller, target: Target, condition: Condition) -> Done:
        """Delete an object. `in_use` while another one names it."""

        def edit(old: Any) -> Any:
            self._there(target, old)
            _refuse_if_used(self._service.loaded, target)

        return await self._change(caller, "delete", target, None, edit, condition)

    async def by_itself(self, operation: str, mirror: str, changes: dict[str, Any], why: str, as_seen: str) -> None:
        """Change keys of a mirror that has this entity tag; nobody asked for it, and it is audited as mirrord's own."""
        target = Target("mirror", mirror)

        def edit(old: Any) -> Any:
            return {**self._there(target, old), **changes}

        await self._change(itself(), operation, target, changes, edit, Condition((as_seen,)), message=why)

    async def try_reload(self) -> Outcome:
        """What would come of a reload. ConfigError, Refused; nothing is changed."""
        async with self._service.changing:
            after = await asyncio.to_thread(self._service.as_files_are)
            return await run(self._service, after, None)

    async def reload(self, caller: Caller) -> None:
        """Take over the files as they are now. ConfigError, HostError: the old configuration runs on."""
        record = AuditRecord(caller, "reload", "daemon")
        try:
            await self._service.reload()
        except MirrordError as error:
            await asyncio.to_thread(self.store.note, record.refused(error))
            raise
        await asyncio.to_thread(self.store.note, record)

    def _there(self, target: Target, old: Any) -> Any:
        if old is None:
            raise not_found(WORDS[target.kind], target.name, _peers(self._service.loaded, target))
        return old

    async def _change(
        self,
        caller: Caller,
        operation: str,
        target: Target,
        asked: Any,
        edit: Edit,
        condition: Condition = NO_CONDITION,
        message: str = "",
    ) -> Done:
        mirror = target.holder if target.section == "mirrors" else ""
        record = AuditRecord(
            caller, operation or "create", target.kind, target.name, mirror, new=asked, message=message
        )

        def prepare(loaded: Loaded) -> tuple[Loaded, list[Write]]:
            nonlocal record
            refuse_if_of_a_file(loaded, target)
            old = written(loaded, target)
            record = record._replace(old=old, operation=operation or ("create" if old is None else "replace"))
            condition.check(target, loaded)
            record = record._replace(new=edit(old))
            made, writes = _edited(loaded, target, record.new)
            return combined(loaded, made, [target]), writes

        async with self._service.changing:
            try:
                after, writes = await asyncio.to_thread(prepare, self._service.loaded)
                keep = None if condition.dry_run else partial(self.store.write, writes, record)
                outcome = await run(self._service, after, keep)
            except (MirrordError, OSError, RuntimeError, MemoryError) as error:
                refused = error if isinstance(error, MirrordError) else of_host(error)
                if refused is None:
                    raise
                if not condition.dry_run:
                    await asyncio.to_thread(self.store.note, record.refused(refused))
                if refused is error:
                    raise
                raise refused from error
        name = target.name if record.new is None else record.new["name"]
        return Done(target._replace(name=name), record.old is None, after, outcome)


# --- what there is ---


def written(loaded: Loaded, target: Target) -> Any:
    """What was written, with its name; None if there is nothing. MirrordError `not_found`: a session's mirror."""
    made = loaded.made[target.section].get(target.holder)
    if target.kind == "session":
        if made is None:
            raise not_found("mirror", target.mirror, loaded.config.mirrors)
        return next((one for one in made.get("sessions", ()) if one["name"] == target.name), None)
    if made is None:
        same = (one.written for one in loaded.set_aside if (one.section, one.name) == (target.section, target.name))
        made = next(same, None)
    return None if made is None else {"name": target.name, **made}


def _peers(loaded: Loaded, target: Target) -> list[str]:
    """The names among which the target's is looked for."""
    if target.kind != "session":
        return list(getattr(loaded.config, target.section))
    return [session.name for session in loaded.config.mirrors[target.mirror].sessions]


def shown(loaded: Loaded, target: Target) -> dict[str, Any] | None:
    """The object as it runs, every default written out, with its name; None if there is none."""
    one = getattr(loaded.config, target.section).get(target.holder)
    if one is None:
        return None
    if target.kind == "session":
        found = next((session for session in one.sessions if session.name == target.name), None)
        return None if found is None else found.shown()
    return {"name": target.name, **one.shown()}


def tag_of(loaded: Loaded, target: Target) -> str | None:
    """The object's entity tag, the same as long as the object is; None if there is none."""
    found = shown(loaded, target)
    if found is None:
        return None
    text = hashlib.sha256()
    for piece in pieces(found):
        text.update(piece.encode())
    return f'"{text.hexdigest()[:32]}"'


def refuse_if_of_a_file(loaded: Loaded, target: Target) -> None:
    file = loaded.origin(target.section, target.holder)
    if file:
        path = join(target.section, target.holder)
        where = "change it with mirrorctl --cluster" if file == CLUSTER else "change it there, then reload"
        raise MirrordError("read_only", f"is defined in {file}: {where}", path)


def _refuse_if_used(loaded: Loaded, target: Target) -> None:
    uses = [
        by_name(use.path, loaded.made)
        for use in Declared.of(loaded.config).uses
        if (use.section, use.name) == (target.section, target.name)
    ]
    if uses:
        raise MirrordError("in_use", f"{target} is used at {', '.join(uses)}", uses[0])


# --- what is to be ---


def timed(target: Target, old: Any, new: Any) -> Any:
    """With the time of a mirror as it is to be kept."""
    return expiries.kept(target.path, old, new, clock.now()) if target.kind == "mirror" else new


def _edited(loaded: Loaded, target: Target, new: Any) -> tuple[Objects, list[Write]]:
    """The run-time objects after a change, each in its place, and what of it is to be kept."""
    name = _new_name(loaded, target, new)
    value: dict[str, Any] | None
    if target.kind == "session":
        mirror = loaded.made["mirrors"][target.mirror]
        sessions = list(mirror.get("sessions", ()))
        place = next((n for n, one in enumerate(sessions) if one["name"] == target.name), len(sessions))
        sessions[place : place + 1] = [] if new is None else [new]
        name, value = target.mirror, {**mirror, "sessions": sessions}
    elif new is None:
        value = None
    else:
        value = {key: part for key, part in new.items() if key != "name"}
    section = replaced(loaded.made[target.section], target.holder, name, value)
    return {**loaded.made, target.section: section}, [Write(target.section, name, value, before=target.holder)]


def _new_name(loaded: Loaded, target: Target, new: Any) -> str:
    """What the object is to be called. ConfigError: it is no name. Refused: another one has it."""
    if new is None:
        return target.name
    name = new.get("name")
    if not isinstance(name, str):
        raise ConfigError([Problem(join(target.path, "name"), str(unexpected("a name", name)))])
    other = target._replace(name=name)
    if name != target.name and (shown(loaded, other) or written(loaded, other)):
        raise Refused(f"{other} exists already", target.path)
    return name


def combined(loaded: Loaded, made: Objects, targets: Sequence[Target]) -> Loaded:
    """The configuration after a change; what was set aside stays so, except what the change is about."""
    about = {(target.section, target.holder) for target in targets}
    others = (one for one in loaded.set_aside if (one.section, one.name) not in about)
    newest = [_indexed(made, target) for target in targets]
    return combine(loaded.files, made, newest, loaded)._replace(set_aside=tuple(others))


def _indexed(made: Objects, target: Target) -> str:
    """The path of the target in a configuration; a session's has its index."""
    path = join(target.section, target.holder)
    if target.kind != "session":
        return path
    names = [one.get("name") for one in made["mirrors"][target.mirror]["sessions"]]
    return join(path, "sessions", names.index(target.name)) if target.name in names else path


async def run(service: Service, after: Loaded, keep: Callable[[], None] | None) -> Outcome:
    """Run a changed configuration, or without `keep` only look at it; what came, or would come, of it.

    The caller holds the service's `changing`. Raises what Service.change raises.
    """
    loaded, before = service.loaded, service.entries()
    if keep is None:
        entries = await service.check(after)
    else:
        await service.change(after, keep)
        entries = service.entries()
    return await asyncio.to_thread(outcome, loaded, after, before, entries, tried=keep is None)


def outcome(
    loaded: Loaded, after: Loaded, before: Mapping[Key, Entry], entries: Mapping[Key, Entry], *, tried: bool
) -> Outcome:
    """What came, or of what was only tried would come, of a configuration after another one."""
    known = set(loaded.warnings)
    doubts = (*(one for one in after.warnings if one not in known), *_doubts(before, entries))
    return Outcome(doubts, tuple(effects(before, entries)) if tried else ())


def _doubts(before: Mapping[Key, Entry], after: Mapping[Key, Entry]) -> Iterator[Problem]:
    """What a plan warns of that the one before did not, and what of it has to wait; of several devices once."""
    about: dict[tuple[str, str, str], dict[str, str]] = {}
    for key, entry in after.items():
        old = before.get(key)
        if old is entry:
            continue
        known = _said(old) if old else ()
        for text in _said(entry):
            if text and text not in known:
                waits = f"waiting: {text}" if text == entry.reason else text
                about.setdefault((key.mirror, key.session, of_any(waits, key.source)), {})[key.source] = waits
    for (mirror, session, alike), said in about.items():
        of_one = next(iter(said.values()))
        same = len(set(said.values())) == 1
        yield Problem(session_path(mirror, session), of_one if same else f"{alike} ({some([*said])})")


def _said(entry: Entry) -> tuple[str, ...]:
    return (*(one.problem for one in entry.warnings), entry.reason, entry.trouble)
