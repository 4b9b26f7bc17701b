"""The hosts of a cluster: which live, what each runs of it, and how far each is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from mirrord import __version__
from mirrord.cluster import audit, doubts, records
from mirrord.cluster.agent import Agent
from mirrord.cluster.allocation import CONFLICT
from mirrord.cluster.errors import StoreError
from mirrord.cluster.etcd import Found, delete, delete_below, put
from mirrord.cluster.keys import Keys
from mirrord.cluster.objects import Running
from mirrord.cluster.shown import Shown, shown_of
from mirrord.cluster.snapshot import Snapshot
from mirrord.control.callers import Caller
from mirrord.control.targets import Target
from mirrord.errors import Refused
from mirrord.model.validation import not_found

IN_USE = "no host: something else on the link has these addresses; once it has not, forget-host frees them"


class HostLook(NamedTuple):
    """A host as the store tells of it. `revision` is that of the configuration that it runs, `behind` by how much that
    is not the newest one; `alive` is whether its agent sees the store. `managers` says why VMs are not found on it.
    """

    host: str
    alive: bool
    mirrord: str
    since: float
    devices: Mapping[str, str]
    addresses: Mapping[str, str]
    revision: int
    behind: bool
    problem: str
    unread: list[dict[str, Any]]
    sessions: list[Shown]
    left_out: int
    up: int
    managers: list[str]


class Look(NamedTuple):
    """All hosts, the revision of the newest configuration, and the keys of the addresses that each host has."""

    revision: int
    hosts: list[HostLook]
    taken: Mapping[str, list[str]] = {}

    def as_json(self) -> list[dict[str, Any]]:
        return [
            {
                **one._asdict(),
                "sessions": len(one.sessions) + one.left_out,
            }
            for one in self.hosts
        ]


class Hosts:
    """Asked at one agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def look(self) -> Look:
        """What the store has of them. StoreError, also where it is not this cluster's."""
        etcd, keys = self._agent.etcd, self._agent.keys
        found, _ = await etcd.get(keys.cluster)
        self._agent.replica.recognize(found)
        guard, head = await etcd.get(keys.guard)
        hosts = (await etcd.range(keys.hosts, head.revision)).found
        states = (await etcd.range(keys.states, head.revision)).found
        addresses = (await etcd.range(f"{keys.allocated}addr/", head.revision)).found
        newest = guard.modified if guard is not None else 0
        return await asyncio.to_thread(_look, keys, newest, hosts, states, addresses)

    async def running(self) -> Running:
        """How sessions do on each host; where the store does not tell, on this one."""
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in await self._rows(await self._hosts_or_own()):
            found.setdefault((row["mirror"], row["session"]), []).append(row)
        return found

    async def _rows(self, hosts: list[HostLook]) -> list[dict[str, Any]]:
        return await asyncio.to_thread(_rows, self._agent.replica.snapshot, hosts, whole=self._agent.link.connected)

    async def status(self) -> dict[str, Any]:
        """The agent, every host and every session. Where the store does not answer, this host's."""
        agent, link = self._agent, self._agent.link
        hosts = await self._hosts_or_own()
        return {
            "cluster": {
                "id": agent.replica.cluster_id,
                "host": agent.settings.host,
                "version": __version__,
                "connected": link.connected,
                "problem": link.problem,
                "own_problem": link.own_problem,
                "behind_seconds": round(link.behind_seconds, 1),
                "endpoint": agent.etcd.endpoint,
                "revision": agent.replica.snapshot.guard,
                "daemon_problem": agent.daemon_problem,
                "alarms": await self._alarms(),
            },
            "hosts": Look(agent.replica.snapshot.guard, hosts).as_json(),
            "sessions": await self._rows(hosts),
            "unread": [one._asdict() for one in agent.replica.snapshot.unread],
        }

    async def forget(self, caller: Caller, host: str, *, dry_run: bool) -> None:
        """Free what a host has that will not come back. Refused while its agent lives; `not_found`."""
        agent, keys = self._agent, self._agent.keys
        look = await self.look()
        one = next((each for each in look.hosts if each.host == host), None)
        if one is None:
            raise not_found("host", host, [each.host for each in look.hosts])
        if one.alive:
            raise Refused(f"the agent of {host} lives: stop it there first (systemctl disable --now mirrord-agent)")
        if dry_run:
            return
        entry = audit.Entry(caller, agent.settings.host, "forget", Target("host", host), old={"name": host})
        operations = [delete(key) for key in (*look.taken.get(host, ()), keys.host(host), keys.status(host))]
        operations += [
            delete_below(f"{keys.ends}{host}/"),
            put(keys.guard, records.guard(agent.settings.host)),
            entry.operation_now(keys),
        ]
        await agent.etcd.change([], operations)

    async def _hosts_or_own(self) -> list[HostLook]:
        if self._agent.link.connected:
            return (await self.look()).hosts
        state, settings = self._agent.state(), self._agent.settings
        return [
            HostLook(
                settings.host, False, __version__, self._agent.started_at, settings.devices, {},
                self._agent.applied_revision, False, self._agent.daemon_problem,
                [one._asdict() for one in state.unread], list(state.sessions), state.left_out,
                state.states.get("up", 0), [],
            )
        ]  # fmt: skip

    async def _alarms(self) -> list[str]:
        try:
            return list(await self._agent.etcd.alarms()) if self._agent.link.connected else []
        except StoreError:
            return []  # a host's user may not ask


def _look(
    keys: Keys, newest: int, hosts: Mapping[str, Found], states: Mapping[str, Found], addresses: Mapping[str, Found]
) -> Look:
    names = {key.removeprefix(keys.hosts) for key in hosts} | {key.removeprefix(keys.states) for key in states}
    owned: dict[str, dict[str, str]] = {}
    taken: dict[str, list[str]] = {}
    for key, found in addresses.items():
        network, _, address = key.removeprefix(f"{keys.allocated}addr/").rpartition("/")
        owner = str(records.read(found.value, "alloc")[0].get("host", ""))
        taken.setdefault(owner, []).append(key)
        own = owned.setdefault(owner, {})
        own[network] = f"{own[network]} {address}" if network in own else address
    return Look(
        newest,
        [
            _host(name, hosts.get(keys.host(name)), states.get(keys.status(name)), owned.get(name, {}), newest)
            for name in sorted(names | owned.keys())
            if name
        ],
        taken,
    )


def _host(name: str, host: Found | None, state: Found | None, owned: Mapping[str, str], newest: int) -> HostLook:
    """What a host's records tell, as far as they can be read: each host writes its own."""
    about, _ = records.read(host.value, f"hosts.{name}") if host is not None else ({}, [])
    told, problems = records.read(state.value, f"status.{name}") if state is not None else ({}, [])
    revision = _number(told.get("revision"))
    said = _list(told.get("sessions"))
    sessions = [one for one in map(shown_of, said) if one is not None]
    unread = [one for one in _list(told.get("unread")) if isinstance(one, dict)]
    words = [str(one) for one in problems]
    words += [f"{len(said) - len(sessions)} of its sessions cannot be read"] if len(sessions) < len(said) else []
    words += [str(told["problem"])] if told.get("problem") else []
    devices = about.get("devices")
    return HostLook(
        host=name,
        alive=host is not None,
        mirrord=str(about.get("mirrord", "")),
        since=float(_number(about.get("since"))),
        devices={str(key): str(one) for key, one in devices.items()} if isinstance(devices, dict) else {},
        addresses=owned,
        revision=revision,
        behind=revision < newest,
        problem="; ".join(words) or (IN_USE if name == CONFLICT else ""),
        unread=unread,
        sessions=sessions,
        left_out=_number(told.get("left_out")),
        up=_number(told.get("up", sum(one.state == "up" for one in sessions))),
        managers=[str(one) for one in _list(told.get("managers"))],
    )


def _number(value: Any) -> Any:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else 0


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _rows(snapshot: Snapshot, hosts: list[HostLook], *, whole: bool) -> list[dict[str, Any]]:
    """The halves of all sessions as rows of the daemon's status; where these are the `whole` cluster's hosts, with what
    none of them says by itself.
    """
    told = {one.host: doubts.Told(one.alive, one.sessions, one.left_out, one.managers) for one in hosts}
    unheard = doubts.unheard(snapshot, told) if whole else {}
    rows = []
    for host in hosts:
        away = [] if host.alive else ["the host's agent was not heard of: this is what it told last"]
        for one in host.sessions:
            doubt = unheard.get((one.mirror, one.session)) if one.state == "up" else None
            rows.append(_row(host.host, one, away if doubt is None else [*away, doubt]))
    nowhere = doubts.nowhere(snapshot, told, time.time()) if whole else ()
    return [*rows, *(_row("", one, []) for one in nowhere)]


def _row(host: str, one: Shown, warnings: list[str]) -> dict[str, Any]:
    """A half of a session, as a row of the daemon's status; "" for no host."""
    return {
        "mirror": one.mirror,
        "session": one.session,
        "host": host,
        "side": one.side,
        "source": f"{host}:{one.source or '-'}" if host else "-",
        "destination": one.destination,
        "state": one.state,
        "reason": one.reason,
        "warnings": warnings,
        "frames_per_second": one.frames_per_second,
        "bits_per_second": one.bits_per_second,
        "memory_bytes": 0,
        "counters": {"mirrored_frames": one.mirrored, "dropped_frames": {"all": one.dropped}},
    }
