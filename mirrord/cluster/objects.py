"""A cluster's objects as the API shows them: with every default written out, and how they do on each host. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from mirrord.cluster import records
from mirrord.cluster.derive import ended
from mirrord.cluster.validate import Objects
from mirrord.control.targets import Target
from mirrord.model import Mirror, Session
from mirrord.model.validation import Examined

ORIGIN = {"cluster": True, "state": True}
"""It was made at run time, and is the cluster's."""

Running = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
"""How sessions do, by mirror and session: rows as those of the daemon's status."""


def shown(objects: Objects, target: Target, running: Running) -> dict[str, Any]:
    """An object that is there. One that this agent cannot read is `unreadable`, and has what is shown by default."""
    if target.kind == "session":
        sessions = objects["mirrors"][target.mirror]["sessions"]
        session = next(one for one in sessions if one["name"] == target.name)
        return {**_session(target.mirror, session, running), "origin": ORIGIN}
    said = objects[target.section][target.name]
    found: dict[str, Any] = {"name": target.name}
    if target.kind == "mirror":
        model = _read(records.examine_mirror(said, ""))
        found |= _dumped(model or Mirror(), unreadable=model is None)
        found["expired"] = isinstance(model, Mirror) and ended(model, time.time())
        found["sessions"] = [_session(target.name, one, running) for one in said["sessions"]]
    elif target.kind == "filter":
        found |= _dumped(_read(records.examine_filter(said, "")) or NO_FILTER)
    else:
        found |= _dumped(_read(records.examine_network(said, "")) or NO_NETWORK)
    return {**found, "origin": ORIGIN}


UNREADABLE = {"description": "(this agent cannot use it: see mirrorctl --cluster status)", "unreadable": True}
NO_FILTER = {"rules": [], **UNREADABLE}
NO_NETWORK = {"addresses": "", "gateway": None, "vnis": "", **UNREADABLE}


def _read(examined: Examined) -> Any:
    return None if examined.problems else examined.model


def _dumped(model: Any, *, unreadable: bool = False) -> dict[str, Any]:
    """An object, without its sessions."""
    dumped = dict(model) if isinstance(model, dict) else model.model_dump(mode="json")
    return {key: value for key, value in dumped.items() if key != "sessions"} | (UNREADABLE if unreadable else {})


def _no_session(name: Any) -> dict[str, Any]:
    """What is shown by default of a session, and no ends."""
    any_ = Session.model_validate({"name": "any", "source": "any", "destination": {"type": "device", "device": "one"}})
    return {**any_.model_dump(mode="json"), "name": name, "source": {}, "destination": {}, **UNREADABLE}


def _session(mirror: str, said: Mapping[str, Any], running: Running) -> dict[str, Any]:
    one = records.examine_session(mirror, said, "").model
    rows = list(running.get((mirror, str(said.get("name"))), ()))
    if one is None:
        return {**_no_session(said.get("name")), "running": rows}
    found = one.session.model_dump(mode="json")
    for side, host in (("source", one.source_host), ("destination", one.destination_host)):
        if host is not None:
            found[side] = {**found[side], "host": host}
    return {**found, **({} if one.vni is None else {"vni": one.vni}), "running": rows}
