"""What files are called: finished ones by the time of their last packet, and the list of them. Pure."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import PurePath

CLOSE = 60_000_000_000
"""Nanoseconds by which a file may be dated after the clock's time without a word: clocks are set now and then."""

STAMP = re.compile(r"(\d{8}T\d{6}\.\d{9})Z")


def final_name(name: str, stamp: int) -> str:
    """What a finished file is called; `stamp` is in nanoseconds since 1970."""
    seconds, nanoseconds = divmod(stamp, 1_000_000_000)
    path = PurePath(name)
    return f"{path.stem}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime(seconds))}.{nanoseconds:09}Z{path.suffix}"


def final_names(name: str) -> re.Pattern[str]:
    """What finished files of this name are called; the group is the time."""
    path = PurePath(name)
    return re.compile(f"{re.escape(path.stem)}-{STAMP.pattern}{re.escape(path.suffix)}")


def list_name(name: str) -> str:
    """What the list of this name's finished files is called."""
    return f".{name}.files"


def dated_ahead(names: list[str], name: str, now: int) -> str:
    """Which of these files is a finished one with the latest time after now (nanoseconds since 1970); "" for none."""
    late = datetime.fromtimestamp((now + CLOSE) // 1_000_000_000, UTC).strftime("%Y%m%dT%H%M%S")
    stamps = [(match[1], one) for one in names if (match := final_names(name).fullmatch(one))]
    stamp, newest = max(stamps, default=("", ""))
    return newest if stamp > late else ""
