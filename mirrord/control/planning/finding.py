"""Something that is wrong, and what to do about it: said once, by whoever finds it, for the log, status and doctor."""

from __future__ import annotations

from typing import NamedTuple

ERROR, WARNING = "error", "warning"


class Finding(NamedTuple):
    """One thing wrong: on which session's source ("" if it is the host's), what it is, and what to do.

    An error means that frames are not mirrored, or that somebody could do harm; a warning that copies are not, or soon
    may not be, what they should be.
    """

    severity: str
    code: str  # stable
    problem: str
    remedy: str
    mirror: str = ""
    session: str = ""
    source: str = ""


def tool(name: str, netns: str | None) -> str:
    """A tool of iproute2, where the device is."""
    if netns is None:
        return name
    if netns.startswith("/"):
        return f"nsenter --net={netns} {name}"
    return f"nsenter -t {netns} -n {name}" if netns.isdecimal() else f"{name} -n {netns}"
