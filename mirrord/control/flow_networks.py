"""Flow networks: an address taken on the device set aside for copies, routes for it alone, and all of it given back.

Copies leave by the device and only by it: their sockets are bound to it and to the address, and a rule sends what comes
from the address to a table with the network and its gateway, where the host's other routes are not looked at. Nor do
those routes change: the address brings none of its own.

The kernel keeps the record. The rule, with our protocol number, is there before the address and after it, so what was
taken is found again after a crash: used on, or given back. One mirrord in a network namespace may have flow networks.

ip-rule(8), rtnetlink(7)
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import IPv4Address, ip_address
from typing import Any, NamedTuple, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from mirrord.control import arp
from mirrord.control.held import TABLES, Held, all_held
from mirrord.control.leases import device
from mirrord.control.links import AbsentError, Lease, View
from mirrord.control.logs import logger
from mirrord.control.obstacles import ROUTE_PROTOCOL
from mirrord.errors import Refused
from mirrord.model import Config, FlowNetwork

log = logger("flow_networks")

T = TypeVar("T")
RETRY_SECONDS = 5.0
TAKEN, FOUND = 1000, 1001  # a rule's priority: was the address added by us, or there before and not ours to take away
IFA_F_NOPREFIXROUTE = 0x200  # linux/if_addr.h
RTN_UNICAST, RTN_UNREACHABLE = 1, 7  # rtnetlink(7)


class Place(NamedTuple):
    """Where an address is wanted."""

    network: FlowNetwork
    device_index: int

    @property
    def table(self) -> int:
        return TABLES + self.device_index

    def has(self, address: IPv4Address, there: Mapping[IPv4Address, int]) -> bool:
        """Whether the device has this address, one of the network's."""
        first, last = int(self.network.addresses.first), int(self.network.addresses.last)
        return first <= int(address) <= last and there.get(address) == self.device_index


class FlowNetworks:
    """Takes addresses, and gives them back. `changed` is called in the event loop when a search has ended."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="flow_networks")
        self._netlink: IPRoute | None = None
        self._kept: set[Held] = set()  # by that thread only
        self._searches: dict[Place, asyncio.Task[None]] = {}
        self._reasons: dict[Place, str] = {}

    async def leases(self, config: Config, view: View) -> dict[str, Lease]:
        """What each flow network of an enabled mirror has; a search is begun for one that has none."""
        used = {mirror.flow_network for mirror in config.mirrors.values() if mirror.enabled}
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
        for name, place in places.items():
            if name not in held and place in usable and (place not in self._searches or self._searches[place].done()):
                self._searches[place] = asyncio.create_task(self._search(place))
        return {
            name: Lease(place.network.device, place.device_index, str(held[name].address))
            if name in held
            else Lease(reason=self._reasons.get(place) or f"looking for a free address on {place.network.device}")
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
                there = await self._run(self._host_addresses)
                own = next((address for address in there if place.has(address, there)), None)
                address = own or await asyncio.to_thread(arp.first_free, name, _candidates(place, there))
                if address is not None:
                    held = Held(address, place.table, FOUND if own else TAKEN)
                    await self._run(lambda: self._take(place, held))  # noqa: B023 (awaited at once)
                    self._reasons.pop(place, None)
                    return self._changed()
                reason = f"no address of {addresses} is free on {name}"
            except (OSError, NetlinkError) as error:
                reason = f"no address on {name}: {error.args[-1]}"
            if self._reasons.get(place) != reason:
                self._reasons[place] = reason
                self._changed()
            await asyncio.sleep(RETRY_SECONDS)

    # --- by the thread ---

    def _keep(self, places: Mapping[str, Place], usable: set[Place]) -> dict[str, Held]:
        """What is in place already; routes that went with a device that was down are put back."""
        self._kept = set()
        if not places:
            return {}
        rules, there = all_held(), self._host_addresses()
        found: dict[str, Held] = {}
        for name, place in places.items():
            for held in rules:
                if held.table == place.table and place.has(held.address, there):
                    found[name] = held
                    self._kept.add(held)
                    if place in usable:
                        self._restore_routes(place)
                    break
        return found

    def _take(self, place: Place, held: Held) -> None:
        self._kept.add(held)
        with suppress_exists():
            self._ip.rule(
                "add", src=str(held.address), src_len=32, table=held.table, priority=held.priority,
                protocol=ROUTE_PROTOCOL,
            )  # fmt: skip
        if held.priority == TAKEN:
            self._ip.addr(
                "add", index=held.device_index, address=str(held.address),
                prefixlen=place.network.addresses.prefix_length, flags=IFA_F_NOPREFIXROUTE,
            )  # fmt: skip
        self._put_routes(place)
        if held.priority == TAKEN:
            arp.announce(place.network.device, held.address)
        log.info("address taken", device=place.network.device, address=str(held.address))

    def _restore_routes(self, place: Place) -> None:
        try:
            self._put_routes(place)
        except NetlinkError as error:  # the device went since the host was looked at: there is news of it
            log.info("cannot restore the routes", device=place.network.device, reason=error.args[-1])

    def _put_routes(self, place: Place) -> None:
        gateway = str(place.network.gateway or "")
        network = str(place.network.addresses.network)
        wanted = {(network, "", RTN_UNICAST), ("", gateway, RTN_UNICAST if gateway else RTN_UNREACHABLE)}
        if wanted == {_route_facts(message) for message in self._routes(place.table)}:
            return
        self._ip.flush_routes(table=place.table, family=socket.AF_INET)
        for destination, via, kind in sorted(wanted, reverse=True):
            route: dict[str, Any] = {"dst": destination or "0.0.0.0/0", "table": place.table, "proto": ROUTE_PROTOCOL}
            if kind == RTN_UNREACHABLE:
                route["type"] = "unreachable"
            else:
                route["oif"] = place.device_index
                route |= {"gateway": via} if via else {"scope": "link"}
            with suppress_exists():
                self._ip.route("add", **route)

    def _release(self) -> None:
        for held in all_held() - self._kept:
            if held.priority == TAKEN:
                self._remove_address(held)
            if not any(other.table == held.table for other in self._kept):
                self._ip.flush_routes(table=held.table, family=socket.AF_INET)
            with suppress(NetlinkError):
                self._ip.rule(
                    "del", src=str(held.address), src_len=32, table=held.table, priority=held.priority,
                    protocol=ROUTE_PROTOCOL,
                )  # fmt: skip
            log.info("address given back", address=str(held.address))

    def _remove_address(self, held: Held) -> None:
        address = str(held.address)
        for message in self._ip.get_addr(family=socket.AF_INET, index=held.device_index):
            if message.get_attr("IFA_LOCAL") == address:
                with suppress(NetlinkError):  # gone by itself
                    self._ip.addr("del", index=held.device_index, address=address, prefixlen=message["prefixlen"])

    def _routes(self, table: int) -> list[Any]:
        return list(self._ip.get_routes(family=socket.AF_INET, table=table))

    def _host_addresses(self) -> dict[IPv4Address, int]:
        """Every address of this host, and the index of its device."""
        return {
            IPv4Address(message.get_attr("IFA_LOCAL")): message["index"]
            for message in self._ip.get_addr(family=socket.AF_INET)
        }

    def _end(self) -> None:
        self._kept = set()
        self._release()
        self._ip.close()

    @property
    def _ip(self) -> IPRoute:
        if self._netlink is None:
            self._netlink = IPRoute()
        return self._netlink


def suppress_exists() -> suppress:
    """Whatever is there already was put there by a take that a crash interrupted."""
    return suppress(FileExistsError)


def _candidates(place: Place, there: Mapping[IPv4Address, int]) -> Iterator[IPv4Address]:
    """The network's addresses that this host does not have; not the network's own nor its broadcast address."""
    addresses = place.network.addresses
    for number in range(int(addresses.first), int(addresses.last) + 1):
        address = ip_address(number)
        assert isinstance(address, IPv4Address)  # IPv6 is refused by the loader
        reserved = addresses.prefix_length < 31 and address in (
            addresses.network.network_address,
            addresses.network.broadcast_address,
        )
        if not reserved and address not in there:
            yield address


def _route_facts(message: Any) -> tuple[str, str, int]:
    destination = message.get_attr("RTA_DST")
    return (
        f"{destination}/{message['dst_len']}" if destination else "",
        message.get_attr("RTA_GATEWAY") or "",
        message["type"],
    )
