"""Answers of the control API as JSON, made on a thread: the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from mirrord.control.pieces import pieces


async def answer(
    make: Callable[[], Any], status: int = 200, tag: Callable[[], str | None] | None = None
) -> web.Response:
    """The answer that says what `make` gives, with the entity tag that `tag` gives. Both are called on a thread."""

    def made() -> tuple[bytes, dict[str, str]]:
        body = "".join(pieces(make())).encode()
        return body, {} if tag is None else {"ETag": tag() or ""}

    body, headers = await asyncio.to_thread(made)
    return web.Response(body=body, status=status, headers=headers, content_type="application/json", charset="utf-8")
