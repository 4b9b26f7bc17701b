"""Fixtures of the unit tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.programs import Pair


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """The kernel runs what a test attaches; a filter stays until another one is attached."""
    opened = Pair()
    yield opened
    opened.close()
