"""The managers of guests that the configuration names, each followed while it is named."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from mirrord.control.guests.follower import Follower
from mirrord.control.guests.inventory import Inventory, Place
from mirrord.control.guests.libvirt import Libvirt

LOOK_SECONDS = 2.0

USUAL = {
    Place("vm", "qemu:///system"): Path("/run/libvirt/libvirt-sock-ro"),
    Place("container", "podman"): Path("/run/podman/podman.sock"),
    Place("container", "docker"): Path("/run/docker.sock"),
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

    async def inventory(self, places: Collection[Place]) -> Inventory:
        """What these managers told last; from now on they are followed, and no others. Waits for none of them."""
        for place in self._followers.keys() - set(places):
            await self._followers.pop(place).close()
        for place in places:
            if place not in self._followers:
                self._followers[place] = self._follow(place, self._changed)
        return {place: self._followers[place].answer for place in places}

    async def look(self, places: Collection[Place]) -> Inventory:
        """What these tell, and those that are followed already; each new one is asked once, for at most two seconds."""
        told = asyncio.Event()
        asked = {place: self._follow(place, told.set) for place in places if place not in self._followers}
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    while any(follower.silent for follower in asked.values()):
                        await told.wait()
                        told.clear()
            return {place: follower.answer for place, follower in (self._followers | asked).items()}
        finally:
            for follower in asked.values():
                await follower.close()

    def nudge(self) -> None:
        """Have each of them looked at again: a device came or went that its events may not tell of, or not in time."""
        for follower in self._followers.values():
            follower.nudge()

    async def close(self) -> None:
        """Follow no more."""
        await self.inventory(())

    def _follow(self, place: Place, changed: Callable[[], None]) -> Follower:
        if place.kind == "vm":
            return Libvirt(place.address, changed)
        # aiohttp takes as long to import as all the rest of the start, and most hosts ask no engine
        from mirrord.control.guests.engines import SOCKETS, Engine  # noqa: PLC0415

        return Engine(SOCKETS.get(place.address, place.address), changed)
