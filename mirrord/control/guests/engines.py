"""Containers, as their engine tells of them, and the host's end of each NIC, as the kernel tells of it.

The engine's API (Docker's; Podman serves the same) says which containers run, and as which process. The kernel then
says which veths of the host have their other end in that process's network namespace, and what it is called there.

An engine tells of a container when all of it has started, and Podman answers nothing about it before: some 200 ms after
its NIC has come, mostly under the name that it had. So while a container is restarted its last answer holds.

https://docs.docker.com/reference/api/engine/, https://docs.podman.io/en/latest/_static/api.html
"""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import ClientError, ClientSession, ClientTimeout, UnixConnector

from mirrord.control.guests.follower import Follower, UnreachableError
from mirrord.control.guests.inventory import Guest
from mirrord.control.guests.veths import is_here, nics_of

SOCKETS = {"podman": "/run/podman/podman.sock", "docker": "/run/docker.sock"}

MOST_AT_ONCE = 16
"""How many questions an engine is asked at a time."""


HOLD_SECONDS = 5.0
"""How long a container that is being restarted, or of whose end there was no event yet, is what it was, at most."""

ENDS = "die", "died", "remove"
"""Events of a container's end."""


class Engine(Follower):
    """The containers of one engine, by the path of its socket."""

    def __init__(self, path: str, changed: Callable[[], None]) -> None:
        self._path = path
        self._held: dict[str, asyncio.TimerHandle] = {}  # by id: those that go on as they were
        self._ended: set[str] = set()  # those that are not to be held
        self._restarts: set[str] = set()  # those whose restart was told of, and not yet their start
        super().__init__(f"the container engine at {path}", changed)

    async def look(self) -> tuple[Guest, ...]:
        async with self._session(total=None) as session:
            running = await _json(session, "/containers/json")
            turns = asyncio.Semaphore(MOST_AT_ONCE)

            async def one(container: Any) -> Guest | None:
                async with turns:
                    return await _container(session, container["Id"])

            found = [one for one in await asyncio.gather(*map(one, running)) if one is not None]
        held = {guest.id: guest for guest in self._hold(found)}
        return tuple(sorted([*held.values(), *(one for one in found if one.id not in held)], key=lambda one: one.name))

    def _hold(self, found: list[Guest]) -> Iterator[Guest]:
        """Those that have gone, and may be back in a moment, as they were; unless another one has their device by now.

        Events come later than the answers: what has gone is held until its event tells that it is no restart.
        """
        running = {guest.id for guest in found if guest.nics}
        taken = {nic.device for guest in found for nic in guest.nics}
        known = {guest.id for guest in self.answer.guests} | running
        self._ended, self._restarts = self._ended & known, self._restarts & known
        for guest in self.answer.guests:
            if guest.id in running or not guest.nics or taken & {nic.device for nic in guest.nics}:
                self._release(guest.id)
            elif guest.id not in self._ended:
                self._keep(guest.id)
                yield guest

    def _keep(self, container: str) -> None:
        if container not in self._held:
            loop = asyncio.get_running_loop()
            self._held[container] = loop.call_later(HOLD_SECONDS, self._end, container)

    def _release(self, container: str) -> None:
        self._ended.discard(container)
        if (timer := self._held.pop(container, None)) is not None:
            timer.cancel()

    def _end(self, container: str) -> None:
        """Hold a container no longer."""
        self._release(container)
        self._restarts.discard(container)
        self._ended.add(container)
        self.nudge()

    async def events(self) -> AsyncGenerator[None, None]:
        filters = quote(json.dumps({"type": ["container", "network"]}))
        async with self._session(total=None) as session:
            try:
                async with session.get(f"http://engine/events?filters={filters}") as answer:
                    if answer.status != 200:
                        raise UnreachableError(f"{answer.status} {answer.reason}")
                    yield
                    async for line in answer.content:
                        self._heard(line)
                        yield
            except ClientError as error:
                raise UnreachableError(self._why(error)) from error

    def _heard(self, line: bytes) -> None:
        """See what an event tells of a container's end: that it is one, or a restart."""
        try:
            told = json.loads(line)
            action, container = told.get("Action"), told.get("Actor", {}).get("ID", "")
        except (ValueError, AttributeError):
            return  # half a line of a very long one, or nothing that can be understood: it is looked all the same
        if action == "restart":  # Podman's first event of one, Docker's last
            self._restarts.add(container)
        elif action == "start":
            self._restarts.discard(container)
            self._ended.discard(container)
        elif action in ENDS and container not in self._restarts:
            self._end(container)

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
    shared = told.get("HostConfig", {}).get("NetworkMode") == "host" or is_here(process)
    return Guest(
        name=told.get("Name", "").lstrip("/"),
        id=told.get("Id", name),
        runs=process > 0,
        nics=nics,
        labels=told.get("Config", {}).get("Labels") or {},
        netns=str(process) if process and not shared else "",
        reason="it is in the network namespace of the host: mirror the host's devices" if shared else "",
    )
