"""Passes the page's questions on to the daemon, or to a cluster's agent, with the rights of who started the console."""

from __future__ import annotations

from contextlib import suppress
from typing import Self

import aiohttp
from aiohttp import web
from yarl import URL

from mirrord.console.guard import refuse

ASKED = ("Content-Type", "If-Match", "If-None-Match", "Accept")
ANSWERED = ("Content-Type", "ETag")
MAX_BODY = 32 << 20  # bytes: a capture file to be explained; the daemon has bounds of its own
CONNECT_SECONDS = 5.0


class Relay:
    """To the daemon at a socket, or with `cluster` to an agent. With `read_only` only what reads, and no packets."""

    def __init__(self, path: str, *, read_only: bool, cluster: bool = False) -> None:
        self.path, self.read_only, self.cluster = path, read_only, cluster
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)  # a stream has no end
        connector = aiohttp.UnixConnector(path=self.path, limit=0)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False, skip_auto_headers=("Content-Type",)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """The daemon's answer, as it comes; the daemon is left when the page goes."""
        assert self._session is not None  # the server runs within it
        if self.read_only and (request.method != "GET" or request.path.endswith("/capture")):
            return refuse(403, "read_only", "this console only reads")
        headers = {name: request.headers[name] for name in ASKED if name in request.headers}
        body = await request.read() if request.can_read_body else None
        url = URL(f"http://mirrord{request.rel_url.raw_path_qs}", encoded=True)
        try:
            async with self._session.request(
                request.method, url, headers=headers, data=body, allow_redirects=False
            ) as answer:
                return await _pass_on(request, answer)
        except (aiohttp.ClientError, TimeoutError) as error:
            return refuse(502, "unreachable", f"{self.path}: {getattr(error, 'strerror', None) or error}")


async def _pass_on(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    headers = {name: answer.headers[name] for name in ANSWERED if name in answer.headers}
    response = web.StreamResponse(status=answer.status, headers=headers)
    await response.prepare(request)
    with suppress(ConnectionError, aiohttp.ClientError):  # one of the two went: the other one sees an end
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
    return response
