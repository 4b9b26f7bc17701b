"""Answers that are made as they are read: a client that reads slowly, or not at all, costs one piece of an answer.

An answer that fits into a piece is sent as one. A longer one is made a piece at a time, each when the one before it has
been taken; a reader that takes none for `PATIENCE_SECONDS` is left alone, and so is its connection.

Pieces are made on threads: the event loop goes on meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from aiohttp import web

from mirrord.control.logs import logger
from mirrord.control.pieces import pieces

log = logger("http")

PIECE = 64 << 10
"""Bytes, or a little more; what asyncio's transports hold before they ask for patience is as much."""

PATIENCE_SECONDS = 10.0


class Streamed(web.StreamResponse):
    """A response of pieces that are made when it is their turn."""

    def __init__(self, parts: Iterator[bytes], *, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status=status, headers=headers)
        self._pieces = parts
        self._request: web.BaseRequest | None = None

    async def prepare(self, request: web.BaseRequest) -> Any:
        """Send the headers."""
        self._request = request
        return await super().prepare(request)

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the pieces."""
        assert self._request is not None  # it was prepared
        transport = self._request.transport
        try:
            while self._request.method != "HEAD" and (piece := await asyncio.to_thread(next, self._pieces, None)):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self.write(piece)
            async with asyncio.timeout(PATIENCE_SECONDS):
                await super().write_eof(data)
        except TimeoutError:
            log.warning("a client does not read: its connection is ended", path=self._request.path)
        except ConnectionError:
            raise
        except Exception:
            log.exception("a bug", method=self._request.method, path=self._request.path)
        else:
            return
        if transport is not None:
            transport.abort()  # to close it would be to wait for the reader


async def json_response(
    value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response | Streamed:
    """The value as JSON, see `pieces`. An error on the way to its second piece is raised here."""
    parts = gathered(one.encode() for one in pieces(value))
    return await response(parts, "application/json; charset=utf-8", status=status, headers=headers)


async def response(
    parts: Iterator[bytes], content_type: str, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response | Streamed:
    """An answer of pieces that are large enough and not empty, see `gathered`. Errors as of `json_response`."""
    begin = await asyncio.to_thread(lambda: list(islice(parts, 2)))
    headers = {**(headers or {}), "Content-Type": content_type}
    if len(begin) < 2:
        return web.Response(body=b"".join(begin), status=status, headers=headers)
    return Streamed(chain(begin, parts), status=status, headers=headers)


def gathered(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces."""
    piece = bytearray()
    for part in parts:
        piece += part
        if len(piece) >= PIECE:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)
