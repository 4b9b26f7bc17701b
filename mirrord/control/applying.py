"""Many run-time objects at once, as one change: what somebody keeps in a file of their own, under version control."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from mirrord.control.callers import Caller
from mirrord.control.changes import Outcome, combined, refuse_if_of_a_file, run, timed
from mirrord.control.configuration.config import SECTIONS, Loaded
from mirrord.control.service import Service
from mirrord.control.store import AuditRecord, Store, Write
from mirrord.control.targets import Target, replaced, tidy
from mirrord.errors import ConfigError, MirrordError, Problem, nearest
from mirrord.model.validation import join
from mirrord.values.written import unexpected

KIND = {"flow_networks": "flow_network", "filters": "filter", "mirrors": "mirror"}


class Applied(NamedTuple):
    """What became of each object: create, change, delete or same; and what came of it."""

    operations: list[tuple[Target, str]]
    outcome: Outcome


async def apply(
    service: Service, store: Store, caller: Caller, objects: Mapping[str, Any], *, prune: bool, dry_run: bool
) -> Applied:
    """Make the run-time objects equal to these, by section and name; all, or none. `prune`: and no others.

    Raises MirrordError.
    """
    async with service.changing:
        loaded = service.loaded
        try:
            after, operations, keep = await asyncio.to_thread(_prepare, loaded, store, caller, objects, prune=prune)
            return Applied(operations, await run(service, after, None if dry_run else keep))
        except MirrordError as error:
            if not dry_run:
                await asyncio.to_thread(store.note, AuditRecord(caller, "apply", "daemon").refused(error))
            raise


def _prepare(
    loaded: Loaded, store: Store, caller: Caller, objects: Mapping[str, Any], *, prune: bool
) -> tuple[Loaded, list[tuple[Target, str]], Callable[[], None]]:
    """The configuration as it is to be, what becomes of each object, and what keeps it. MirrordError."""
    wanted = _wanted(loaded, objects)
    going = [
        Target(KIND[section], name)
        for section in SECTIONS
        for name in loaded.made[section]
        if prune and name not in wanted[section]
    ]
    targets = [Target(KIND[section], name) for section in SECTIONS for name in wanted[section]]
    made = {section: dict(loaded.made[section]) for section in SECTIONS}
    for target in [*targets, *going]:
        section, name = target.section, target.name
        made[section] = replaced(made[section], name, name, wanted[section].get(name))
    after = combined(loaded, made, [*targets, *going])
    operations = [(target, _operation(loaded, after, target)) for target in [*targets, *going]]
    changed = [(target, operation) for target, operation in operations if operation != "same"]
    writes = [Write(one.section, one.name, wanted[one.section].get(one.name)) for one, _ in changed]
    records = [_record(caller, loaded, made, *one) for one in changed]
    return after, operations, partial(store.write, writes, *records)


def _wanted(loaded: Loaded, objects: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every object as it is to be kept. ConfigError: there is no such section, or it is no table. `read_only`."""
    problems = []
    wanted: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for section, content in objects.items():
        if section not in SECTIONS:
            problems.append(Problem(section, f"unknown key{nearest(section, SECTIONS)}"))
        elif not isinstance(content, dict):
            problems.append(Problem(section, str(unexpected("a table", content))))
        else:
            for name, written in content.items():
                refuse_if_of_a_file(loaded, Target(KIND[section], name))
                if not isinstance(written, dict):
                    problems.append(Problem(join(section, name), str(unexpected("a table", written))))
                wanted[section][name] = _kept(loaded, Target(KIND[section], name), tidy(written))
    if problems:
        raise ConfigError(problems)
    return wanted


def _kept(loaded: Loaded, target: Target, new: Any) -> Any:
    """As it is to be kept: of a mirror that is enabled, the time begins that it is to last. Refused: it is over."""
    return timed(target, loaded.made[target.section].get(target.name), new) if isinstance(new, dict) else new


def _operation(loaded: Loaded, after: Loaded, target: Target) -> str:
    old, new = (getattr(one.config, target.section).get(target.name) for one in (loaded, after))
    if old is None:
        return "create"
    return "delete" if new is None else "same" if new == old else "change"


def _record(caller: Caller, loaded: Loaded, made: Mapping[str, Any], target: Target, operation: str) -> AuditRecord:
    old, new = (objects[target.section].get(target.name) for objects in (loaded.made, made))
    named = [None if one is None else {"name": target.name, **one} for one in (old, new)]
    mirror = target.name if target.kind == "mirror" else ""
    word = "replace" if operation == "change" else operation
    return AuditRecord(caller, word, target.kind, target.name, mirror, old=named[0], new=named[1])
