"""A line in the table of the API: what is served, by whom, and what goes in and out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


QUERIES = {
    "/v1/audit": ("mirror", "since", "limit"),
    "/v1/doctor": ("mirror",),
    "/v1/origins/cluster": ("replace",),
    "/v1/origins/cluster/check": ("replace",),
    "/v1/apply": ("prune", "dry_run"),
    "/v1/apply/check": ("prune",),
    "/v1/reload": ("dry_run",),
    "/v1/sources": ("at_once",),
    "/v1/history": ("mirror", "session", "since"),
    "/v1/mirrors/{mirror}/sessions/{session}/capture": ("source", "last", "follow"),
}


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


def changes(method: str, path: str) -> bool:
    """Whether it changes the object that is named in its path, or checks a change of it."""
    return "{" in path and method not in ("GET", "HEAD") and not path.endswith("/explain")


def queries(method: str, path: str) -> tuple[str, ...]:
    """What the query of it may say."""
    if not changes(method, path):
        return QUERIES.get(path, ())
    if path.endswith("/sessions/check"):
        return ()
    return ("change",) if path.endswith("/check") else ("dry_run",)
