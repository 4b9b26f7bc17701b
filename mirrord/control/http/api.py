"""The control API: HTTP/JSON on a unix socket (DESIGN section 4).

A resource is one handler and one line in `RESOURCES`. Whoever may open the socket may use it: its mode and group are
the access control. The read-only socket serves GET alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from aiohttp import web

from mirrord.control.changes import Changes, Condition, Target, tag_of
from mirrord.control.configuration.config import Loaded
from mirrord.control.http import openapi
from mirrord.control.http.answers import json_response
from mirrord.control.http.openapi import Resource
from mirrord.control.http.peers import Caller, peer
from mirrord.control.http.requests import MAX_BODY, STATUS, condition, json_object, limit, since
from mirrord.control.logs import logger
from mirrord.control.service import Service
from mirrord.errors import MirrordError, of_host

log = logger("api")

SERVICE = web.AppKey("service", Service)
CHANGES = web.AppKey("changes", Changes)

MIRROR = "/v1/mirrors/{mirror}"
SESSION = f"{MIRROR}/sessions/{{session}}"
FILTER, NETWORK = "/v1/filters/{filter}", "/v1/flow_networks/{flow_network}"
PUT = (200, 201)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(service: Service, changed_by: Changes, *, read_only: bool = False) -> web.Application:
    """Every resource of the API, or what of it only reads."""
    app = web.Application(middlewares=[_errors], client_max_size=MAX_BODY)
    app[SERVICE], app[CHANGES] = service, changed_by
    for one in RESOURCES:
        if one.method == "GET":
            app.router.add_get(one.path, one.handler)  # and HEAD: RFC 9110, section 9.1
        else:
            app.router.add_route(one.method, one.path, _refuse_change if read_only else one.handler)
    app.router.add_get(f"{SESSION}/capture", _capture, allow_head=False)
    return app


async def _refuse_change(request: web.Request) -> web.StreamResponse:
    raise MirrordError("method_not_allowed", f"{request.method} {request.path}: this socket serves GET alone")


# --- the daemon ---


async def _status(request: web.Request) -> web.StreamResponse:
    store = request.app[CHANGES].store
    state = {"path": str(store.path), "problem": store.problem}
    return await json_response({**request.app[SERVICE].status(), "state": state})


async def _reload(request: web.Request) -> web.StreamResponse:
    await request.app[CHANGES].reload(_caller(request))
    return await json_response({"reloaded": request.app[SERVICE].path})


async def _audit(request: web.Request) -> web.StreamResponse:
    store, query = request.app[CHANGES].store, request.query
    asked = query.get("mirror"), since(query.get("since")), limit(query.get("limit"))
    rows = store.audit_rows(await asyncio.to_thread(store.audit_ids, *asked))
    return await json_response({"audit": rows})


async def _doctor(request: web.Request) -> web.StreamResponse:
    found = await request.app[SERVICE].doctor(request.query.get("mirror"), request.app[CHANGES].store.problem)
    return await json_response({"doctor": (one._asdict() for one in found)})


async def _sources(request: web.Request) -> web.StreamResponse:
    return await json_response({"sources": iter(await request.app[SERVICE].sources())})


async def _openapi(_: web.Request) -> web.StreamResponse:
    return await json_response(openapi.document(RESOURCES))


# --- objects ---


def _list(section: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        service = request.app[SERVICE]
        loaded = service.loaded
        one = service.mirror if section == "mirrors" else partial(service.object, section)
        return await json_response({section: (one(name, loaded) for name in getattr(loaded.config, section))})

    return handler


async def _sessions(request: web.Request) -> web.StreamResponse:
    service, target = request.app[SERVICE], _target(request, "mirror")
    loaded = service.loaded
    sessions = service.mirror(target.name, loaded)["sessions"]
    return await json_response({"sessions": sessions}, headers=await _tagged(loaded, target))


def _get(kind: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return await _shown(request, _target(request, kind), request.app[SERVICE].loaded)

    return handler


def _put(kind: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        written, conditions = await json_object(request), condition(request)
        done = await request.app[CHANGES].put(_caller(request), _target(request, kind), written, conditions)
        return await _shown(request, done.target, done.loaded, 201 if done.made else 200)

    return handler


def _patch(kind: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        patch, conditions = await json_object(request), condition(request)
        done = await request.app[CHANGES].patch(_caller(request), _target(request, kind), patch, conditions)
        return await _shown(request, done.target, done.loaded)

    return handler


def _delete(kind: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        await request.app[CHANGES].delete(_caller(request), _target(request, kind), condition(request))
        return web.Response(status=204)

    return handler


def _enable(*, enabled: bool) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        target = _target(request, "mirror")
        done = await request.app[CHANGES].enable(_caller(request), target, condition(request), enabled=enabled)
        return await _shown(request, done.target, done.loaded)

    return handler


async def _add_session(request: web.Request) -> web.StreamResponse:
    written, match = await json_object(request), condition(request).match
    target = Target("session", str(written.get("name", "")), request.match_info["mirror"])
    done = await request.app[CHANGES].add(_caller(request), target, written, Condition(match))
    return await _shown(request, done.target, done.loaded, 201)


RESOURCES = [
    Resource("GET", "/v1/status", _status, "The daemon and every session.", "Status"),
    Resource("POST", "/v1/reload", _reload, "Take over the files as they are now."),
    Resource("GET", "/v1/audit", _audit, "Who did what; oldest first.", "AuditRecord[]"),
    Resource("GET", "/v1/doctor", _doctor, "What is wrong, and what to do; errors first.", "Finding[]"),
    Resource("GET", "/v1/sources", _sources, "What could be mirrored, and who mirrors it now.", "MirrorSource[]"),
    Resource("GET", "/v1/openapi.json", _openapi, "This description."),
    Resource("GET", "/v1/mirrors", _list("mirrors"), "Every mirror.", "Mirror[]"),
    Resource("GET", MIRROR, _get("mirror"), "One mirror.", "Mirror"),
    Resource("PUT", MIRROR, _put("mirror"), "Make or replace a mirror.", "Mirror", "Mirror", PUT),
    Resource("PATCH", MIRROR, _patch("mirror"), "Change a mirror; `name` renames.", "Mirror", "MirrorPatch"),
    Resource("DELETE", MIRROR, _delete("mirror"), "Delete a mirror.", statuses=(204,)),
    Resource("POST", f"{MIRROR}/enable", _enable(enabled=True), "Enable a mirror.", "Mirror"),
    Resource("POST", f"{MIRROR}/disable", _enable(enabled=False), "Disable a mirror.", "Mirror"),
    Resource("GET", f"{MIRROR}/sessions", _sessions, "A mirror's sessions.", "Session[]"),
    Resource("POST", f"{MIRROR}/sessions", _add_session, "Add a session.", "Session", "Session", (201,)),
    Resource("GET", SESSION, _get("session"), "One session.", "Session"),
    Resource("PUT", SESSION, _put("session"), "Make or replace a session.", "Session", "Session", PUT),
    Resource("PATCH", SESSION, _patch("session"), "Change a session; `name` renames.", "Session", "SessionPatch"),
    Resource("DELETE", SESSION, _delete("session"), "Delete a session.", statuses=(204,)),
    Resource("GET", "/v1/filters", _list("filters"), "Every filter.", "Filter[]"),
    Resource("GET", FILTER, _get("filter"), "One filter.", "Filter"),
    Resource("PUT", FILTER, _put("filter"), "Make or replace a filter.", "Filter", "Filter", PUT),
    Resource("DELETE", FILTER, _delete("filter"), "Delete a filter that nothing uses.", statuses=(204,)),
    Resource("GET", "/v1/flow_networks", _list("flow_networks"), "Every flow network.", "FlowNetwork[]"),
    Resource("GET", NETWORK, _get("flow_network"), "One flow network.", "FlowNetwork"),
    Resource(
        "PUT", NETWORK, _put("flow_network"), "Make or replace a flow network.", "FlowNetwork", "FlowNetwork", PUT
    ),
    Resource("DELETE", NETWORK, _delete("flow_network"), "Delete a flow network that nothing uses.", statuses=(204,)),
]


# --- what is no JSON ---


async def _capture(request: web.Request) -> web.StreamResponse:
    """A live pcapng, until its reader goes."""
    names = request.match_info
    live = await request.app[SERVICE].live(names["mirror"], names["session"], request.query.get("source"))
    try:
        response = web.StreamResponse(headers={"Content-Type": "application/x-pcapng"})
        await response.prepare(request)
        async for chunk in live.read(lambda: request.transport is None or request.transport.is_closing()):
            await response.write(chunk)
    except ConnectionError:
        pass  # the reader went and had not read all
    finally:
        await asyncio.shield(asyncio.to_thread(live.close))
    return response


# --- what they share ---


def _caller(request: web.Request) -> Caller:
    assert request.transport is not None  # it is there until the request is answered
    return peer(request.transport.get_extra_info("socket").fileno())


def _target(request: web.Request, kind: str) -> Target:
    mirror = request.match_info["mirror"] if kind == "session" else ""
    return Target(kind, request.match_info[kind], mirror)


async def _shown(request: web.Request, target: Target, loaded: Loaded, status: int = 200) -> web.StreamResponse:
    """An object of a configuration, and its entity tag. MirrordError `not_found`."""
    service = request.app[SERVICE]
    if target.kind == "session":
        found = service.session(target.mirror, target.name, loaded)
    elif target.kind == "mirror":
        found = service.mirror(target.name, loaded)
    else:
        found = service.object(target.section, target.name, loaded)
    return await json_response(found, status=status, headers=await _tagged(loaded, target))


async def _tagged(loaded: Loaded, target: Target) -> dict[str, str]:
    return {"ETag": await asyncio.to_thread(tag_of, loaded, target) or ""}


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
    except Exception as error:
        host = of_host(error)
        if host is not None:
            log.error("cannot answer", method=request.method, path=request.path, reason=host.message)  # noqa: TRY400 (no bug)
            return _error(STATUS[host.code], host.code, host.message, "")
        log.exception("a bug", method=request.method, path=request.path)
        return _error(STATUS["internal"], "internal", "a bug in mirrord: its log tells more", "")


def _error(
    status: int, code: str, message: str, path: str, headers: dict[str, str] | None = None
) -> web.StreamResponse:
    error = {"code": code, "message": message, "path": path}
    return web.json_response({"error": error}, status=status, headers=headers)
