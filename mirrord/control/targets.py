"""What a change of objects is about, and the objects as they were written before and after it. Pure.

For the daemon's own objects and for a cluster's alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mirrord.errors import ConfigError, Problem
from mirrord.model.validation import join, session_path
from mirrord.values.written import unexpected

SECTION = {"mirror": "mirrors", "session": "mirrors", "filter": "filters", "flow_network": "flow_networks"}
WORDS = {"mirror": "mirror", "session": "session", "filter": "filter", "flow_network": "flow network"}


class Target(NamedTuple):
    """What a request is about; a session has its mirror."""

    kind: str
    name: str
    mirror: str = ""

    @property
    def section(self) -> str:
        return SECTION[self.kind]

    @property
    def holder(self) -> str:
        """The object of the section that it is, or is a part of."""
        return self.mirror if self.kind == "session" else self.name

    @property
    def path(self) -> str:
        """Where it is, for an error."""
        return session_path(self.mirror, self.name) if self.kind == "session" else join(self.section, self.holder)

    def __str__(self) -> str:
        return f"{WORDS[self.kind]} {self.name!r}"


def tidy(written: Any) -> Any:
    """Without what only the daemon says: what it shows may be sent back. A bare source becomes the table it means."""
    if not isinstance(written, dict):
        return written
    only_shown = {"origin", "running", "warnings", "expired", "in_use", "unreadable"}
    kept = {key: value for key, value in written.items() if key not in only_shown}
    if isinstance(kept.get("source"), str):
        kept["source"] = {"type": "device", "device": kept["source"]}
    if isinstance(kept.get("sessions"), list):
        kept["sessions"] = [tidy(session) for session in kept["sessions"]]
    return kept


def named(target: Target, written: Any) -> Any:
    """What was written for an object, with its name. ConfigError: it is no object, or has another name."""
    if not isinstance(written, dict):
        raise ConfigError([Problem(target.path, str(unexpected("an object", written)))])
    if written.get("name", target.name) != target.name:
        expected = unexpected(f"{target.name!r}, as in the address", written["name"])
        raise ConfigError([Problem(join(target.path, "name"), str(expected))])
    return tidy({"name": target.name, **written})


def replaced(objects: Mapping[str, Any], old: str, name: str, value: Any) -> dict[str, Any]:
    """The objects with another one in the place of an old one, or at the end; None: with none there."""
    found = {}
    for other, there in objects.items():
        if other != old:
            found[other] = there
        elif value is not None:
            found[name] = value
    return found if value is None or old in objects else {**found, name: value}
