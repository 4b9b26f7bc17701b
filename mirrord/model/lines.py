"""Where in a file a key stands, as far as that is cheap to know: by its lines, without a parser of its own.

tomli does not tell. What is written in an unusual way (a key in the middle of a line, text of several lines that
looks like TOML) may get the line of the table around it, or that of another key of the same name.
"""

from __future__ import annotations

import re
from collections import Counter

from mirrord.model.validation import join

_PART = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|\'([^\']*)\'|([A-Za-z0-9_-]+))\s*(?:\.|$)')
_HEADER = re.compile(r"\s*(\[\[?)([^\]=]+)\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"\s*([^\s=#\[{][^=#\[{]*?)\s*=\s*(\[)?")
_LAST = re.compile(r'(?:\[[^\[\]]*\]|\.?(?:"(?:[^"\\]|\\.)*"|[\w-]+))$')
_ITEM = re.compile(r"\s*\{")


def places(text: str) -> dict[str, int]:
    """The line, from 1 on, of each table and key by its dotted path."""
    found: dict[str, int] = {}
    times: Counter[str] = Counter()
    table = listed = ""
    for number, line in enumerate(text.splitlines(), 1):
        header, key = _HEADER.fullmatch(line), _KEY.match(line)
        if header:
            table, listed = _path(header[2], times), ""
            if header[1] == "[[":
                times[table] += 1
                table = f"{table}[{times[table] - 1}]"
            found.setdefault(table, number)
        elif key and (parts := _parts(key[1])):
            path = join(table, *parts)
            found.setdefault(path, number)
            listed = path if key[2] else ""
        if listed and _ITEM.match(line if not key else line[key.end() :]):
            found[f"{listed}[{times[listed]}]"] = number
            times[listed] += 1
    return found


def line_of(places: dict[str, int], path: str) -> int:
    """The line of what is at this path, or of what it is in, or where the first of what is in it stands, as of `a` in a
    file that begins with `[a.b]`; 0 where none is known.
    """
    at = path
    while at and at not in places:
        around = _LAST.sub("", at)
        at = around if around != at else ""  # it is none
    inside = (line for place, line in places.items() if path and place.startswith((f"{path}.", f"{path}[")))
    return places[at] if at else next(inside, 0)


def _parts(text: str) -> list[str]:
    """The keys of a dotted key; none where it is something else."""
    parts, at = [], 0
    while at < len(text):
        part = _PART.match(text, at)
        if part is None:
            return []
        parts.append(next(one for one in part.groups() if one is not None))
        at = part.end()
    return parts


def _path(text: str, times: Counter[str]) -> str:
    """A header's path; of a list of tables that it is in, the last one is meant."""
    path = ""
    for part in _parts(text):
        if times[path]:
            path = f"{path}[{times[path] - 1}]"
        path = join(path, part)
    return path
