"""Containers, as their engine tells of them, and the host's end of each NIC, as the kernel tells of it.

The engine's API (Docker's; Podman serves the same) says which containers run, and as which process. The kernel then
says which veths of the host have their other end in that process's network namespace, and what it is called there; that
takes CAP_NET_ADMIN, and no visit to the namespace.

https://docs.docker.com/reference/api/engine/, https://docs.podman.io/en/latest/_static/api.html, rtnetlink(7)
"""

from __future__ import annotations

import asyncio
import errno
import json
import struct
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import ClientError, ClientSession, ClientTimeout, UnixConnector

from mirrord.control.guests.follower import Follower, UnreachableError
from mirrord.control.guests.inventory import Guest, GuestNic
from mirrord.control.host.rtnetlink import LINK, Rtnetlink, attribute, attributes, number, text
from mirrord.kernel import (
    IFLA_ADDRESS,
    IFLA_IFNAME,
    IFLA_LINK,
    IFLA_LINK_NETNSID,
    IFLA_TARGET_NETNSID,
    NETNSA_NSID,
    NETNSA_PID,
    RTM_GETLINK,
    RTM_GETNSID,
)

SOCKETS = {"podman": "/run/podman/podman.sock", "docker": "/run/docker.sock"}

MOST_AT_ONCE = 16
"""How many questions an engine is asked at a time."""

_NSID = struct.Struct("=B3x")  # family (struct rtgenmsg)
_SIGNED = struct.Struct("=i")


class Engine(Follower):
    """The containers of one engine, by the path of its socket."""

    def __init__(self, path: str, changed: Callable[[], None]) -> None:
        self._path = path
        super().__init__(f"the container engine at {path}", changed)

    async def look(self) -> tuple[Guest, ...]:
        async with self._session(total=None) as session:
            running = await _json(session, "/containers/json")
            turns = asyncio.Semaphore(MOST_AT_ONCE)

            async def one(container: Any) -> Guest | None:
                async with turns:
                    return await _container(session, container["Id"])

            found = await asyncio.gather(*map(one, running))
        return tuple(sorted((one for one in found if one is not None), key=lambda one: one.name))

    async def events(self) -> AsyncGenerator[None, None]:
        filters = quote(json.dumps({"type": ["container", "network"]}))
        async with self._session(total=None) as session:
            try:
                async with session.get(f"http://engine/events?filters={filters}") as answer:
                    if answer.status != 200:
                        raise UnreachableError(f"{answer.status} {answer.reason}")
                    yield
                    async for _ in answer.content:
                        yield
            except ClientError as error:
                raise UnreachableError(self._why(error)) from error

    def _session(self, total: float | None) -> ClientSession:
        return ClientSession(connector=UnixConnector(self._path), timeout=ClientTimeout(total=total))

    def _why(self, error: ClientError) -> str:
        if isinstance(error, OSError) and error.errno == errno.EACCES:
            return "no permission; a drop-in of the unit gives its group (that of docker is as good as root)"
        if not Path(self._path).exists():
            return "it is not there"
        return str(error)


async def _json(session: ClientSession, path: str) -> Any:
    try:
        async with session.get(f"http://engine{path}") as answer:
            if answer.status == 404:
                return None
            if answer.status != 200:
                raise UnreachableError(f"{answer.status} {answer.reason}")
            return await answer.json(content_type=None)
    except (ClientError, ValueError) as error:
        raise UnreachableError(str(error)) from error


async def _container(session: ClientSession, name: str) -> Guest | None:
    """A container that runs; None when it is gone."""
    told = await _json(session, f"/containers/{quote(name)}/json")
    if told is None:
        return None
    process = told.get("State", {}).get("Pid", 0)
    nics = await asyncio.to_thread(nics_of, process) if process else ()
    return Guest(
        name=told.get("Name", "").lstrip("/"),
        id=told.get("Id", name),
        runs=process > 0,
        nics=nics,
        labels=told.get("Config", {}).get("Labels") or {},
    )


def nics_of(process: int) -> tuple[GuestNic, ...]:
    """The veths of this host whose other end is in the process's network namespace. Empty when the process is gone."""
    netlink = Rtnetlink()
    try:
        place = _namespace_id(netlink, process)
        if place is None:
            return ()
        there = {index: (name, mac) for index, name, mac, _ in _links(netlink, place)}
        here = [(name, peer) for _, name, _, (peer, at) in _links(netlink) if at == place]
        return tuple(GuestNic(*there[peer], device) for device, peer in here if peer in there)
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.ENOENT, errno.EINVAL):
            return ()
        raise
    finally:
        netlink.close()


def _namespace_id(netlink: Rtnetlink, process: int) -> int | None:
    """What the kernel calls the process's network namespace in this one; None where it has no name for it."""
    for body in netlink.ask(RTM_GETNSID, _NSID.pack(0) + attribute(NETNSA_PID, struct.pack("=I", process))):
        (found,) = _SIGNED.unpack(attributes(body, _NSID.size)[NETNSA_NSID])
        return int(found) if found >= 0 else None
    return None


def _links(netlink: Rtnetlink, place: int | None = None) -> list[tuple[int, str, str, tuple[int, int | None]]]:
    """Index, name and address of each device there (None: here); for a veth, its peer's index and namespace's id."""
    where = b"" if place is None else attribute(IFLA_TARGET_NETNSID, _SIGNED.pack(place))
    found = []
    for body in netlink.dump(RTM_GETLINK, LINK.pack(0, 0, 0, 0, 0) + where):
        told = attributes(body, LINK.size)
        beyond = told.get(IFLA_LINK_NETNSID)
        peer = number(told.get(IFLA_LINK)), None if beyond is None else int(_SIGNED.unpack(beyond)[0])
        mac = told.get(IFLA_ADDRESS, b"").hex(":")
        found.append((LINK.unpack_from(body)[2], text(told.get(IFLA_IFNAME)), mac, peer))
    return found
