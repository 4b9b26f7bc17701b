"""The server of the daemon: the control API and the metrics, over HTTP."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from mirrord.control.changes import Changes
from mirrord.control.http import api, scrape
from mirrord.control.http.sockets import Addresses
from mirrord.control.reporting.metrics import Counts
from mirrord.control.service import Service

MAX_CONNECTIONS = 64  # at each control_socket: descriptors are for the mirrors
CLOSE_SECONDS = 1.0  # how long an open connection may hold up the end


class Server:
    """Answers for a service at its addresses."""

    def __init__(self, service: Service, changes: Changes) -> None:
        self._changing = api.application(service, changes)
        self._reading = api.application(service, changes, read_only=True)
        counts = Counts(service.rows, service.last_reload, service.dataplane, service.rule_counts)
        self._metrics = scrape.application(counts)
        self._runners: list[web.AppRunner] = []
        self._servers: list[asyncio.Server] = []
        logging.getLogger("aiohttp.server").addFilter(_not_of_a_client)

    async def open(self, addresses: Addresses) -> None:
        """Answer on all."""
        for app, listener in (
            (self._changing, addresses.changing),
            (self._reading, addresses.reading),
            (self._metrics, addresses.metrics),
        ):
            if listener is not None:
                await self._open(app, listener)

    async def _open(self, app: web.Application, listener: socket.socket) -> None:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_SECONDS)
        self._runners.append(runner)
        await runner.setup()
        assert runner.server is not None  # set up above
        # Not create_unix_server: from Python 3.13 on it removes the socket's file, which may be systemd's.
        server = await asyncio.get_running_loop().create_server(_crowded(runner.server), sock=listener)
        self._servers.append(server)

    async def close(self) -> None:
        """Stop answering, and let what is being answered finish."""
        for server in self._servers:
            server.close()
        for runner in self._runners:
            await runner.cleanup()


def _crowded(server: web.Server) -> Callable[[], asyncio.Protocol]:
    """The server's next connection; one too many ends the oldest, so that who hangs on keeps nobody out."""

    def connect() -> asyncio.Protocol:
        there = [one for one in server.connections if one.transport is not None]
        for one in there[: len(there) - MAX_CONNECTIONS + 1]:
            one.force_close()
        return server()

    return connect


def _not_of_a_client(record: logging.LogRecord) -> bool:
    """Whether it is more than a client's broken HTTP, of which the client is told."""
    return not (record.exc_info and isinstance(record.exc_info[1], (HttpProcessingError, web.RequestPayloadError)))
