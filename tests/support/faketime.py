"""libfaketime, which gives a process another clock."""

from __future__ import annotations

from pathlib import Path

(FAKETIME,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")


def tidy() -> None:
    """Remove what processes that were killed left behind: whoever gets the number of one cannot start with another
    clock.
    """
    for file in Path("/dev/shm").glob("faketime_*"):
        if not Path("/proc", file.name.rpartition("_")[2]).exists():
            file.unlink(missing_ok=True)
