"""How a value is read and shown again, and what all refusals have in common."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from datetime import date, time
from typing import Annotated, Any, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

T = TypeVar("T")


def unexpected(expected: str, value: object) -> ValueError:
    """The refusal of a value, in the words that all refusals share."""
    shown = _as_written(value)
    return ValueError(f"expected {expected}, not {shown if len(shown) <= 60 else shown[:57] + '...'}")


def _as_written(value: object) -> str:
    """A value as it stands in TOML or JSON, not as Python would show it; text in single quotes."""
    match value:
        case bool():
            return "true" if value else "false"
        case None:
            return "null"
        case date() | time():
            return value.isoformat()
        case list() | tuple():
            return f"[{', '.join(map(_as_written, value))}]"
        case dict():
            pairs = (f"{key} = {_as_written(one)}" for key, one in value.items())
            return f"{{ {', '.join(pairs)} }}" if value else "{}"
        case _:
            return repr(value)


class Between:
    """An integer from `low` to `high`, inclusive; also as decimal, 0x, 0o or 0b text."""

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    def parse(self, value: object) -> int:
        """Return the number; ValueError tells the bounds."""
        number = value
        if isinstance(value, str):
            try:
                number = int(value, 0)
            except ValueError:
                number = None
        if isinstance(number, int) and not isinstance(number, bool) and self.low <= number <= self.high:
            return number
        raise unexpected(f"a whole number from {self.low} to {self.high}", value)

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        plain = core_schema.int_schema(ge=self.low, le=self.high)
        return core_schema.no_info_before_validator_function(self.parse, plain)


class Written:
    """A value read by `parse` and shown by `show`; `schema` describes the text for JSON Schema."""

    def __init__(self, parse: Callable[[Any], T], show: Callable[[T], object], schema: dict[str, Any]) -> None:
        self.parse, self.show, self.schema = parse, show, schema

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        shown = core_schema.plain_serializer_function_ser_schema(self.show, when_used="json")
        return core_schema.no_info_plain_validator_function(self.parse, serialization=shown)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return deepcopy(self.schema)  # pydantic adds to it


TEXT: dict[str, Any] = {"type": "string"}
TEXT_OR_LIST: dict[str, Any] = {"anyOf": [TEXT, {"type": "array", "items": TEXT}]}
NUMBER_OR_LIST: dict[str, Any] = {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]}


MOST_VALUES = 4096  # in a list


def one_or_more(parse: Callable[[object], T]) -> Callable[[object], tuple[T, ...]]:
    """Read one value or a list of them. An empty list is refused: it could mean everything or nothing."""

    def parse_all(value: object) -> tuple[T, ...]:
        if not isinstance(value, (list, tuple)):
            return (parse(value),)
        if not value:
            raise unexpected("at least one value", value)
        if len(value) > MOST_VALUES:
            raise ValueError(f"expected at most {MOST_VALUES} values, not {len(value)}")
        return tuple(parse(item) for item in value)

    return parse_all


def shown_by(show: Callable[[T], object]) -> Callable[[tuple[T, ...]], object]:
    """Show a single value alone, several as a list."""

    def show_all(values: tuple[T, ...]) -> object:
        return show(values[0]) if len(values) == 1 else [show(value) for value in values]

    return show_all


def same(value: T) -> T:
    """The value itself: it is shown as it is."""
    return value


def matching(pattern: re.Pattern[str], expected: str) -> Callable[[object], str]:
    """Read text of this pattern; `expected` tells what it is."""

    def parse(value: object) -> str:
        if isinstance(value, str) and pattern.fullmatch(value):
            return value
        raise unexpected(expected, value)

    return parse


def _flag(value: object) -> bool:
    flag = {"true": True, "false": False}.get(value) if isinstance(value, str) else value
    if isinstance(flag, bool):
        return flag
    raise unexpected("true or false", value)


Flag = Annotated[bool, Written(_flag, same, {"type": "boolean"})]
