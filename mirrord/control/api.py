"""The control API: HTTP/JSON on a unix socket (DESIGN section 4).

A resource is one handler and one line in `application`. Whoever may open the socket may use it: its mode and group are
the access control.
"""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web

from mirrord.control.service import Service
from mirrord.errors import MirrordError

log = structlog.get_logger(subsystem="api")
SERVICE = web.AppKey("service", Service)
MODE = 0o660
STATUS = {"not_found": 404, "refused": 409, "invalid_config": 422}


def application(service: Service) -> web.Application:
    """Every resource of the API."""
    app = web.Application(middlewares=[_errors])
    app[SERVICE] = service
    app.router.add_get("/v1/status", _status)
    app.router.add_get("/v1/mirrors", _mirrors)
    app.router.add_get("/v1/mirrors/{name}", _mirror)
    app.router.add_post("/v1/reload", _reload)
    return app


async def _status(request: web.Request) -> web.Response:
    return web.json_response(request.app[SERVICE].status())


async def _mirrors(request: web.Request) -> web.Response:
    return web.json_response({"mirrors": request.app[SERVICE].mirrors()})


async def _mirror(request: web.Request) -> web.Response:
    return web.json_response(request.app[SERVICE].mirror(request.match_info["name"]))


async def _reload(request: web.Request) -> web.Response:
    await request.app[SERVICE].reload()
    return web.json_response({"reloaded": request.app[SERVICE].path})


@web.middleware
async def _errors(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
    """Every error as JSON, with a stable code."""
    try:
        return await handler(request)
    except MirrordError as error:
        return _error(STATUS[error.code], error.code, error.message, error.path)
    except web.HTTPException as error:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status, "bad_request")
        return _error(error.status, code, f"{request.method} {request.path}: {error.reason}", "")


def _error(status: int, code: str, message: str, path: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message, "path": path}}, status=status)


def listen(path: Path, group: str) -> socket.socket:
    """A listening unix socket with mode 0660, owned by this group if one is named.

    A socket that a dead daemon left behind is replaced. OSError: another daemon listens there (EADDRINUSE), what is
    there is no socket (EEXIST), or the place or the group cannot be had.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "exists and is not a socket", str(path))
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path.parent.mkdir(parents=True, exist_ok=True)
    before = os.umask(0o777 & ~MODE)
    try:
        listener.bind(str(path))
        if group:
            os.chown(path, -1, _group(group))
        listener.listen(64)
    finally:
        os.umask(before)
    return listener


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise OSError(errno.ENOENT, f"no such group: {name}") from None
