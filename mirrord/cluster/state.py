"""The file of what is known of the cluster: from it an agent starts where the store cannot be asked."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mirrord.control.guests.inventory import Answer, Guest, GuestNic, Inventory, Place

FORMAT = 1
MODE = 0o640


def write(path: Path, known: Mapping[str, Any]) -> None:
    """Replace the file: whoever reads it sees the old one or the new one, whole. OSError."""
    new = path.with_name(f".{path.name}.new")
    with suppress(FileNotFoundError):
        new.unlink()
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"version": FORMAT, **known}, file, separators=(",", ":"))
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def read(path: Path) -> dict[str, Any] | None:
    """What was written; None where there is no file. ValueError, OSError: it cannot be used."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    if not isinstance(found, dict) or found.pop("version", None) != FORMAT:
        raise ValueError("it is none of this agent's version")
    return found


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
