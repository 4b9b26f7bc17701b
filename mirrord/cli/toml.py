"""Objects as TOML that the daemon reads: keys that are as by default are left out.

The standard library reads TOML and does not write it. What is written here is what the models hold: text, numbers,
flags, lists and tables.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from mirrord.model import Filter, FlowNetwork, Mirror, Model

BARE = re.compile(r"[A-Za-z0-9_-]+")  # toml.io/en/v1.0.0#keys
MODELS: dict[str, type[Model]] = {"flow_networks": FlowNetwork, "filters": Filter, "mirrors": Mirror}


def written(sections: dict[str, dict[str, Any]]) -> str:
    """The text; objects in the order given, each after an empty line."""
    blocks = [
        "\n".join(_object(f"{section}.{_key(name)}", MODELS[section].model_validate(one)))
        for section, objects in sections.items()
        for name, one in objects.items()
    ]
    return "\n\n".join(blocks) + "\n" * bool(blocks)


def _object(head: str, one: Model) -> Iterator[str]:
    yield f"[{head}]"
    yield from (f"{key} = {text}" for key, text in _set(one) if key not in ("rules", "sessions"))
    if isinstance(one, Filter):
        yield "rules = ["
        yield from (f"  {_table(rule)}," for rule in one.rules)
        yield "]"
    for session in one.sessions if isinstance(one, Mirror) else ():
        yield f"\n[[{head}.sessions]]"
        yield from (f"{key} = {text}" for key, text in _set(session))


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
