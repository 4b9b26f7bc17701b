"""Whether this host's clock is kept. mirrorctl asks, since the daemon's unit allows no system call about clocks."""

from __future__ import annotations

import ctypes

TIME_ERROR = 5  # what adjtimex(2) answers while the clock is not synchronised
TIMEX_BYTES = 208  # struct timex of linux/timex.h on 64 bits; fewer on 32


def synchronised() -> bool:
    """Whether something synchronises it; True where that cannot be asked. Nothing is set: no modes are given."""
    return bool(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES)) != TIME_ERROR)
