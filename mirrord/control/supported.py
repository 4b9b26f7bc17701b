"""What this version does not run yet. It is refused by name, never accepted and ignored.

The one table to shrink: a key's values that run, by model. Keys that are not here run with every value that the model
takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mirrord.control.refusals import Declared
from mirrord.control.validation import join
from mirrord.errors import Problem
from mirrord.model import FlowNetwork, Model, Session

RUNS: dict[type[Model], dict[str, tuple[Callable[[Any], bool], str]]] = {
    FlowNetwork: {
        "addresses": (lambda addresses: addresses.first.version == 4, "IPv6 flow networks"),
    },
}


def unsupported(declared: Declared) -> list[Problem]:
    """Everything that was asked for and does not run yet."""
    found = _of("daemon", declared.daemon)
    for path, one in declared.objects.items():
        found += _of(path, one)
        if isinstance(one, Session):
            found += _of(join(path, "source"), one.source) + _of(join(path, "destination"), one.destination)
    return found


def _of(path: str, one: Model) -> list[Problem]:
    return [
        Problem(join(path, key), f"not supported yet: {words}")
        for key, (runs, words) in RUNS.get(type(one), {}).items()
        if not runs(getattr(one, key))
    ]
