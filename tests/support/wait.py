"""Waiting for something to become true, with a bound."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(condition: Callable[[], T | None], what: str, seconds: float = 10.0) -> T:
    """The condition's first true value; AssertionError names `what` did not happen within `seconds`."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < until, f"not within {seconds} s: {what}; last seen: {value!r}"
        time.sleep(0.01)
    return value
