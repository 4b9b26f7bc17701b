"""JSON piece by piece: what 5,000 sessions say is megabytes.

An encoder, as whatever else is one call into C, holds the interpreter until it is done: on a thread it would have the
event loop wait just as long.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

SHORT = (str, int, float, type(None))
"""What nearly all of it is."""

FEW = 20
"""A list of more parts is encoded part by part."""


def pieces(value: Any) -> Iterator[str]:
    """What json.dumps would make of it. Keys are strings; an iterator, at any depth of mappings and of iterators, is a
    list that is made as it is read.
    """
    if not _long(value):
        yield json.dumps(value)
    elif isinstance(value, dict):
        for number, (key, one) in enumerate(value.items()):
            yield f"{', ' if number else '{'}{json.dumps(key)}: "
            yield from pieces(one)
        yield "}"
    else:
        yield "["
        for number, one in enumerate(value):
            if number:
                yield ", "
            yield from pieces(one)
        yield "]"


class Encoded:
    """The text of objects that are changed again and again, mostly in one part of a long list: what was encoded before,
    and is the same part still, is not encoded anew.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, str]] = {}  # the parts, which nobody changes, by their identity

    def __call__(self, value: dict[str, Any]) -> str:
        """What json.dumps would make of it."""
        known, self._known = self._known, {}
        return "{" + ", ".join(f"{json.dumps(key)}: {self._text(one, known)}" for key, one in value.items()) + "}"

    def _text(self, value: Any, known: dict[int, tuple[Any, str]]) -> str:
        if not isinstance(value, list) or len(value) <= FEW:
            return "".join(pieces(value))
        for one in value:
            self._known[id(one)] = known.get(id(one)) or (one, "".join(pieces(one)))
        return "[" + ", ".join([self._known[id(one)][1] for one in value]) + "]"


def _long(value: Any) -> bool:
    """Whether an iterator, or a list of many parts, is somewhere in it."""
    if isinstance(value, SHORT):
        return False
    if isinstance(value, dict):
        return any(map(_long, value.values()))
    if isinstance(value, list):
        return len(value) > FEW or any(map(_long, value))
    return isinstance(value, Iterator)
