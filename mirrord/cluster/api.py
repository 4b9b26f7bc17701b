"""The API of a whole cluster, at any of its agents: HTTP/JSON on a unix socket, with the daemon's own resources.

Whoever may open the socket may use it; what this host's user may write in the store is the store's to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from aiohttp import web

from mirrord.cluster import audit
from mirrord.cluster.agent import Agent
from mirrord.cluster.changes import Changes, Condition, Done, tag_of, written
from mirrord.cluster.hosts import Hosts
from mirrord.cluster.objects import shown
from mirrord.cluster.validate import Objects
from mirrord.control.http import failures
from mirrord.control.http.answers import json_response
from mirrord.control.http.requests import (
    MAX_BODY,
    STATUS,
    caller_of,
    flag,
    json_object,
    known,
    limit,
    since,
    tags,
    target_of,
)
from mirrord.control.targets import Target
from mirrord.errors import MirrordError, Problem
from mirrord.model.validation import not_found

STATUSES: Mapping[str, int] = {
    **STATUS,
    "forbidden": 403,
    "no_address": 409,
    "store_refused": 502,
    "store_unreachable": 503,
    "no_cluster": 503,
    "other_cluster": 503,
    "compacted": 503,
    "token": 503,
    "lease_gone": 503,
    "store_full": 507,
}

AGENT = web.AppKey("agent", Agent)
CHANGES = web.AppKey("changes", Changes)
HOSTS = web.AppKey("hosts", Hosts)

MIRROR = "/v1/mirrors/{mirror}"
SESSION = f"{MIRROR}/sessions/{{session}}"
PATHS = {"mirror": MIRROR, "session": SESSION, "filter": "/v1/filters/{filter}"}
PATHS["flow_network"] = "/v1/flow_networks/{flow_network}"


def application(agent: Agent) -> web.Application:
    """Every resource."""
    app = web.Application(middlewares=[failures.told(STATUSES), known], client_max_size=MAX_BODY)
    app[AGENT] = agent
    app[CHANGES] = Changes(agent.etcd, agent.keys, agent.replica, agent.settings.host)
    app[HOSTS] = Hosts(agent)
    route = app.router.add_route
    route("GET", "/v1/status", _status)
    route("GET", "/v1/hosts", _hosts)
    route("DELETE", "/v1/hosts/{host}", _forget)
    route("GET", "/v1/audit", _audit)
    route("GET", "/v1/openapi.json", _openapi)
    route("POST", "/v1/apply", _apply)
    for section in ("mirrors", "filters", "flow_networks"):
        route("GET", f"/v1/{section}", partial(_list, section))
    route("GET", f"{MIRROR}/sessions", _sessions)
    route("POST", f"{MIRROR}/sessions", _add)
    for kind, path in PATHS.items():
        route("GET", path, partial(_get, kind))
        route("PUT", path, partial(_put, kind))
        route("PATCH", path, partial(_patch, kind))
        route("DELETE", path, partial(_delete, kind))
    for kind in ("mirror", "session"):
        for word, enabled in (("enable", True), ("disable", False)):
            route("POST", f"{PATHS[kind]}/{word}", partial(_enable, kind, enabled))
    return app


# --- the cluster ---


async def _status(request: web.Request) -> web.StreamResponse:
    return await json_response(await request.app[HOSTS].status())


async def _hosts(request: web.Request) -> web.StreamResponse:
    return await json_response({"hosts": (await request.app[HOSTS].look()).as_json()})


async def _forget(request: web.Request) -> web.StreamResponse:
    host = request.match_info["host"]
    await request.app[HOSTS].forget(caller_of(request), host, dry_run=flag(request, "dry_run"))
    return await json_response({"warnings": []}) if flag(request, "dry_run") else web.Response(status=204)


async def _audit(request: web.Request) -> web.StreamResponse:
    agent, query = request.app[AGENT], request.query
    asked = query.get("mirror"), since(query.get("since")), limit(query.get("limit"))
    return await json_response({"audit": await audit.rows(agent.etcd, agent.keys, *asked)})


async def _openapi(request: web.Request) -> web.StreamResponse:
    from mirrord.cluster import description  # noqa: PLC0415 (the daemon's, too, and what that imports: 3 MB)

    return web.json_response(description.document(request.app.router.resources()))


# --- objects ---


async def _list(section: str, request: web.Request) -> web.StreamResponse:
    agent, running = request.app[AGENT], await request.app[HOSTS].running()
    kind = {"mirrors": "mirror", "filters": "filter", "flow_networks": "flow_network"}[section]
    objects = _known(agent)
    found = await asyncio.to_thread(lambda: [shown(objects, Target(kind, name), running) for name in objects[section]])
    return await json_response({section: found})


async def _sessions(request: web.Request) -> web.StreamResponse:
    target = Target("mirror", request.match_info["mirror"])
    running = await request.app[HOSTS].running()
    found = await asyncio.to_thread(shown, _known(request.app[AGENT]), target, running)
    return await json_response({"sessions": found["sessions"]})


async def _get(kind: str, request: web.Request) -> web.StreamResponse:
    return await _shown(request, target_of(request, kind), _known(request.app[AGENT]))


async def _put(kind: str, request: web.Request) -> web.StreamResponse:
    said, conditions = await json_object(request), _condition(request)
    done = await request.app[CHANGES].put(caller_of(request), target_of(request, kind), said, conditions)
    return await _done(request, done, 201 if done.made else 200)


async def _add(request: web.Request) -> web.StreamResponse:
    said, conditions = await json_object(request), _condition(request)._replace(none_match=())
    target = Target("session", str(said.get("name", "")), request.match_info["mirror"])
    return await _done(request, await request.app[CHANGES].add(caller_of(request), target, said, conditions), 201)


async def _patch(kind: str, request: web.Request) -> web.StreamResponse:
    patch, conditions = await json_object(request), _condition(request)
    done = await request.app[CHANGES].patch(caller_of(request), target_of(request, kind), patch, conditions)
    return await _done(request, done)


async def _delete(kind: str, request: web.Request) -> web.StreamResponse:
    conditions = _condition(request)
    done = await request.app[CHANGES].delete(caller_of(request), target_of(request, kind), conditions)
    if conditions.dry_run:
        return await json_response({"warnings": _told(done.warnings)})
    return web.Response(status=204, headers=_revision(done))


async def _enable(kind: str, enabled: bool, request: web.Request) -> web.StreamResponse:
    target = target_of(request, kind)
    done = await request.app[CHANGES].enable(caller_of(request), target, _condition(request), enabled=enabled)
    return await _done(request, done)


async def _apply(request: web.Request) -> web.StreamResponse:
    said, dry_run = await json_object(request), flag(request, "dry_run")
    prune = flag(request, "prune")
    done, operations = await request.app[CHANGES].apply(caller_of(request), said, prune=prune, dry_run=dry_run)
    each = [{"kind": one.kind, "name": one.name, "operation": operation} for one, operation in operations]
    return await json_response({"objects": each, "warnings": _told(done.warnings)}, headers=_revision(done))


# --- what they share ---


def _known(agent: Agent) -> Objects:
    """What the cluster has, as far as this host knows. MirrordError: nothing yet."""
    if not agent.replica.cluster_id:
        raise MirrordError("no_cluster", agent.link.problem)
    return agent.replica.snapshot.written


def _condition(request: web.Request) -> Condition:
    return Condition(tags(request, "If-Match"), tags(request, "If-None-Match"), flag(request, "dry_run"))


def _told(warnings: Iterable[Problem]) -> list[dict[str, str]]:
    return [{"path": one.path, "message": one.expectation} for one in warnings]


def _revision(done: Done) -> dict[str, str]:
    """For who waits until every host has it."""
    return {"Mirrord-Revision": str(done.revision)}


async def _done(request: web.Request, done: Done, status: int = 200) -> web.StreamResponse:
    told = {"warnings": _told(done.warnings)}
    if flag(request, "dry_run"):
        return await json_response(told)
    more = told if done.warnings else {}
    return await _shown(request, done.target, done.objects, status, more, _revision(done))


async def _shown(
    request: web.Request,
    target: Target,
    objects: Objects,
    status: int = 200,
    more: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    one = written(objects, target)
    if one is None:
        raise not_found(target.kind.replace("_", " "), target.name, objects[target.section])
    running = await request.app[HOSTS].running()
    found, tag = await asyncio.to_thread(lambda: (shown(objects, target, running), tag_of(one)))
    return await json_response({**found, **(more or {})}, status=status, headers={"ETag": tag, **(headers or {})})
