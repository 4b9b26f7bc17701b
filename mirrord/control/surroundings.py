"""The host, its network namespaces, its flow networks and its guests, as a plan needs them.

All of it is one at a time: the service's turn is held by whoever calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

from mirrord.control.guests.inventory import Inventory
from mirrord.control.guests.managers import LOOK_SECONDS, Managers, usual
from mirrord.control.host.leases_in_kernel import all_held
from mirrord.control.host.links import Links
from mirrord.control.host.namespaces import Namespaces
from mirrord.control.host.view import Collector, Lease, View
from mirrord.control.planning import guests, plan, received
from mirrord.control.planning.collectors import Collectors
from mirrord.control.planning.guests import Resolved
from mirrord.control.running.flow_networks import FlowNetworks
from mirrord.control.running.liveness import Liveness
from mirrord.model import Config

GUESTS_HAVE = frozenset({"tun", "macvtap", "veth"})
"""Kinds of devices that are the host's end of a guest's NIC."""


class Surroundings:
    """`changed` is called in the event loop when there may be something new to look at.

    `known` is the configuration and the guests that `resolve` was last asked about.
    """

    def __init__(self, links: Links, config: Config, changed: Callable[[], None]) -> None:
        self._links = Namespaces(links)
        self._changed = changed
        self._flow_networks: FlowNetworks | None = None
        self._leases: dict[str, Lease] = {}
        self._collectors, self._liveness = Collectors(), Liveness(changed)
        self._managers = Managers(changed)
        self._taps: frozenset[tuple[int, bool]] = frozenset()  # index, and whether somebody holds it
        self._resolved = Resolved(config)
        self._received: tuple[Resolved, dict[str, Lease], Resolved] = (self._resolved, {}, self._resolved)
        self._within: frozenset[str] = frozenset()  # network namespaces of guests that have no device here
        self.known: tuple[Config, Inventory] = (config, {})

    @property
    def leases(self) -> Mapping[str, Lease]:
        """What each flow network that is in use has taken, by name."""
        return self._leases

    async def start(self) -> None:
        """Follow the host, and what an earlier daemon has taken of flow networks."""
        self._links.watch(self._changed)
        if await asyncio.to_thread(all_held):
            self._lend()

    async def look(self, wanted: Config) -> View:
        """The host as it is now, with the addresses that flow networks have taken. OSError, RuntimeError."""
        names = await asyncio.to_thread(plan.namespaces, wanted) | self._within
        ways = await asyncio.to_thread(self._collectors, wanted, self._leases)
        view = await self._links.read(ways.paths, names)
        if not (wanted.flow_networks or self._flow_networks):
            return replace(view, silent=self._liveness.look(ways.active, view))
        leases = await self._lend().leases(wanted, view)
        if leases != self._leases:
            self._leases = leases
            ways = await asyncio.to_thread(self._collectors, wanted, leases)
            view = await self._links.read(ways.paths, names)
        view = replace(view, leases=leases)
        return replace(view, silent=self._liveness.look(ways.active, view))

    def unbound(self) -> dict[Collector, str]:
        """Collectors that said lately that they have no socket for what is sent there; and what was unreachable."""
        return self._liveness.unbound()

    async def resolve(self, wanted: Config, view: View) -> Resolved:
        """The configuration by the devices that guests have now. A tap that comes or goes is news of a guest."""
        inventory = await self._managers.inventory(await asyncio.to_thread(guests.places, wanted))
        taps = frozenset((link.index, link.carrier) for link in view.links.values() if link.kind in GUESTS_HAVE)
        if taps != self._taps:
            self._taps = taps
            self._managers.nudge()
        if wanted is not self.known[0] or inventory != self.known[1]:
            self._resolved = await asyncio.to_thread(guests.resolve, wanted, inventory, self._resolved)
            self.known = wanted, inventory
            within = await asyncio.to_thread(plan.namespaces, self._resolved.config)
            if not within <= self._within | view.namespaces.keys():
                self._changed()  # look there, too
            self._within = within
        return await asyncio.to_thread(self._with_addresses)

    def _with_addresses(self) -> Resolved:
        """The same by the addresses of flow networks; the same object as long as nothing of it changes."""
        if self._received[:2] != (self._resolved, self._leases):
            self._received = self._resolved, dict(self._leases), received.resolve(self._resolved, self._leases)
        return self._received[2]

    async def try_out(self, wanted: Config) -> tuple[Resolved, View]:
        """As `look` and `resolve`, for a configuration that does not run: no flow network takes an address."""
        inventory = await self._managers.inventory(guests.places(wanted))
        resolved = received.resolve(await asyncio.to_thread(guests.resolve, wanted, inventory), self._leases)
        names, paths = plan.namespaces(resolved.config), Collectors()(wanted, self._leases).paths
        return resolved, replace(await self._links.read(paths, names | self._within), leases=self._leases)

    async def all_guests(self, seconds: float = LOOK_SECONDS) -> Inventory:
        """What the usual managers tell, named in the configuration or not; where one is slow it takes so long."""
        return await self._managers.look(usual(), seconds)

    async def give_back(self) -> None:
        """Give back the addresses of flow networks that the last `look` did not want."""
        if self._flow_networks:
            await self._flow_networks.give_back()

    def doubt(self) -> None:
        """Read all of the host at the next look."""
        self._links.doubt()

    def moved(self) -> bool:
        """Whether a network namespace has come, gone or been replaced, which nobody tells of."""
        return self._links.moved()

    async def close(self) -> None:
        """Follow nothing any more, and give back every address."""
        await self._liveness.close()
        if self._flow_networks:
            await self._flow_networks.close()
        await self._links.close()
        await self._managers.close()

    def _lend(self) -> FlowNetworks:
        if self._flow_networks is None:
            self._flow_networks = FlowNetworks(self._changed)
        return self._flow_networks
