"""Shell completion: the names that the daemon knows. When it does not answer, nothing is offered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, get_args

import click

from mirrord.client import AnsweredError, Client, UnreachableError
from mirrord.model import Model

Complete = Callable[[click.Context, click.Parameter, str], list[str]]
PATIENCE_SECONDS = 2.0


def mirrors(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """The mirrors' names."""
    return _starting(begun, _names(_ask(context, Client.mirrors)))


def sessions(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """The names of the sessions of the mirror that the command line has named."""
    name = context.params.get("mirror")
    mirror = _ask(context, lambda client: client.mirror(str(name))) if name else None
    return _starting(begun, _names(mirror["sessions"] if mirror else []))


def captured(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """Sessions as MIRROR/SESSION."""
    mirrors = _ask(context, Client.mirrors) or ()
    return _starting(begun, [f"{mirror['name']}/{one['name']}" for mirror in mirrors for one in mirror["sessions"]])


def filters(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """The filters' names."""
    return _starting(begun, _names(_ask(context, Client.filters)))


def flow_networks(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """The flow networks' names."""
    return _starting(begun, _names(_ask(context, Client.flow_networks)))


def choices(model: type[Model], key: str) -> Complete | None:
    """The words that the model takes there, if it takes some words only."""
    words = [word for word in get_args(model.model_fields[key].annotation) if isinstance(word, str)]
    return (lambda _, __, begun: _starting(begun, words)) if words else None


def _ask(context: click.Context, question: Callable[[Client], Awaitable[Any]]) -> Any:
    async def ask() -> Any:
        async with Client(context.find_root().params["path"], PATIENCE_SECONDS) as client:
            return await question(client)

    try:
        return asyncio.run(ask())
    except (UnreachableError, AnsweredError):
        return None


def _names(objects: Iterable[dict[str, Any]] | None) -> list[str]:
    return [str(one["name"]) for one in objects or ()]


def _starting(begun: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(begun)]
