"""docs/faults.md: no fault without a test, and no test that is not there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TABLE = TESTS.parent / "docs" / "faults.md"
ROWS = [
    cells
    for line in TABLE.read_text().splitlines()
    if line.startswith("| ") and (cells := [cell.strip() for cell in line.strip("|").split("|")])[0] != "fault"
    if set(cells[0]) != {"-"}
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_fault_has_tests_that_are_there(row: list[str]) -> None:
    assert len(row) == 5
    named = re.findall(r"`(\S+\.py)::(\w+)`", row[4])
    assert named
    for file, name in named:
        tree = ast.parse((TESTS / file).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_the_table_is_there() -> None:
    assert len(ROWS) > 40
