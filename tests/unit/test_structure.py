"""What may import what. Read from the source, so that imports inside functions and for types alone count, too."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import mirrord

PACKAGE = Path(mirrord.__file__).parent
OPENS_THINGS = {"ctypes", "fcntl", "mmap", "select", "socket"}
DEFINITIONS = {
    "mirrord.dataplane",
    "mirrord.dataplane.counters",
    "mirrord.dataplane.filter",
    "mirrord.dataplane.filter.rules",
    "mirrord.dataplane.forward",
    "mirrord.dataplane.forward.encap",
    "mirrord.dataplane.forward.fragments",
    "mirrord.dataplane.forward.own_copies",
    "mirrord.dataplane.forward.remotes",
    "mirrord.dataplane.frame",
    "mirrord.dataplane.frame.headers",
    "mirrord.dataplane.frame.told",
    "mirrord.dataplane.transmit",
    "mirrord.dataplane.transmit.file_names",
    "mirrord.dataplane.transmit.pcapng",
}
"""What of the data plane only says what is meant, and opens nothing."""


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def imported(name: str) -> Iterator[str]:
    """The modules that one imports: the package's by their full names, all others by their first."""
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            module = node.module or ""
            found = [one if (one := f"{module}.{alias.name}") in MODULES else module for alias in node.names]
        else:
            continue
        yield from (one if one in MODULES else one.partition(".")[0] for one in found)


@cache
def imports() -> dict[str, set[str]]:
    return {name: set(imported(name)) - {name} for name in MODULES}


def reached(start: str) -> dict[str, tuple[str, ...]]:
    """Every module that this one imports, by itself or through others, and through which."""
    ways: dict[str, tuple[str, ...]] = {start: ()}
    left = [start]
    while left:
        name = left.pop()
        for other in imports().get(name, ()):
            if other not in ways:
                ways[other] = (*ways[name], name)
                left.append(other)
    return ways


def test_no_module_imports_itself_through_others() -> None:
    ways = {name: reached(name) for name in MODULES}
    pairs = [(name, other) for name in MODULES for other in imports()[name]]
    circles = [(*ways[other][name], name) for name, other in pairs if name in ways.get(other, ())]
    assert not [" -> ".join(circle) for circle in circles]


@pytest.mark.parametrize(
    "name", ["mirrord.plans", *sorted(one for one in MODULES if one.startswith("mirrord.control.planning"))]
)
def test_plans_are_made_without_opening_anything(name: str) -> None:
    ways = reached(name)
    wrong = OPENS_THINGS | {one for one in MODULES if one.startswith("mirrord.dataplane") and one not in DEFINITIONS}
    assert not [" -> ".join((*ways[one], one)) for one in sorted(wrong & ways.keys())]


@pytest.mark.parametrize(
    ("folder", "forbidden", "allowed"),
    [
        ("mirrord.model", ("mirrord.control", "mirrord.dataplane", "mirrord.cli"), ()),
        ("mirrord.dataplane", ("mirrord.control", "mirrord.model", "mirrord.cli", "asyncio", "pydantic"), ()),
        ("mirrord.control", ("mirrord.cli", "mirrord.cluster"), ()),  # the daemon is no store's client
        ("mirrord.cluster", ("mirrord.cli", "mirrord.dataplane"), ()),
        ("mirrord.console", ("mirrord.control", "mirrord.dataplane", "mirrord.model", "mirrord.cli"), ()),
        (
            "mirrord.cli",
            ("mirrord.control", "aiohttp"),
            (  # of what is not sent yet
                "mirrord.control.configuration.config",
                "mirrord.control.configuration.toml",
                "mirrord.control.planning.selection",
            ),
        ),
    ],
)
def test_each_folder_rests_on_those_below(folder: str, forbidden: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    found = {other for name in MODULES if f"{name}.".startswith(f"{folder}.") for other in imports()[name]}
    above = tuple(f"{name}." for name in forbidden)
    assert not [one for one in found - {*allowed} if f"{one}.".startswith(above)]


def test_no_module_of_the_page_imports_itself_through_others() -> None:
    files = [file for file in (PACKAGE / "console" / "page").rglob("*.js") if "vendor" not in file.parts]
    told = re.compile(r"^(?:import|export)\b[^'\"]*\bfrom '(\.[^']+)'", re.MULTILINE)
    others = {file: {(file.parent / one).resolve() for one in told.findall(file.read_text())} for file in files}
    assert sum(map(len, others.values())) > len(files)
    while leaves := [file for file, imported in others.items() if not imported & others.keys()]:
        for file in leaves:
            del others[file]
    assert not sorted(file.name for file in others)
