"""The agent: whenever the cluster, the guests or the daemon have news, it derives this host's part and has it run.

A turn is: look, derive, tell the daemon if that is another part than it has, tell the store. Turns come one after the
other. Nothing of a turn needs the store: it may be away, and guests are followed all the same.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from mirrord import __version__, expiry
from mirrord.cluster import allocation, records, state
from mirrord.cluster.derive import Here, Part, derive
from mirrord.cluster.errors import StoreError
from mirrord.cluster.etcd import Etcd
from mirrord.cluster.host_daemon import DaemonUnreachableError, HostDaemon
from mirrord.cluster.keys import Keys
from mirrord.cluster.leaving import Leaving
from mirrord.cluster.link import Link
from mirrord.cluster.records import SessionKey
from mirrord.cluster.replica import Replica
from mirrord.cluster.settings import Cluster
from mirrord.cluster.shown import HostState, host_state, received
from mirrord.cluster.snapshot import Snapshot
from mirrord.control.guests.inventory import Answer, Inventory
from mirrord.control.guests.managers import Managers
from mirrord.control.logs import logger
from mirrord.errors import HostError, MirrordError

log = logger("agent")

LOOK_SECONDS = 2.0
"""How often the daemon is asked how it does."""

STATUS_SECONDS = 30.0
"""How often counters alone go into the store; what else changes goes there at once."""

AHEAD_SECONDS, AGAIN_SECONDS = 2.0, 60.0
"""In which time after a flow network came into use an address is taken in it, though none is needed yet: all hosts do
that. And how long after a try that failed it is tried again."""

FIRST_LOOK_SECONDS = 10.0
"""How long a start waits for the guests' managers: what they do not tell is as it was when this was last known."""

NOTHING = Part({"flow_networks": {}, "filters": {}, "mirrors": {}})


class Agent:
    """Of one host. `part` is what the host shall do, `answer` what the daemon said of it, `look` how it does."""

    def __init__(self, settings: Cluster) -> None:
        self.settings, self.keys = settings, Keys(settings.prefix)
        self.news = asyncio.Event()
        self.etcd = Etcd(settings.access)
        self.replica = Replica(self.keys, self._changed)
        self.link = Link(self.etcd, self.keys, settings.host, self.replica, self.news.set)
        self.daemon = HostDaemon(settings.daemon)
        self.part, self.answer, self.look = NOTHING, dict[str, Any](), dict[str, Any]()
        self.applied_revision = 0  # of the configuration that the daemon runs
        self.daemon_problem = "the daemon was not asked yet"
        self.started_at = time.time()
        self._managers = Managers(self.news.set)
        self._guests: Inventory = {}
        self._leaving = Leaving(settings.host)
        self._left: dict[SessionKey, bool] = {}
        self._addresses: dict[str, str] = {}
        self._address_problems: dict[str, str] = {}
        self._lacks = asyncio.Event()
        self._verified = 0  # the link's `renewed` when the addresses were
        self._ahead_at: dict[str, float] = {}  # when it is time to take an address ahead
        self._applied = ""  # the body that the daemon has
        self._applied_news = asyncio.Event()
        self._known = False  # whether there is anything to have run
        self._state, self._unsaved = state.StateFile(Path(settings.state)), False
        self._counted, self._last_status = (0.0, ""), ""

    # --- from start to end ---

    def remember(self) -> None:
        """Take what the state file has, if an agent of this version wrote it. HostError: it cannot be used, and nothing
        of it may be lost unseen.
        """
        path = self._state.path
        try:
            kept = state.read(path)
            if kept is not None:
                self.replica.restore(kept)
                self._guests = state.inventory_of(kept["guests"])
                self._addresses = {str(name): str(address) for name, address in kept["addresses"].items()}
                self._known = bool(self.replica.cluster_id)
        except state.OtherVersionError:
            log.warning("another version of the agent has kept what it knew: the store is read anew", path=str(path))
        except (OSError, ValueError, KeyError, TypeError) as error:
            why = f"what is known of the cluster cannot be read ({error}): delete the file to begin anew from the store"
            raise HostError("state_unusable", f"{path}: {why}", "cluster.state") from error

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._turns())
                group.create_task(self.link.run())
                group.create_task(self._look())
                group.create_task(self._take_addresses())
        finally:
            await self._managers.close()
            await self.link.close()
            await self.daemon.close()

    def _changed(self) -> None:
        self._known = self._unsaved = True
        self.news.set()

    # --- turns ---

    async def _turns(self) -> None:
        await self._first_look()
        while True:
            self.news.clear()
            again = await self._turn() if self._known else None
            with suppress(TimeoutError):
                async with asyncio.timeout(again):
                    await self.news.wait()

    async def _first_look(self) -> None:
        """Wait for what runs here: without it, a start would end what the daemon runs."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK_SECONDS):
                while not self._known or await self._silent():
                    await self.news.wait()
                    self.news.clear()
        while not self._known:
            await self.news.wait()
            self.news.clear()

    async def _silent(self) -> bool:
        await self._managers.inventory(self.replica.snapshot.places)
        return self._managers.silent

    async def _turn(self) -> float | None:
        """Bring the daemon up to what is wanted; after how long to try again, None where nothing is left to do."""
        snapshot, revision = self.replica.snapshot, self.replica.revision
        guests = self._told(await self._managers.inventory(snapshot.places))
        if guests != self._guests:
            self._guests, self._unsaved = guests, True
        self._forget_addresses()
        self.part = await self._derive(snapshot, guests)
        if self.part.lacking or self._due() or self.link.renewed != self._verified:
            self._lacks.set()
        applied = await self._apply(revision)
        self._tell_store()
        if self._unsaved:
            await self._save()
        until = [expiry.end(one.expires) for one in snapshot.mirrors.values() if one.enabled]
        waits = [at - time.time() for at in until if at is not None and at > time.time()]
        waits += [] if applied and not self.part.lacking and not self._left else [LOOK_SECONDS]
        waits += [max(self._ahead_at[name] - time.monotonic(), 0.0) for name in self.part.ahead]
        return min(waits, default=None)

    async def _derive(self, snapshot: Snapshot, guests: Inventory) -> Part:
        """What this host shall do now. What has left, and is listened for, follows from what is here."""
        ends, settings = self.replica.ends, self.settings
        while True:
            here = Here(
                settings.host, settings.devices, self._addresses, guests, self._left, dict(self._address_problems)
            )
            part = await asyncio.to_thread(derive, snapshot, ends, here, time.time())
            left = self._leaving.look(part.destinations, ends, received(self.look), time.monotonic())
            if left == self._left:
                return part
            self._left = left

    def _told(self, inventory: Inventory) -> Inventory:
        """The guests; of a manager that has told nothing since the start, what was known before."""
        return {
            place: Answer(self._guests[place].guests, answer.problem)
            if answer.problem and not answer.guests and place in self._guests
            else answer
            for place, answer in inventory.items()
        }

    def _forget_addresses(self) -> None:
        """Addresses that are not of their flow network any more are given up: whoever changed its range freed them. So
        are those in a flow network that this host has a device for no more.
        """
        networks = self.replica.snapshot.networks
        for name, one in [*self._addresses.items()]:
            there = name in networks and name in self.settings.devices
            if not (there and allocation.within(one, networks[name].addresses)):
                del self._addresses[name]

    def _due(self) -> list[str]:
        """The flow networks in which it is time to take an address ahead."""
        now = time.monotonic()
        for name in self.part.ahead - self._ahead_at.keys():
            self._ahead_at[name] = now + random.uniform(0, AHEAD_SECONDS)  # noqa: S311 (no secret)
        return [name for name in self.part.ahead if self._ahead_at[name] <= now]

    async def _take_addresses(self) -> None:
        """Take the addresses that are lacking, whenever some are. No turn waits for that: the store may be slow."""
        while True:
            await self._lacks.wait()
            self._lacks.clear()
            await self._give_up_conflicts()
            await self._verify_addresses()
            due = self._due()
            for name in [*sorted(self.part.lacking), *due]:
                network = self._network(name)
                if network is None:
                    continue  # it is gone since
                if name in due:
                    self._ahead_at[name] = time.monotonic() + AGAIN_SECONDS
                take = allocation.ahead if name in due else allocation.address
                try:
                    found = await take(self.etcd, self.keys, network, self.settings.host)
                except StoreError as error:
                    if name not in due and self._address_problems.get(name) != error.message:
                        log.warning("no address in a flow network", flow_network=name, reason=error.message)
                        self._address_problems[name] = error.message
                        self.news.set()
                    continue
                if found is not None:
                    log.info("has an address in a flow network", flow_network=name, address=found)
                    self._address_problems.pop(name, None)
                    self._addresses[name], self._unsaved = found, True
                    self.news.set()

    def _network(self, name: str) -> allocation.Network | None:
        network = self.replica.snapshot.networks.get(name)
        record = self.replica.config.get(self.keys.object("flow_networks", name))
        return allocation.Network(name, network.addresses, record.modified) if network and record else None

    async def _verify_addresses(self) -> None:
        """Whenever the link is `renewed`: who forgot the host, or restored a backup, may have given them to others."""
        if self.link.renewed == self._verified or not self.link.connected:
            return
        before = self.link.renewed
        try:
            for name in self.replica.snapshot.networks.keys() - self.settings.devices.keys():
                await allocation.free(self.etcd, self.keys, name, self.settings.host)
        except StoreError:
            return  # it is tried again with the next turn
        for name, one in [*self._addresses.items()]:
            network = self._network(name)
            try:
                if network is None or await allocation.holds(self.etcd, self.keys, network, one, self.settings.host):
                    continue
            except StoreError:
                return
            log.warning("an address is not this host's any more: another is taken", flow_network=name, address=one)
            self._addresses.pop(name, None)
            self._unsaved = True
            self.news.set()
        self._verified = before

    def _conflicts(self) -> list[str]:
        """The flow networks in which something else on the link has this host's address, as the daemon tells."""
        told = self.look.get("cluster", {}).get("addresses_in_use", {})
        return [name for name, one in told.items() if self._addresses.get(name) == str(one).partition("/")[0]]

    async def _give_up_conflicts(self) -> None:
        for name in self._conflicts():
            one = self._addresses[name]
            with suppress(StoreError):  # it is tried again
                await allocation.conflicts(self.etcd, self.keys, name, one, self.settings.host)
                log.warning("an address is in use by something else: another is taken", flow_network=name, address=one)
                self._addresses.pop(name, None)
                self._unsaved = True
                self.news.set()

    async def _apply(self, revision: int) -> bool:
        """Have the daemon run the part; whether it does."""
        body = {"generation": revision, "cluster_id": self.replica.cluster_id, **self.part.objects}
        written = json.dumps(self.part.objects, sort_keys=True)
        if written == self._applied:
            self.applied_revision = revision
            return True
        try:
            self.answer = await self.daemon.put_origin(body)
        except MirrordError as error:
            if error.message != self.daemon_problem:
                log.warning("the daemon does not run this host's part", reason=str(error))
            self.daemon_problem = error.message
            return False
        if self.daemon_problem:
            log.info("the daemon runs this host's part", revision=revision)
        self._applied, self.applied_revision, self.daemon_problem = written, revision, ""
        self._applied_news.set()
        for one in self.refused:
            log.warning("the daemon does not take it", **one)
        return True

    @property
    def refused(self) -> list[dict[str, Any]]:
        """What the daemon leaves out, and why: as of its last status, since a reload of its files may change that."""
        if told := self.look.get("cluster"):
            return list(told["left_out"])
        return [one for one in self.answer.get("objects", []) if not one.get("taken")]

    async def _look(self) -> None:
        """See how the daemon does, and whether it still has what it was told: another one may have been started."""
        while True:
            try:
                look = await self.daemon.status()
            except MirrordError as error:
                if isinstance(error, DaemonUnreachableError):
                    self._applied = ""  # it may come back without
                    self.daemon_problem = error.message
                self.daemon_problem = self.daemon_problem or error.message
                self.look = {}
            else:
                if self._applied and self.look and look.get("pid") != self.look.get("pid"):
                    self._applied = ""
                self.look = look
            if self._conflicts():
                self._lacks.set()
            if not self._applied:
                self.news.set()
            elif self._known:
                self._tell_store()
            self._applied_news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._applied_news.wait()

    # --- what others are told ---

    def state(self) -> HostState:
        """How this host does."""
        return host_state(self.part, self.refused, self.look, self.replica.snapshot.unread, self.daemon_problem)

    def _tell_store(self) -> None:
        """What is this host's own: that it lives, how it does, and its destinations once the daemon listens."""
        own = {
            self.keys.host(self.settings.host): records.record(
                {
                    "mirrord": __version__,
                    "since": round(self.started_at, 3),
                    "devices": dict(self.settings.devices),
                    "addresses": dict(self._addresses),
                    "node": socket.gethostname(),
                }
            ),
            self.keys.status(self.settings.host): self._status(),
        }
        if not self._applied:  # which destinations are here is as it was
            self.link.publish({**self.link.own, **own}, complete=self.link.complete)
            return
        left_out = {(one.get("mirror") or one.get("name"), one.get("name")) for one in self.refused}
        for (mirror, session), network in self.part.ends.items():
            if (mirror, session) not in self.replica.snapshot.sessions or network not in self._addresses:
                continue  # the next turn sees to it
            if left_out & {(mirror, mirror), (mirror, f"{session}{records.RECEIVING}")}:
                continue
            vni = self.replica.snapshot.sessions[mirror, session].vni
            end = records.record({"address": self._addresses[network], "vni": vni})
            own[self.keys.end(self.settings.host, mirror, session)] = end
        self.link.publish(own, complete=True)

    def _status(self) -> str:
        """The status record: counters alone change it now and then only."""
        found = self.state()
        told = {
            "revision": self.applied_revision,
            "problem": "; ".join(filter(None, (self.link.twin, self.daemon_problem))),
            "managers": self._silent_managers(),
            "up": found.states.get("up", 0),
            "unread": [one._asdict() for one in found.unread],
            "left_out": found.left_out,
        }
        at, before = self._counted
        plain = json.dumps({**told, "sessions": [one.without_counters() for one in found.sessions]})
        if plain != before or time.monotonic() - at >= STATUS_SECONDS:
            self._counted = time.monotonic(), plain
            self._last_status = records.record({**told, "sessions": [one._asdict() for one in found.sessions]})
        return self._last_status

    def _silent_managers(self) -> list[str]:
        """Why VMs of some sessions are not found here, whoever has them."""
        return sorted({answer.problem for answer in self._guests.values() if answer.problem})

    async def _save(self) -> None:
        self._unsaved = False
        whole = self._state.whole
        kept = {
            **self.replica.kept(whole=whole),
            "guests": state.inventory_kept(self._guests),
            "addresses": dict(self._addresses),
        }
        try:
            await asyncio.to_thread(self._state.write if whole else self._state.add, kept)
        except OSError as error:
            self._unsaved = True
            log.warning("what is known of the cluster cannot be kept", path=self.settings.state, reason=str(error))
