"""The server of the daemon: the control API and the metrics, over HTTP."""

from __future__ import annotations

import asyncio
import socket

from aiohttp import web

from mirrord.control.changes import Changes
from mirrord.control.http import api, scrape
from mirrord.control.http.events import Events
from mirrord.control.http.sockets import Addresses
from mirrord.control.origins import Origins
from mirrord.control.reporting.metrics import Counts
from mirrord.control.service import Service
from mirrord.control.shown import Shown
from mirrord.crowds import MAX_CONNECTIONS, open_for

MAX_SCRAPERS = 8  # each holds all counters while it is answered
CLOSE_SECONDS = 0.5  # how long an open connection may hold up the end, twice: aiohttp waits, cancels and waits again


class Server:
    """Answers for a service at its addresses."""

    def __init__(self, service: Service, changes: Changes, origins: Origins) -> None:
        shown = Shown(service)
        self._events = Events(service, changes.store)
        self._changing = api.application(service, shown, changes, origins, self._events)
        self._reading = api.application(service, shown, changes, origins, self._events, read_only=True)
        counts = Counts(
            service.rows,
            service.last_reload,
            service.dataplane,
            service.rule_counts,
            service.workers,
            service.lost,
            shown.ends,
        )
        self._metrics = scrape.application(counts)
        self._runners: list[web.AppRunner] = []
        self._servers: list[asyncio.Server] = []

    async def open(self, addresses: Addresses) -> None:
        """Answer on all."""
        for app, listener, most in (
            (self._changing, addresses.changing, MAX_CONNECTIONS),
            (self._reading, addresses.reading, MAX_CONNECTIONS),
            (self._metrics, addresses.metrics, MAX_SCRAPERS),
        ):
            if listener is not None:
                await self._open(app, listener, most)

    async def _open(self, app: web.Application, listener: socket.socket, most: int) -> None:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_SECONDS)
        self._runners.append(runner)
        await runner.setup()
        assert runner.server is not None  # set up above
        self._servers.append(await open_for(runner.server, listener, most))

    async def close(self) -> None:
        """Stop answering, and let what is being answered finish."""
        for server in self._servers:
            server.close()
        self._events.close()
        for runner in self._runners:
            await runner.cleanup()
