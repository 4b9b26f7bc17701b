"""How long ago, as text: "30s", "15m", "1h", "2d", "1w"."""

from __future__ import annotations

import re
from datetime import timedelta

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
EXAMPLES = "90s, 15m, 1h, 2d, 1w"


def parse(text: str) -> timedelta:
    """ValueError for what is none."""
    match = re.fullmatch(r"([0-9]{1,7})([smhdw])", text, re.ASCII)
    if match is None:
        raise ValueError(f"expected how long ({EXAMPLES}), not {text!r}")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
