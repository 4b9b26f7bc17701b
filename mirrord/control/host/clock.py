"""The time by the host's clocks."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

from mirrord.expiry import Now


def now() -> Now:
    """The time by the wall clock, and by the one that counts this boot."""
    return Now(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), _boot())


@cache
def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
