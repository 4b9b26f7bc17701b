"""The control API: HTTP/JSON on a unix socket (DESIGN section 4).

A resource is one handler and one line in `RESOURCES`. Whoever may open the socket may use it: its mode and group are
the access control. The read-only socket serves GET alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import web

from mirrord.control import changes, openapi
from mirrord.control.changes import Changes, Target
from mirrord.control.peers import Caller, peer
from mirrord.control.requests import MAX_BODY, STATUS, condition, json_object, limit, since
from mirrord.control.service import Service
from mirrord.errors import MirrordError

log = structlog.get_logger(subsystem="api")

SERVICE = web.AppKey("service", Service)
CHANGES = web.AppKey("changes", Changes)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(service: Service, changed_by: Changes, *, read_only: bool = False) -> web.Application:
    """Every resource of the API, or what of it only reads."""
    app = web.Application(middlewares=[_errors], client_max_size=MAX_BODY)
    app[SERVICE], app[CHANGES] = service, changed_by
    for method, path, handler in RESOURCES:
        app.router.add_route(method, path, _refuse_change if read_only and method != "GET" else handler)
    return app


async def _refuse_change(request: web.Request) -> web.Response:
    raise MirrordError("method_not_allowed", f"{request.method} {request.path}: this socket only reads")


# --- the daemon ---


async def _status(request: web.Request) -> web.Response:
    store = request.app[CHANGES].store
    state = {"path": str(store.path), "problem": store.problem}
    return web.json_response({**request.app[SERVICE].status(), "state": state})


async def _reload(request: web.Request) -> web.Response:
    await request.app[CHANGES].reload(_caller(request))
    return web.json_response({"reloaded": request.app[SERVICE].path})


async def _audit(request: web.Request) -> web.Response:
    store, query = request.app[CHANGES].store, request.query
    asked = query.get("mirror"), since(query.get("since")), limit(query.get("limit"))
    rows = await asyncio.to_thread(store.audit, *asked)
    return web.json_response({"audit": rows})


async def _openapi(_: web.Request) -> web.Response:
    return web.json_response(openapi.document())


# --- objects ---


def _list(section: str) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        service = request.app[SERVICE]
        names = getattr(service.loaded.config, section)
        one = service.mirror if section == "mirrors" else lambda name: service.object(section, name)
        return web.json_response({section: [one(name) for name in names]})

    return handler


async def _sessions(request: web.Request) -> web.Response:
    mirror = request.app[SERVICE].mirror(request.match_info["mirror"])
    return web.json_response({"sessions": mirror["sessions"]})


def _get(kind: str) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        return _shown(request, _target(request, kind))

    return handler


def _put(kind: str) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        written, conditions = await json_object(request), condition(request)
        done = await request.app[CHANGES].put(_caller(request), _target(request, kind), written, conditions)
        return _shown(request, done.target, 201 if done.made else 200)

    return handler


def _patch(kind: str) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        patch, conditions = await json_object(request), condition(request)
        done = await request.app[CHANGES].patch(_caller(request), _target(request, kind), patch, conditions)
        return _shown(request, done.target)

    return handler


def _delete(kind: str) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        await request.app[CHANGES].delete(_caller(request), _target(request, kind), condition(request))
        return web.Response(status=204)

    return handler


def _enable(*, enabled: bool) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        target = _target(request, "mirror")
        await request.app[CHANGES].enable(_caller(request), target, condition(request), enabled=enabled)
        return _shown(request, target)

    return handler


async def _add_session(request: web.Request) -> web.Response:
    written = await json_object(request)
    target = Target("session", str(written.get("name", "")), request.match_info["mirror"])
    done = await request.app[CHANGES].make(_caller(request), target, written)
    return _shown(request, done.target, 201)


RESOURCES: list[tuple[str, str, Handler]] = [
    ("GET", "/v1/status", _status),
    ("POST", "/v1/reload", _reload),
    ("GET", "/v1/audit", _audit),
    ("GET", "/v1/openapi.json", _openapi),
    ("GET", "/v1/mirrors", _list("mirrors")),
    ("GET", "/v1/mirrors/{mirror}", _get("mirror")),
    ("PUT", "/v1/mirrors/{mirror}", _put("mirror")),
    ("PATCH", "/v1/mirrors/{mirror}", _patch("mirror")),
    ("DELETE", "/v1/mirrors/{mirror}", _delete("mirror")),
    ("POST", "/v1/mirrors/{mirror}/enable", _enable(enabled=True)),
    ("POST", "/v1/mirrors/{mirror}/disable", _enable(enabled=False)),
    ("GET", "/v1/mirrors/{mirror}/sessions", _sessions),
    ("POST", "/v1/mirrors/{mirror}/sessions", _add_session),
    ("GET", "/v1/mirrors/{mirror}/sessions/{session}", _get("session")),
    ("PUT", "/v1/mirrors/{mirror}/sessions/{session}", _put("session")),
    ("PATCH", "/v1/mirrors/{mirror}/sessions/{session}", _patch("session")),
    ("DELETE", "/v1/mirrors/{mirror}/sessions/{session}", _delete("session")),
    ("GET", "/v1/filters", _list("filters")),
    ("GET", "/v1/filters/{filter}", _get("filter")),
    ("PUT", "/v1/filters/{filter}", _put("filter")),
    ("DELETE", "/v1/filters/{filter}", _delete("filter")),
    ("GET", "/v1/flow_networks", _list("flow_networks")),
    ("GET", "/v1/flow_networks/{flow_network}", _get("flow_network")),
    ("PUT", "/v1/flow_networks/{flow_network}", _put("flow_network")),
    ("DELETE", "/v1/flow_networks/{flow_network}", _delete("flow_network")),
]


# --- what they share ---


def _caller(request: web.Request) -> Caller:
    assert request.transport is not None  # it is there until the request is answered
    return peer(request.transport.get_extra_info("socket").fileno())


def _target(request: web.Request, kind: str) -> Target:
    mirror = request.match_info["mirror"] if kind == "session" else ""
    return Target(kind, request.match_info[kind], mirror)


def _shown(request: web.Request, target: Target, status: int = 200) -> web.Response:
    """The object as it is now, and its entity tag. MirrordError `not_found`."""
    service = request.app[SERVICE]
    if target.section == "mirrors":
        found = service.mirror(target.holder)
    else:
        found = service.object(target.section, target.name)
    if target.kind == "session":
        origin = found["origin"]
        session = next((one for one in found["sessions"] if one["name"] == target.name), None)
        if session is None:
            raise MirrordError("not_found", f"no such session: {target.name}")
        found = {**session, "origin": origin}
    tag = changes.tag(service.loaded, target) or ""
    return web.json_response(found, status=status, headers={"ETag": tag})


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> Any:
    """Every error as JSON, with a stable code."""
    try:
        return await handler(request)
    except MirrordError as error:
        return _error(STATUS[error.code], error.code, error.message, error.path)
    except web.HTTPException as error:
        code = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}.get(error.status, "bad_request")
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return _error(error.status, code, f"{request.method} {request.path}: {error.reason}", "", headers)


def _error(status: int, code: str, message: str, path: str, headers: dict[str, str] | None = None) -> web.Response:
    error = {"code": code, "message": message, "path": path}
    return web.json_response({"error": error}, status=status, headers=headers)
