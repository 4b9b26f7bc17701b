"""Flow networks: an address taken on the device set aside for copies, routes for it alone, and all of it given back.

Copies leave by the device and only by it: their sockets are bound to it and to the address, and a rule sends what comes
from the address to a table with the network and its gateway, where the host's other routes are not looked at. Nor do
those routes change: the address brings none of its own.

Before an IPv4 address is taken, ARP tells whether it is free. An IPv6 address is taken, and the kernel tells: it probes
every address that is added (RFC 4862 5.4) and uses none before, so that probes of ours would only repeat its own.

The kernel keeps the record. The rule, with our protocol number, is there before the address and after it, so what was
taken is found again after a crash: used on, or given back. One mirrord in a network namespace may have flow networks.

ip-rule(8)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, TypeVar

from mirrord.control.host import arp
from mirrord.control.host.address_config import Placed, Taking
from mirrord.control.host.leases_in_kernel import TABLES, Held, all_held
from mirrord.control.host.view import AbsentError, Lease, View
from mirrord.control.logs import logger
from mirrord.control.planning.leases import device
from mirrord.errors import Refused
from mirrord.model import Config, FlowNetwork
from mirrord.values.addresses import Address

log = logger("flow_networks")

T = TypeVar("T")
Kind = TypeVar("Kind", IPv4Address, IPv6Address)
RETRY_SECONDS = 5.0
PROBED_SECONDS = 0.1
"""How often the kernel is asked whether it has probed an address. It takes one to two seconds by default."""
TAKEN, FOUND = 1000, 1001  # a rule's priority: was the address added by us, or there before and not ours to take away


class Place(NamedTuple):
    """Where an address is wanted."""

    network: FlowNetwork
    device_index: int

    @property
    def table(self) -> int:
        return TABLES + self.device_index

    def has(self, address: Address, there: Mapping[Address, Placed]) -> bool:
        """Whether the device has this address, one of the network's, and no other host does."""
        first, last = self.network.addresses.first, self.network.addresses.last
        placed = there.get(address)
        if placed is None or placed.device_index != self.device_index or placed.duplicate:
            return False
        return address.version == first.version and int(first) <= int(address) <= int(last)


class FlowNetworks:
    """Takes addresses, and gives them back. `changed` is called in the event loop when a search has ended."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="flow_networks")
        self._kernel = Taking()  # by that thread only, as what follows
        self._kept: set[Held] = set()
        self._searches: dict[Place, asyncio.Task[None]] = {}
        self._reasons: dict[Place, str] = {}
        self._in_use: set[Place] = set()  # all of its addresses, by others

    async def leases(self, config: Config, view: View) -> dict[str, Lease]:
        """What each flow network of an enabled mirror has; a search is begun for one that has none."""
        used = {mirror.flow_network for mirror in config.mirrors.values() if mirror.enabled}
        used |= {
            getattr(session.source, "flow_network", None)  # of a tunnel that ends there
            for mirror in config.mirrors.values()
            for session in mirror.active
        }
        places: dict[str, Place] = {}
        usable: set[Place] = set()
        for name, network in config.flow_networks.items():
            if name in used and (link := view.links.get(network.device)) is not None:
                places[name] = Place(network, link.index)
                with suppress(AbsentError, Refused):
                    device(network, view)
                    usable.add(places[name])
        held = await self._run(lambda: self._keep(places, usable))
        for place in self._searches.keys() - places.values():
            self._searches.pop(place).cancel()
            self._reasons.pop(place, None)
            self._in_use.discard(place)
        for name, place in places.items():
            if name not in held and place in usable and (place not in self._searches or self._searches[place].done()):
                self._searches[place] = asyncio.create_task(self._search(place))
        return {
            name: Lease(place.network.device, place.device_index, str(held[name].address))
            if name in held
            else Lease(
                reason=self._reasons.get(place) or f"looking for a free address on {place.network.device}",
                in_use=place in self._in_use,
            )
            for name, place in places.items()
        }

    async def give_back(self) -> None:
        """Take away every address, rule and route that the last call of `leases` did not want."""
        await self._run(self._release)

    async def close(self) -> None:
        """Give everything back, and free the thread."""
        for search in self._searches.values():
            search.cancel()
        await self._run(self._end)
        self._thread.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _search(self, place: Place) -> None:
        """Try until an address is taken."""
        addresses, name = place.network.addresses, place.network.device
        while True:
            try:
                if await self._find(place):
                    self._reasons.pop(place, None)
                    return self._changed()
                reason = f"no address of {addresses} is free on {name}"
            except OSError as error:
                reason = f"no address on {name}: {error.strerror or error}"
            if self._reasons.get(place) != reason:
                self._reasons[place] = reason
                self._changed()
            await asyncio.sleep(RETRY_SECONDS)

    async def _find(self, place: Place) -> bool:
        """Take the network's address that the device has already, or else the first that is free, if there is one."""
        self._in_use.discard(place)
        there = await self._run(self._kernel.addresses)
        own = next((address for address in there if place.has(address, there)), None)
        if own is not None:
            return await self._take(place, await self._run(lambda: self._held(place, own)))
        first, last, _ = place.network.addresses
        if isinstance(first, IPv4Address):
            free = await asyncio.to_thread(arp.first_free, place.network.device, _candidates(first, last, there))
            if free is None:
                self._in_use.add(place)
            return free is not None and await self._take(place, Held(free, place.table, TAKEN))
        for candidate in _candidates(first, last, there):
            if await self._take(place, Held(candidate, place.table, TAKEN)):
                return True
        self._in_use.add(place)
        return False

    async def _take(self, place: Place, held: Held) -> bool:
        """Whether the address could be taken: no other host has it."""
        await self._run(lambda: self._put(place, held))
        while placed := await self._run(lambda: self._kernel.addresses(held.device_index).get(held.address)):
            if placed.duplicate:
                break
            if placed.ready:
                log.info("address taken", device=place.network.device, address=str(held.address))
                return True
            await asyncio.sleep(PROBED_SECONDS)
        await self._run(lambda: self._give_back(held))
        return False

    # --- by the thread ---

    def _keep(self, places: Mapping[str, Place], usable: set[Place]) -> dict[str, Held]:
        """What can be used already; routes that went with a device that was down are put back."""
        self._kept = set()
        if not places:
            return {}
        rules, there = all_held(), self._kernel.addresses()
        found: dict[str, Held] = {}
        for name, place in places.items():
            for held in rules:
                if held.table == place.table and place.has(held.address, there):
                    self._kept.add(held)
                    if there[held.address].ready:
                        found[name] = held
                    if place in usable:
                        self._restore_routes(place, held)
                    break
        return found

    def _held(self, place: Place, address: Address) -> Held:
        """The address as its rule has it, after a crash; without one it is not ours to take away."""
        known = (held for held in self._kept if (held.address, held.table) == (address, place.table))
        return next(known, Held(address, place.table, FOUND))

    def _put(self, place: Place, held: Held) -> None:
        """Put all in place. What is there already was put there by a take that a crash interrupted."""
        self._kept.add(held)
        try:
            with suppress(FileExistsError):
                self._kernel.add_rule(held)
            if held.priority == TAKEN:
                with suppress(FileExistsError):
                    self._kernel.add_address(held, place.network.addresses.prefix_length)
            self._kernel.put_routes(held, place.network.addresses.network, place.network.gateway)
        except OSError:
            self._give_back(held)
            raise
        if held.priority == TAKEN and isinstance(held.address, IPv4Address):
            arp.announce(place.network.device, held.address)

    def _restore_routes(self, place: Place, held: Held) -> None:
        try:
            self._kernel.put_routes(held, place.network.addresses.network, place.network.gateway)
        except OSError as error:  # the device went since the host was looked at: there is news of it
            log.info("cannot restore the routes", device=place.network.device, reason=error.strerror)

    def _release(self) -> None:
        for held in all_held() - self._kept:
            self._give_back(held)
            log.info("address given back", address=str(held.address))

    def _give_back(self, held: Held) -> None:
        self._kept.discard(held)
        if held.priority == TAKEN:
            self._kernel.remove_address(held)
        if not any((other.table, other.family) == (held.table, held.family) for other in self._kept):
            self._kernel.flush_routes(held)
        self._kernel.remove_rule(held)

    def _end(self) -> None:
        self._kept = set()
        self._release()
        self._kernel.close()


def _candidates(first: Kind, last: Address, there: Mapping[Address, Placed]) -> Iterator[Kind]:
    """The network's addresses that this host does not have."""
    for n in range(int(last) - int(first) + 1):
        if first + n not in there:
            yield first + n
