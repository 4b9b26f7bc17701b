"""Tables and numbers as a person reads them."""

from __future__ import annotations

import json
from datetime import datetime

from rich.table import Table
from rich.text import Text

COLOURS = {
    "up": "green",
    "waiting": "yellow",
    "failed": "red",
    "paused": "yellow",
    "error": "red",
    "warning": "yellow",
    "refused": "red",
}
FACTORS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def table(*columns: str) -> Table:
    """An empty table: columns by two blanks, no lines. Where a terminal is too narrow, the last column is folded."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, no_wrap=column != columns[-1], overflow="fold")
    return made


def row(into: Table, *cells: object) -> None:
    """Add a row; what is no Text is shown as it is, whatever signs are in it."""
    into.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in cells))


def coloured(word: str) -> Text:
    """A state or a severity in its colour."""
    return Text(word, COLOURS.get(word, ""))


def scaled(value: float) -> str:
    """A rate in three figures, in SI units."""
    for factor, unit in FACTORS:
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.0f}"


def written(shown: dict[str, object]) -> str:
    """An object as the command line takes it: key=value, a key again for each item of a list."""
    found = []
    for key, value in shown.items():
        if value is not None:
            found += [f"{key}={word(one)}" for one in (value if isinstance(value, list) else [value])]
    return ",".join(found)


def word(value: object) -> str:
    """A value as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def local_time(time: datetime) -> str:
    """A moment on this machine's clock, to the second."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def origin(shown: dict[str, object]) -> str:
    """Where an object comes from: a file, or somebody made it at run time."""
    where = shown.get("origin")
    return str(where["file"]) if isinstance(where, dict) and "file" in where else "run time"
