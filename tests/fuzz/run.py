"""One target under atheris, or, called by driver.c, under libFuzzer. tests/fuzz/fuzz runs it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def begin() -> Callable[[bytes], None]:
    """The target that MIRRORD_FUZZ names, its seeds written."""
    targets: Any = importlib.import_module("tests.fuzz.targets")
    target, seeds = targets.TARGETS[os.environ["MIRRORD_FUZZ"]]
    directory = Path(os.environ["MIRRORD_FUZZ_SEEDS"])
    directory.mkdir(parents=True, exist_ok=True)
    for n, seed in enumerate(seeds()):
        (directory / f"{n:04}").write_bytes(seed)
        target(seed)
    found: Callable[[bytes], None] = target
    return found


if __name__ == "__main__":
    import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

    with atheris.instrument_imports(include=["mirrord"]):
        importlib.import_module("tests.fuzz.targets")
    target = begin()
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
