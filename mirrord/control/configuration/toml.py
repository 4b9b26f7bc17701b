"""TOML as 1.1 has it in one point: an inline table may have several lines, comments, and a comma at its end.

The standard library reads 1.0. What 1.1 allows beyond it within braces is taken out before it looks, and the line
breaks are put behind the brace that closes, so that the lines that its errors name are the file's.

toml.io/en/v1.1.0#inline-table
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

_MARK = re.compile(
    r"""
    "{3} (?: \\. | [^\\] )*? "{3,5} | '{3} .*? '{3,5}
    | " (?: \\. | [^"\\\n] )* "     | ' [^'\n]* '
    | \# [^\n]* | [{}] | \r?\n | ,
    """,
    re.DOTALL | re.VERBOSE,
)
"""A string, which is passed over, or what matters outside of strings."""

_END = re.compile(r"(?:\s|\#[^\n]*)*}")


def loads(text: str) -> dict[str, Any]:
    """Read a document. Raises ValueError, as tomllib."""
    depth, breaks = 0, ""

    def within_one_line(found: re.Match[str]) -> str:
        nonlocal depth, breaks
        mark = found[0]
        depth += {"{": 1, "}": -1}.get(mark, 0)
        if depth <= 0:
            mark, breaks = mark + breaks, ""
        elif mark.endswith("\n"):
            mark, breaks = " ", breaks + mark
        elif mark.startswith("#") or (mark == "," and _END.match(text, found.end())):
            mark = ""
        return mark

    return tomllib.loads(_MARK.sub(within_one_line, text))
