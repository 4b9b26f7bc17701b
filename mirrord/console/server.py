"""The console's server: the page, the key, and the way to the daemon. On the loopback, in mirrorctl's own process."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import Callable

from aiohttp import web

from mirrord import __version__
from mirrord.console import pages
from mirrord.console.guard import Guard, protect, refuse
from mirrord.console.pages import Pages
from mirrord.console.relay import MAX_BODY, Relay
from mirrord.crowds import MAX_CONNECTIONS, open_for

CLOSE_SECONDS = 0.2  # how long an open stream may hold up the end, see aiohttp's shutdown_timeout
MAX_TOKEN = 4096  # bytes of a request that brings one


def application(guard: Guard, relay: Relay, files: dict[str, pages.File]) -> web.Application:
    """Every resource of the console."""
    what = {"version": __version__, "socket": relay.path, "read_only": relay.read_only, "cluster": relay.cluster}

    async def key(request: web.Request) -> web.StreamResponse:
        try:
            told = json.loads(await request.content.read(MAX_TOKEN))
            given = guard.trade(str(told["token"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            given = None
        if given is None:
            message = "this link was used before, or is not of this console: it opens one window, once"
            return refuse(403, "wrong_token", message)
        return web.json_response({"key": given, "about": what})

    async def about(_: web.Request) -> web.StreamResponse:
        return web.json_response(what)

    async def token(_: web.Request) -> web.StreamResponse:
        return web.json_response({"token": guard.token()})

    app = web.Application(middlewares=[guard.let_through], client_max_size=MAX_BODY)
    app.on_response_prepare.append(protect)
    app.router.add_post("/console/key", key)
    app.router.add_get("/console/about", about)
    app.router.add_post("/console/token", token)
    app.router.add_route("*", "/v1/{rest:.*}", relay)
    app.router.add_get("/{file:.*}", Pages(files))
    return app


async def serve(listener: socket.socket, relay: Relay, started: Callable[[str], None]) -> None:
    """Answer until SIGINT or SIGTERM. `started` gets a token once the page can be had. MissingError."""
    guard, ended = Guard(), asyncio.Event()
    app = application(guard, relay, pages.read())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    async with relay:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_SECONDS, handler_cancellation=True)
        await runner.setup()
        assert runner.server is not None  # set up above
        server = await open_for(runner.server, listener, MAX_CONNECTIONS)
        started(guard.token())
        await ended.wait()
        server.close()
        await runner.cleanup()
