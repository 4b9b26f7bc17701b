"""The managers of guests that the configuration names, each followed while it is named."""

from __future__ import annotations

from collections.abc import Callable, Collection

from mirrord.control.guests.follower import Follower
from mirrord.control.guests.inventory import Inventory, Place
from mirrord.control.guests.libvirt import Libvirt


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
                self._followers[place] = self._follow(place)
        return {place: self._followers[place].answer for place in places}

    def nudge(self) -> None:
        """Have each of them looked at again: a device came or went that its events may not tell of, or not in time."""
        for follower in self._followers.values():
            follower.nudge()

    async def close(self) -> None:
        """Follow no more."""
        await self.inventory(())

    def _follow(self, place: Place) -> Follower:
        if place.kind == "vm":
            return Libvirt(place.address, self._changed)
        # aiohttp takes as long to import as all the rest of the start, and most hosts ask no engine
        from mirrord.control.guests.engines import SOCKETS, Engine  # noqa: PLC0415

        return Engine(SOCKETS.get(place.address, place.address), self._changed)
