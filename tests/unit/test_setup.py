"""What `make demo` and `make test` run is there once tests/setup has run where there was only Debian's base."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import ROOT

TESTS = ROOT / "tests"
STARTS = {"run", "spawn", "_run", "check_output", "Popen", "Process", "create_subprocess_exec"}
BEFORE = {
    "make",
    "gcc",
    "libc6-dev",
    "python3",
    "python3-venv",
    "python3-dev",
}  # to begin with, and by tests/setup venv


def started(files: Iterable[Path]) -> set[str]:
    """The programs that these files name where they start one."""
    return {program for file in files for program in _started(ast.parse(file.read_text()))}


def _started(tree: ast.AST) -> Iterator[str]:
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not call.args:
            continue
        first = call.args[0]
        if isinstance(first, ast.List | ast.Tuple) and first.elts:
            first = first.elts[0]
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        if name in STARTS and isinstance(first, ast.Constant) and isinstance(first.value, str):
            yield first.value


def imported(file: Path) -> set[Path]:
    """The file, and all of the tests' that it takes in."""
    found, news = set[Path](), {file}
    while news:
        found |= news
        names = {
            name for one in news for name in re.findall(r"^from (tests\.\S+) import", one.read_text(), re.MULTILINE)
        }
        news = {ROOT / f"{name.replace('.', '/')}.py" for name in names} - found
    return found


def asked_for(target: str) -> set[str]:
    """The packages that tests/setup installs for a target."""
    text = (TESTS / "setup").read_text()
    (table,) = re.findall(rf'^{target}_tools="(.*?)"$', text, re.DOTALL | re.MULTILINE)
    more = {package for other in re.findall(r"\$(\w+)_tools", table) for package in asked_for(other)}
    return more | {line.split()[1] for line in table.splitlines() if not line.startswith("$")}


def installed(field: str, *packages: str) -> list[str]:
    command = ["dpkg-query", "--show", f"--showformat=${{Package}}\t${{{field}}}\n", *packages]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()


def with_depends(packages: set[str]) -> set[str]:
    """They, and what comes with them."""
    found, news = set[str](), packages
    while news:
        found |= news
        depends = (line.partition("\t")[2] for line in installed("Depends", *news))
        news = {one.split()[0].partition(":")[0] for line in depends for one in line.split(", ") if one} - found
    return found


@pytest.mark.parametrize(
    ("target", "files"),
    [
        ("demo", imported(TESTS / "demo.py")),
        ("test", set(TESTS.rglob("*.py")) - {TESTS / "booted.py", TESTS / "support/container.py"}),
        ("booted", imported(TESTS / "booted.py")),
    ],
    ids=["demo", "test", "booted"],
)
def test_every_program_comes_from_a_package_that_setup_installs(target: str, files: set[Path]) -> None:
    base = {line.split("\t")[0] for line in installed("Priority") if line.endswith("\trequired")}
    there = with_depends(base | BEFORE | asked_for(target))
    paths = {Path(found).resolve() for program in started(files) if (found := shutil.which(program))}
    search = ["dpkg", "--search", *(f"*bin/{path.name}" for path in paths)]
    owners = subprocess.run(search, capture_output=True, text=True, check=False).stdout
    owned = [line.partition(": ") for line in owners.splitlines()]
    missing = {
        path.name: packages
        for path in paths
        if (packages := {name for name, _, file in owned if Path(file).name == path.name})
        and not any(one.partition(":")[0] in there for name in packages for one in name.split(", "))
    }
    assert not missing
