"""The core's C files: none calls one that calls it back, but through a pointer that it was given."""

from __future__ import annotations

import re
from graphlib import TopologicalSorter
from pathlib import Path

NATIVE = Path(__file__).parents[2] / "mirrord" / "dataplane" / "native"

DEFINED = re.compile(r"^(?!static)\w[\w *]*?\b(\w+)\([^;{]*\)\n\{", re.MULTILINE)
"""A function that other files may call."""

COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


def calls() -> dict[str, set[str]]:
    """By a file's name, the files whose functions it calls."""
    texts = {str(path.relative_to(NATIVE)): COMMENT.sub("", path.read_text()) for path in NATIVE.rglob("*.c")}
    home = {name: file for file, text in texts.items() for name in DEFINED.findall(text)}
    return {
        file: {home[word] for word in re.findall(r"\b(\w+)\(", text) if home.get(word, file) != file}
        for file, text in texts.items()
    }


def test_no_file_calls_one_that_calls_it_back() -> None:
    found = calls()
    assert "forward/step.c" in found["members.c"]  # it finds what there is
    TopologicalSorter(found).prepare()  # CycleError names the files
