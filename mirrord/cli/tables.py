"""Tables and numbers as a person reads them, at any width of a terminal.

Nothing is cut but names, and these show it by a sign. Where a table is wider than the terminal, names are shortened and
sentences take several lines; then the least important columns are left out, which a note tells; and what is wider even
then, the terminal wraps.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import NamedTuple

import click

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
CUT = "…"
LEAST_NAME = 9  # columns of a name that is cut: four letters, the sign, four letters
LEAST_WORDS = 24  # columns in which a sentence is still read with ease
GAP = 2  # blanks between columns


class Kind(Enum):
    """What may become of a cell that has no room: nothing, a shorter name, or several lines."""

    WHOLE = "whole"
    NAME = "name"
    WORDS = "words"


class Column(NamedTuple):
    """Of the columns that may be left out, the one with the highest `rank` goes first; 0 stays."""

    title: str
    kind: Kind = Kind.WHOLE
    rank: int = 0


def name(title: str, rank: int = 0) -> Column:
    """A column of names, which may be shortened."""
    return Column(title, Kind.NAME, rank)


def words(title: str, rank: int = 0) -> Column:
    """A column of sentences or lists, which may take several lines."""
    return Column(title, Kind.WORDS, rank)


def whole(title: str, rank: int = 0) -> Column:
    """A column of numbers, states or ids, which are never cut."""
    return Column(title, Kind.WHOLE, rank)


class Cell(NamedTuple):
    """A text and its colour."""

    text: str
    colour: str = ""


@dataclass
class Table:
    """Columns by two blanks, no lines."""

    columns: Sequence[Column]
    rows: list[list[Cell]] = field(default_factory=list)

    def row(self, *cells: object) -> None:
        """Add a row; what is no Cell is shown as its text."""
        self.rows.append(
            [Cell(plain(one.text), one.colour) if isinstance(one, Cell) else Cell(plain(str(one))) for one in cells]
        )

    def lines(self, width: int | None) -> list[str]:
        """The table for a terminal of so many columns, or for one without an edge; and what it leaves out."""
        shown = list(range(len(self.columns)))
        widths = self._widths(shown, width)
        while width is not None and _total(widths.values()) > width:
            spare = max(shown, key=lambda at: self.columns[at].rank)
            if not self.columns[spare].rank:
                break
            shown.remove(spare)
            widths = self._widths(shown, width)
        titles = [Cell(self.columns[at].title) for at in shown]
        found = _laid_out([[cell.text] for cell in titles], list(widths.values()), ["bold"] * len(shown))
        for row in self.rows:
            texts = [self._fitted(at, row[at].text, widths[at]) for at in shown]
            found += _laid_out(texts, list(widths.values()), [row[at].colour for at in shown])
        left = [column.title for at, column in enumerate(self.columns) if at not in shown]
        if left:
            found.append(f"(no room for {', '.join(left)}: a wider terminal or --json has them)")
        return found

    def _widths(self, shown: Sequence[int], width: int | None) -> dict[int, int]:
        """How wide each column is: as its longest cell, or where that is too wide, as little as its kind allows."""
        widths = {at: max(map(columns, [self.columns[at].title, *(row[at].text for row in self.rows)])) for at in shown}
        if width is None:
            return widths
        least = {at: self._least(at, wide) for at, wide in widths.items()}
        for _ in range(_total(widths.values()) - width):
            at = max(widths, key=lambda at: (widths[at] > least[at], widths[at]))
            if widths[at] <= least[at]:
                break
            widths[at] -= 1
        return widths

    def _least(self, at: int, wide: int) -> int:
        column = self.columns[at]
        if column.kind is Kind.WHOLE:
            return wide
        floor = max(columns(column.title), LEAST_NAME if column.kind is Kind.NAME else LEAST_WORDS)
        if column.kind is Kind.WORDS:
            floor = max([floor, *(columns(part.rstrip()) for row in self.rows for part in _parts(row[at].text))])
        return min(wide, floor)

    def _fitted(self, at: int, text: str, width: int) -> list[str]:
        """The lines of a cell."""
        if self.columns[at].kind is Kind.NAME:
            return [shortened(text, width)]
        return folded(text, width) if self.columns[at].kind is Kind.WORDS else [text]


def _total(widths: Collection[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _laid_out(texts: Sequence[Sequence[str]], widths: Sequence[int], colours: Sequence[str]) -> list[str]:
    """The lines of one row, each cell in its colour, without blanks at the end."""
    lines = []
    for n in range(max(map(len, texts), default=0)):
        line, missing = "", 0
        for cell, width, colour in zip(texts, widths, colours, strict=True):
            text = cell[n] if n < len(cell) else ""
            if text:
                line += " " * missing + _styled(text, colour)
                missing = 0
            missing += width - columns(text) + GAP
        lines.append(line)
    return lines


def _styled(text: str, colour: str) -> str:
    if colour == "bold":
        return click.style(text, bold=True)
    return click.style(text, fg=colour) if colour else text


# --- texts ---


def plain(text: str) -> str:
    """Without what would move a terminal's cursor: a device's name may hold any byte but a slash, a colon, a blank."""
    return (
        text
        if text.isprintable()
        else "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    )


def columns(text: str) -> int:
    """How many columns of a terminal it takes (Unicode Standard Annex 11; marks that combine take none)."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.category(one) in ("Mn", "Me", "Cf") else 1 + (unicodedata.east_asian_width(one) in "WF")
        for one in text
    )


def shortened(text: str, width: int) -> str:
    """The text, or its two ends with a sign between, in so many columns."""
    if columns(text) <= width:
        return text
    head, tail, left = "", "", width - 1
    front, back = 0, len(text) - 1
    while True:
        from_head = columns(head) <= columns(tail)
        letter = text[front] if from_head else text[back]
        if columns(letter) > left:
            return head + CUT + tail
        left -= columns(letter)
        if from_head:
            head, front = head + letter, front + 1
        else:
            tail, back = letter + tail, back - 1


def _parts(text: str) -> list[str]:
    """Where a line may end: behind a blank, and behind a comma."""
    return re.findall(r"[^ ,]*[ ,]+|[^ ,]+", text)


def folded(text: str, width: int) -> list[str]:
    """The text in lines of so many columns; a word that is longer has one of its own."""
    lines = [""]
    for part in _parts(text):
        if lines[-1] and columns(lines[-1] + part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return [line.rstrip() for line in lines]


def coloured(word: str) -> Cell:
    """A state or a severity in its colour."""
    return Cell(word, COLOURS.get(word, ""))


def scaled(value: float) -> str:
    """A rate in three figures, in SI units."""
    for factor, unit in FACTORS:
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.0f}"


def written(shown: Mapping[str, object]) -> str:
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


def origin(shown: Mapping[str, object]) -> str:
    """Where an object comes from: a file, or somebody made it at run time."""
    where = shown.get("origin")
    if isinstance(where, dict) and "cluster" in where:
        return "cluster"
    return str(where["file"]) if isinstance(where, dict) and "file" in where else "run time"
