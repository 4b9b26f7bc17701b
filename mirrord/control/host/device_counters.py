"""What network devices have carried since they were made, by their own counters: /proc/net/dev, proc(5)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Carried(NamedTuple):
    """Received and sent."""

    received_bytes: int
    received_frames: int
    sent_bytes: int
    sent_frames: int


def read() -> dict[str, Carried]:
    """By name, those of the calling thread's network namespace."""
    found = {}
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]:
        name, _, columns = line.rpartition(":")
        row = [int(number) for number in columns.split()]
        found[name.strip()] = Carried(row[0], row[1], row[8], row[9])
    return found
