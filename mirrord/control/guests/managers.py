"""The managers of guests that the configuration names, each followed while it is named."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from mirrord.control.guests.cni import RESULTS, Cache, is_cache
from mirrord.control.guests.follower import Follower
from mirrord.control.guests.inventory import Inventory, Place
from mirrord.control.guests.libvirt import Libvirt
from mirrord.control.guests.processes import ADDRESS, Processes

LOOK_SECONDS = 2.0
LINGER_SECONDS = 60.0
"""How long a manager that was asked goes on being followed: whoever asks once, asks again, and does not wait then."""

USUAL = {
    Place("vm", "qemu:///system"): Path("/run/libvirt/libvirt-sock-ro"),
    Place("container", "podman"): Path("/run/podman/podman.sock"),
    Place("container", "docker"): Path("/run/docker.sock"),
    Place("container", RESULTS): Path(RESULTS),
}
"""Managers that are asked what could be mirrored where their sockets are there."""


def usual() -> list[Place]:
    """Those of the usual managers that this host has."""
    return [place for place, path in USUAL.items() if path.exists()]


class Managers:
    """Followers by place. `changed` is called, in the running loop, whenever one of them has news."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._followers: dict[Place, Follower] = {}
        self._asked: dict[Place, tuple[Follower, asyncio.Event]] = {}  # those that no configuration names
        self._forget: asyncio.TimerHandle | None = None

    async def inventory(self, places: Collection[Place]) -> Inventory:
        """What these managers told last; from now on these are followed, and no others. Waits for none of them."""
        for place in self._followers.keys() - set(places):
            await self._followers.pop(place).close()
        for place in places:
            if place not in self._followers:
                self._followers[place] = self._follow(place, self._changed)
        return {place: self._followers[place].answer for place in places}

    @property
    def silent(self) -> bool:
        """Whether one that is followed has told nothing yet, not even that it cannot be asked."""
        return any(follower.silent for follower in self._followers.values())

    async def look(self, places: Collection[Place], seconds: float = LOOK_SECONDS) -> Inventory:
        """What these tell, and those that are followed already; a new one is waited for so long, and then followed for
        a minute.
        """
        for place in set(places) - self._followers.keys() - self._asked.keys():
            told = asyncio.Event()
            self._asked[place] = self._follow(place, told.set), told
        if self._forget is not None:
            self._forget.cancel()
        self._forget = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._end_asked)
        asked = dict(self._asked)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for follower, told in asked.values():
                    while follower.silent:
                        await told.wait()
                        told.clear()
        lingering = {place: follower for place, (follower, _) in asked.items()}
        return {place: follower.answer for place, follower in (lingering | self._followers).items()}

    def _end_asked(self) -> list[Follower]:
        """End those that nobody asked for lately."""
        ended = [follower for follower, _ in self._asked.values()]
        self._asked.clear()
        for follower in ended:
            follower.end()
        return ended

    def nudge(self) -> None:
        """Have each of them looked at again: a device came or went that its events may not tell of, or not in time."""
        for follower in [*self._followers.values(), *(follower for follower, _ in self._asked.values())]:
            follower.nudge()

    async def close(self) -> None:
        """Stop following all of them."""
        if self._forget is not None:
            self._forget.cancel()
        for follower in self._end_asked():
            await follower.close()
        await self.inventory(())

    def _follow(self, place: Place, changed: Callable[[], None]) -> Follower:
        if place.kind == "vm":
            return Processes(changed) if place.address == ADDRESS else Libvirt(place.address, changed)
        if is_cache(place.address):
            return Cache(place.address, changed)
        # aiohttp takes as long to import as all the rest of the start, and most hosts ask no engine
        from mirrord.control.guests.engines import SOCKETS, Engine  # noqa: PLC0415

        return Engine(SOCKETS.get(place.address, place.address), changed)
