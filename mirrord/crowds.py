"""How many may be connected to a server at a time: descriptors and memory are for the work that it is there for."""

from __future__ import annotations

import asyncio
import logging
import socket

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

MAX_CONNECTIONS = 64  # of each socket that commands, programs or pages are answered at


async def open_for(server: web.Server, listener: socket.socket, most: int) -> asyncio.Server:
    """Answer at a socket that listens. Of more than `most` connections the oldest are closed: idle clients keep nobody
    out.
    """
    loop = asyncio.get_running_loop()
    logging.getLogger("aiohttp.server").addFilter(_not_of_a_client)

    def connect() -> asyncio.Protocol:
        close_oldest(1)
        # once more when the server knows of this one, and of all that came with it
        loop.call_soon(lambda: loop.call_soon(close_oldest))
        return server()

    def close_oldest(coming: int = 0) -> None:
        there = [one for one in server.connections if one.transport is not None]
        for one in there[: max(len(there) + coming - most, 0)]:
            transport = one.transport
            one.force_close()
            if transport is not None:
                transport.abort()  # to close it would wait for a client that does not read

    # Not a site of aiohttp's, nor create_unix_server: from Python 3.13 on they remove the socket's file, which may be
    # systemd's, or another process's by then.
    return await loop.create_server(connect, sock=listener)


def _not_of_a_client(record: logging.LogRecord) -> bool:
    """Whether it is more than a client's broken HTTP, of which the client is told."""
    return not (record.exc_info and isinstance(record.exc_info[1], (HttpProcessingError, web.RequestPayloadError)))
