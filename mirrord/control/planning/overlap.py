"""Which sessions of a mirror come before another on the same source: what they accept is theirs, and not copied again.

With overlap = "first" these are all that have a higher priority. With "all" each session copies, but to equal
destinations the first one alone: the receiver could not tell the two copies apart. Who wants both asks for it, by
shared_vni in both sessions or by two mirrors.

The filters alone decide. A session keeps what it accepts also while it waits, and what it samples out or cannot send.
"""

from __future__ import annotations

from itertools import takewhile

from mirrord.control.planning.sources import matches
from mirrord.model import DeviceSource, Mirror, Model, Session, Source

LAST = 65536  # behind every priority that can be given

TOLD_APART_BY = ("device", "vlan", "path", "remote", "port", "vni", "key", "erspan_type", "session_id", "netns")
"""What a receiver knows of where a copy came from."""


def before(mirror: Mirror, session: Session, device: str) -> list[Session]:
    """Those of a mirror's sessions that come before one of them on a device of its source, in their order."""
    ordered = sorted(mirror.active, key=lambda one: one.priority or LAST)  # stable: else as written
    return [
        one
        for one in takewhile(lambda one: one is not session, ordered)
        if _shares(one.source, session.source, device)
        and (mirror.overlap == "first" or _same_end(one.destination, session.destination))
    ]


def _shares(one: Source, other: Source, device: str) -> bool:
    if isinstance(one, DeviceSource) and isinstance(other, DeviceSource):
        return one.netns == other.netns and any(matches(device, pattern) for pattern in one.device)
    if isinstance(one, DeviceSource) or isinstance(other, DeviceSource):
        return False
    return one.model_copy(update={"vlan": None}) == other.model_copy(update={"vlan": None})


def _same_end(one: Model, other: Model) -> bool:
    if type(one) is not type(other) or getattr(one, "shared_vni", False):
        return False
    return all(getattr(one, key, None) == getattr(other, key, None) for key in TOLD_APART_BY)
