"""A cluster's objects as the API shows them: with every default written out, and how they do on each host. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from mirrord.cluster import records
from mirrord.cluster.derive import ended
from mirrord.cluster.validate import Objects
from mirrord.control.targets import Target
from mirrord.model import Mirror

ORIGIN = {"cluster": True, "state": True}
"""It was made at run time, and is the cluster's."""

Running = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
"""How sessions do, by mirror and session: rows as those of the daemon's status."""


def shown(objects: Objects, target: Target, running: Running) -> dict[str, Any]:
    """An object that is there. One that this agent cannot read is shown as it was written."""
    if target.kind == "session":
        sessions = objects["mirrors"][target.mirror]["sessions"]
        session = next(one for one in sessions if one["name"] == target.name)
        return {**_session(target.mirror, session, running), "origin": ORIGIN}
    said = objects[target.section][target.name]
    found: dict[str, Any] = {"name": target.name}
    if target.kind == "mirror":
        model = records.examine_mirror(said, "").model
        found |= _dumped(model, said, without="sessions")
        found["expired"] = isinstance(model, Mirror) and ended(model, time.time())
        found["sessions"] = [_session(target.name, one, running) for one in said["sessions"]]
    elif target.kind == "filter":
        found |= _dumped(records.examine_filter(said, "").model, said)
    else:
        found |= _dumped(records.examine_network(said, "").model, said)
    return {**found, "origin": ORIGIN}


def _dumped(model: Any, said: Mapping[str, Any], without: str = "") -> dict[str, Any]:
    dumped = dict(said) if model is None else model.model_dump(mode="json")
    return {key: value for key, value in dumped.items() if key != without}


def _session(mirror: str, said: Mapping[str, Any], running: Running) -> dict[str, Any]:
    one = records.examine_session(mirror, said, "").model
    rows = list(running.get((mirror, str(said.get("name"))), ()))
    if one is None:
        return {**said, "running": rows}
    found = one.session.model_dump(mode="json")
    for side, host in (("source", one.source_host), ("destination", one.destination_host)):
        if host is not None:
            found[side] = {**found[side], "host": host}
    return {**found, **({} if one.vni is None else {"vni": one.vni}), "running": rows}
