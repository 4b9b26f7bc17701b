"""A line in the table of the API: what is served, by whom, and what goes in and out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Resource(NamedTuple):
    """A method on a path. `takes` and `gives` name schemas; one with [] is a list under the path's last word, one with
    a / is the type of a stream.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    gives: str = ""
    takes: str = ""
    statuses: tuple[int, ...] = (200,)
