"""The file of what is known of the cluster: from it an agent starts where the store cannot be asked.

Each line is a JSON object, and says what is new since the line before it: values in the place of those of the same
name, and of `config` and `ends` single entries, of which null is one that is gone. So a change costs what it says. A
line that is not whole is one that was being written when the machine stopped, and is not read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from mirrord.control.guests.inventory import Answer, Guest, GuestNic, Inventory, Place
from mirrord.ownership import give_to_owner_of

FORMAT = 2
MODE = 0o640

BY_ENTRY = ("config", "ends")
ENTRIES = 100  # of a line of a file that is written anew

LEAST_GROWTH = 1 << 20
"""By so many bytes, and by no less than it had, a file grows before it is written anew."""


class OtherVersionError(ValueError):
    """The file is not of this agent's version: an older or a newer one wrote it."""


class StateFile:
    """Written by whoever has it, and nobody else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._said: dict[str, Any] | None = None  # what it has but entries; None: it is to be written anew
        self._size, self._grown = 0, 0

    @property
    def whole(self) -> bool:
        """Whether the next thing to write is all there is, not only what is new."""
        return self._said is None or self._grown > max(self._size, LEAST_GROWTH)

    def write(self, known: Mapping[str, Any]) -> None:
        """Replace the file: whoever reads it sees the old one or the new one, whole. OSError."""
        self._said = None
        new = self.path.with_name(f".{self.path.name}.new")
        with suppress(FileNotFoundError):
            new.unlink()
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
        with os.fdopen(descriptor, "w") as file:
            give_to_owner_of(self.path.parent, descriptor)
            for part in _parts(known):
                file.write(_line(part))
            size = file.tell()
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)
        self._said, self._size, self._grown = _without_entries(known), size, 0

    def add(self, news: Mapping[str, Any]) -> None:
        """Add what is new. OSError: what the file has now is not known, it is to be written anew."""
        said, self._said = self._said or {}, None
        other = {key: value for key, value in _without_entries(news).items() if said.get(key) != value}
        line = _line({**other, **{key: news[key] for key in BY_ENTRY if news[key]}}).encode()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        with os.fdopen(descriptor, "wb") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._said, self._grown = {**said, **other}, self._grown + len(line)


def read(path: Path) -> dict[str, Any] | None:
    """What was written; None where there is no file. OtherVersionError; ValueError, OSError: it cannot be used."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    found: dict[str, Any] = {key: {} for key in BY_ENTRY}
    first, *others = text.split("\n")
    for line in [first, *others[:-1]]:  # behind the last one is nothing, or what is not whole
        said = json.loads(line)
        if not isinstance(said, dict):
            raise ValueError("it has a line that is no object")  # noqa: TRY004 (of the file, not of the caller)
        if said.pop("version", None) != FORMAT:
            raise OtherVersionError("it is none of this agent's version")
        for key in BY_ENTRY:
            entries = said.pop(key, {})
            found[key].update(entries)
            for gone in [name for name, value in entries.items() if value is None]:
                del found[key][gone]
        found.update(said)
    return found


def _without_entries(known: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in known.items() if key not in BY_ENTRY}


def _parts(known: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A line for each hundred: to write a line nobody else of the process may do anything for long."""
    yield _without_entries(known)
    for key in BY_ENTRY:
        entries = iter(known[key].items())
        while part := dict(islice(entries, ENTRIES)):
            yield {key: part}


def _line(said: Mapping[str, Any]) -> str:
    return json.dumps({"version": FORMAT, **said}, separators=(",", ":")) + "\n"


def inventory_kept(inventory: Inventory) -> list[Any]:
    """Guests in JSON's types."""
    return [
        [*place, [[guest.name, guest.id, guest.runs, [list(nic) for nic in guest.nics]] for guest in answer.guests]]
        for place, answer in inventory.items()
    ]


def inventory_of(kept: Any) -> Inventory:
    """What `inventory_kept` gave. TypeError, ValueError: it is none of that."""
    return {
        Place(kind, address): Answer(
            tuple(
                Guest(name, id_, bool(runs), tuple(GuestNic(*nic) for nic in nics)) for name, id_, runs, nics in guests
            )
        )
        for kind, address, guests in kept
    }
