"""What a change would do to sessions: which start, stop, begin anew or go on otherwise. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mirrord.control.planning.plan import Add, Entry, Key, Remove, Rename, Replace, diff
from mirrord.plans import PipelinePlan

START, STOP, RESTART, CHANGE, RENAME, WAIT = "start", "stop", "restart", "change", "rename", "wait"
EFFECTS = {
    START: "it begins to mirror",
    STOP: "it ends, or cannot run any more",
    RESTART: "it ends and begins anew, frames between the two are not mirrored",
    CHANGE: "it goes on by other words, without losing a frame",
    RENAME: "it goes on under another name",
    WAIT: "it cannot run yet, a warning tells why",
}


class Effect(NamedTuple):
    """What becomes of a session on one of its source devices."""

    mirror: str
    session: str
    source: str
    effect: str


def effects(before: Mapping[Key, Entry], after: Mapping[Key, Entry]) -> Iterator[Effect]:
    """What leads from one plan to another, in the order of the first and what is new in the second."""
    old, new = _running(before), _running(after)
    actions = diff(old, new)
    removed = {action.key for action in actions if isinstance(action, Remove)}
    renamed = {action.new for action in actions if isinstance(action, Rename)}
    found = dict.fromkeys(removed, STOP) | dict.fromkeys(renamed, RENAME)
    for action in actions:
        if isinstance(action, Add):
            found[action.key] = RESTART if action.key in removed else START
        elif isinstance(action, Replace):
            found[action.key] = CHANGE
    for key in after.keys() - before.keys() - new.keys():
        found[key] = WAIT
    for key in found.keys() & new.keys():
        if after[key].state == "waiting":  # it only counts what is lost
            found[key] = STOP if key in old and before[key].state == "up" else WAIT
    for key in dict.fromkeys((*before, *after)):
        if key in found:
            yield Effect(*key, found[key])


def _running(entries: Mapping[Key, Entry]) -> dict[Key, PipelinePlan]:
    return {key: entry.pipeline for key, entry in entries.items() if entry.pipeline is not None}
