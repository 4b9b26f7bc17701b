"""Disables mirrors whose time is over, and keeps the ends of the others right by the clocks as they are.

What runs does not wait for this: each turn leaves out what is over, also where the change cannot be kept (a full disk),
and of what files define, which only a file can change.
"""

from __future__ import annotations

import asyncio
import time

from mirrord import expiry
from mirrord.control import changes as changing
from mirrord.control.changes import Changes
from mirrord.control.host import clock
from mirrord.control.logs import logger
from mirrord.control.net import Net
from mirrord.control.service import Service
from mirrord.control.targets import Target
from mirrord.errors import MirrordError
from mirrord.expiry import Deadline, Now

log = logger("expiry")

LOOK_SECONDS = 1.0
"""The wall clock may be set at any time, and the host may sleep: no wait for an end is longer."""
RETRY_SECONDS = 60.0
"""After a change that could not be kept: each try is audited."""


async def keep_time(service: Service, changes: Changes) -> None:
    """Do so until cancelled."""
    retry: dict[str, float] = {}
    turns = Net("cannot see to the ends of mirrors: tried again")
    while True:
        soonest = LOOK_SECONDS
        with turns:
            soonest = min(soonest, await _look(service, changes, retry))
        await asyncio.sleep(soonest)


async def _look(service: Service, changes: Changes, retry: dict[str, float]) -> float:
    """See to all once. How long it is until the next end. `retry`: when mirrors are looked at again, whose change could
    not be kept.
    """
    now, soonest = clock.now(), LOOK_SECONDS
    for name, mirror in list(service.loaded.config.mirrors.items()):
        left = expiry.left(mirror.expires, now)
        if left > 0:
            soonest = min(soonest, left)
        if retry.get(name, 0.0) <= time.monotonic() and not await _kept(service, changes, name, now):
            retry[name] = time.monotonic() + RETRY_SECONDS
    service.mind_the_time(clock.now())
    return soonest


async def _kept(service: Service, changes: Changes, name: str, now: Now) -> bool:
    """See that the state database has what is true of a mirror now; False when it could not be told."""
    loaded = service.loaded
    mirror, tag = loaded.config.mirrors.get(name), changing.tag_of
    if mirror is None or mirror.expires is None or loaded.origin("mirrors", name):
        return True
    value = mirror.expires
    if expiry.left(value, now) <= 0:
        if not mirror.enabled:
            return True
        operation, why = "disable", f"its time was over at {expiry.show(value)}"
        wanted = {"enabled": False, "expires": expiry.kept(expiry.ended(value, now))}
    elif isinstance(value, Deadline) and (right := value.put_right(now)) is not value:
        operation, why = "change", "the host was booted, or its clock set: the same end by the clock as it is now"
        wanted = {"expires": expiry.kept(right)}
    else:
        return True
    seen = tag(loaded, Target("mirror", name)) or "*"
    try:
        await changes.by_itself(operation, name, wanted, why, seen)
    except MirrordError as error:
        log.error("cannot keep what the time made of a mirror", mirror=name, reason=error.message)  # noqa: TRY400 (no bug)
        return error.code == "stale"  # somebody else was faster: look again
    log.info("by the time", mirror=name, operation=operation, reason=why)
    return True
