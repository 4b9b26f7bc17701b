"""Answers that are made as they are read: who reads slowly, or not at all, costs a piece of one and no more.

An answer that fits into a piece is sent as one. A longer one is made a piece at a time, each when the one before it has
been taken; a reader that takes none for `PATIENCE_SECONDS` is left alone, and so is its connection.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from aiohttp import web

from mirrord.control.logs import logger

log = logger("http")

PIECE = 64 << 10
"""Bytes, or a little more; what asyncio's transports hold before they ask for patience is as much."""

PATIENCE_SECONDS = 10.0


class Streamed(web.StreamResponse):
    """A response of pieces that are made when it is their turn."""

    def __init__(self, pieces: Iterator[bytes], *, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status=status, headers=headers)
        self._pieces = pieces
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
            for piece in () if self._request.method == "HEAD" else self._pieces:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self.write(piece)
                await asyncio.sleep(0)  # others have their turn
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


def json_response(
    value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response | Streamed:
    """The value as JSON. In it, or in what it has at any depth, an iterator is a list that is made as it is read."""
    return response(_json(value), "application/json; charset=utf-8", status=status, headers=headers)


def response(
    text: Iterable[str], content_type: str, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response | Streamed:
    """A text that is made as it is read. An error on the way to its first piece is raised here."""
    return of_bytes(gathered(one.encode() for one in text), content_type, status=status, headers=headers)


def of_bytes(
    pieces: Iterator[bytes], content_type: str, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response | Streamed:
    """As `response`, of pieces that are large enough."""
    begin = list(_at_most(2, pieces))
    headers = {**(headers or {}), "Content-Type": content_type}
    if len(begin) < 2:
        return web.Response(body=b"".join(begin), status=status, headers=headers)
    return Streamed(chain(begin, pieces), status=status, headers=headers)


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


def _at_most(count: int, pieces: Iterator[bytes]) -> Iterator[bytes]:
    while count and (piece := next(pieces, None)) is not None:
        count -= 1
        yield piece


def _json(value: Any) -> Iterator[str]:
    if isinstance(value, Iterator):
        yield "["
        for number, one in enumerate(value):
            if number:
                yield ", "
            yield from _json(one)
        yield "]"
    elif isinstance(value, dict) and any(isinstance(one, Iterator) for one in value.values()):
        for number, (key, one) in enumerate(value.items()):
            yield f"{', ' if number else '{'}{json.dumps(key)}: "
            yield from _json(one)
        yield "}"
    else:
        yield json.dumps(value)
