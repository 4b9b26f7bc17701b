"""JSON of others, read with care: what a program here could stumble over later is refused at once."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

MAX_DEPTH = 32  # a mirror has five: itself, its sessions, one of them, its source, the devices


class TooDeepError(ValueError):
    """More than MAX_DEPTH objects and lists within each other."""

    def __init__(self) -> None:
        super().__init__(f"more than {MAX_DEPTH} objects and lists within each other")


def parsed(text: str) -> Any:
    """What it says. ValueError for what is no JSON (RFC 8259), a number that is none, a key that is there twice, half a
    surrogate pair, which is no text, and TooDeepError.
    """
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=_number, object_pairs_hook=_once)
    except RecursionError:
        raise TooDeepError from None
    if _deeper_than(MAX_DEPTH, value):
        raise TooDeepError
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _deeper_than(depth: int, value: Any) -> bool:
    """Whether more objects and lists than this are within each other."""
    level = [value]
    for _ in range(depth):
        inner = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, (dict, list)))
        level = [part for parts in inner for part in parts if isinstance(part, (dict, list))]
    return bool(level)


def _number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large a number")
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key is there twice")
    return value
