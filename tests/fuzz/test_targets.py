"""What the fuzz targets begin with, and what they have found before: mirrord does what it should.

`make fuzz` runs them with bytes that a fuzzer chose. A find is a file in tests/fuzz/finds, named TARGET-ANYTHING.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

FINDS = Path(__file__).with_name("finds")


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_finds(name: str) -> None:
    target, seeds = TARGETS[name]
    for one in (*seeds(), *(file.read_bytes() for file in sorted(FINDS.glob(f"{name}-*")))):
        target(one)
