"""Objects as TOML that the daemon reads: keys that are as by default are left out.

The standard library reads TOML and does not write it. What is written here is what the models hold: text, numbers,
flags, lists and tables.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mirrord.cluster.records import ClusterNetwork
from mirrord.model import Filter, FlowNetwork, Mirror, Model

BARE = re.compile(r"[A-Za-z0-9_-]+")  # toml.io/en/v1.0.0#keys
SIDES = ("source", "destination")
MODELS: dict[str, type[Model]] = {"flow_networks": FlowNetwork, "filters": Filter, "mirrors": Mirror}


def written(sections: dict[str, dict[str, Any]]) -> str:
    """The text; objects in the order given, each after an empty line."""
    blocks = [
        "\n".join(_object(f"{section}.{_key(name)}", _model(section, one), _hosts(one)))
        for section, objects in sections.items()
        for name, one in objects.items()
    ]
    return "\n\n".join(blocks) + "\n" * bool(blocks)


def _model(section: str, one: dict[str, Any]) -> Model:
    """The object as its model; what only a cluster's have is not in it."""
    if section == "flow_networks" and "vnis" in one:
        return ClusterNetwork.model_validate(one)
    if section != "mirrors":
        return MODELS[section].model_validate(one)
    sessions = [
        {
            key: {part: each for part, each in value.items() if part != "host"} if key in SIDES else value
            for key, value in session.items()
            if key != "vni"
        }
        for session in one["sessions"]
    ]
    return Mirror.model_validate({**one, "sessions": sessions})


def _hosts(one: dict[str, Any]) -> dict[tuple[str, str], str]:
    """The hosts that ends of sessions are on in a cluster, by session and side."""
    ends = ((session, side) for session in one.get("sessions", ()) for side in SIDES)
    return {(session["name"], side): session[side]["host"] for session, side in ends if "host" in session[side]}


def _object(head: str, one: Model, hosts: Mapping[tuple[str, str], str]) -> Iterator[str]:
    yield f"[{head}]"
    yield from (f"{key} = {text}" for key, text in _set(one) if key not in ("rules", "sessions"))
    if isinstance(one, Filter):
        yield "rules = ["
        yield from (f"  {_table(rule)}," for rule in one.rules)
        yield "]"
    for session in one.sessions if isinstance(one, Mirror) else ():
        yield f"\n[[{head}.sessions]]"
        for key, text in _set(session):
            host = hosts.get((session.name, key))
            yield f"{key} = {text}" if host is None else f"{key} = {text.removesuffix(' }')}, host = {_value(host)} }}"


def _set(one: Model) -> Iterator[tuple[str, str]]:
    """The keys that are not as by default, in the model's order; `type`, which tells what it is, first."""
    shown = one.model_dump(mode="json")
    for key, field in sorted(type(one).model_fields.items(), key=lambda item: item[0] != "type"):
        value = getattr(one, key)
        if isinstance(value, Model):
            yield key, _table(value)
        elif key == "type" or (value != field.default and value is not None):
            yield key, _value(shown[key])


def _table(one: Model) -> str:
    return "{ " + ", ".join(f"{key} = {text}" for key, text in _set(one)) + " }"


def _key(name: str) -> str:
    return name if BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False)  # text, numbers and flags are written alike in both
