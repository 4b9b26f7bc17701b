"""What all models share."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sized
from typing import Annotated, Any, Literal, NamedTuple

# No package that happens to be there has a say in what is valid; and not to look for one saves 10 ms at each start.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

from pydantic import BaseModel, ConfigDict, Discriminator, model_validator

from mirrord.values.written import Between

DirectionName = Literal["ingress", "egress", "both"]
Port = Annotated[int, Between(1, 65535)]
Vni = Annotated[int, Between(0, (1 << 24) - 1)]
GreKey = Annotated[int, Between(0, (1 << 32) - 1)]
ErspanSession = Annotated[int, Between(0, 1023)]
Mark = Annotated[int, Between(1, (1 << 32) - 1)]
Count = Annotated[int, Between(0, (1 << 31) - 1)]


class Contradiction(NamedTuple):
    """A key that does not go with another one; `lacks` are the keys of which one would do."""

    key: str
    why: str
    lacks: tuple[str, ...] = ()


class ContradictionError(ValueError):
    """Keys of one object that exclude each other."""

    def __init__(self, found: Iterable[tuple[str, ...]]) -> None:
        self.found = [Contradiction(key, why, tuple(lacks)) for key, why, *lacks in found]
        super().__init__("; ".join(f"{one.key}: {one.why}" for one in self.found))


def too_many(key: str, values: Sized, most: int) -> Iterator[tuple[str, str]]:
    """A contradiction where a list under `key` is longer than what a daemon can hold of it."""
    if len(values) > most:
        yield key, f"expected at most {most}, not {len(values)}"


def repeated(key: str, part: str, values: Iterable[object]) -> Iterator[tuple[str, str]]:
    """Contradictions in a list under `key`, whose items have these values of `part`, which must be unique."""
    for value, times in Counter(values).items():
        if times > 1:
            yield key, f"{part} {value!r} is used more than once"


class Model(BaseModel):
    """What all models share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def _contradictions(self) -> Iterator[tuple[str, ...]]:
        """The parts of each Contradiction."""
        yield from ()

    def shown(self) -> dict[str, Any]:
        """As `model_dump` in JSON's types, but part by part, so that other threads get their turn between thousands."""
        listed = {key for key, value in self if isinstance(value, tuple) and value and isinstance(value[0], Model)}
        rest = self.model_dump(mode="json", exclude=listed)
        return {
            key: [part.model_dump(mode="json") for part in getattr(self, key)] if key in listed else rest[key]
            for key in type(self).model_fields
        }

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Model:
        if found := list(self._contradictions()):
            raise ContradictionError(found)
        return self


def kind_of(written: dict[str, object]) -> object:
    """What a source's or destination's `type` is: left out beside a `device`, "device"; None where nothing tells."""
    return written.get("type", "device" if "device" in written else None)


def type_of(side: str) -> Discriminator:
    """Choose a model by `type`. The tag names the side, too, so that it is told from a key in an error's location."""

    def tag(value: object) -> str | None:
        if isinstance(value, str):
            return f"<device {side}>" if side == "source" else None
        kind = kind_of(value) if isinstance(value, dict) else getattr(value, "type", None)
        return None if kind is None else f"<{kind} {side}>"

    return Discriminator(tag)
