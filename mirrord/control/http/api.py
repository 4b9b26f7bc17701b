"""The control API: HTTP/JSON on a unix socket (DESIGN section 4).

A resource is one handler and one line in `RESOURCES`. Whoever may open the socket may use it: its mode and group are
the access control. The read-only socket serves GET alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from functools import partial
from typing import Any

from aiohttp import web

from mirrord.control import applying
from mirrord.control.applying import Applied
from mirrord.control.changes import Changes, Condition, Done, Outcome, tag_of
from mirrord.control.configuration.config import Loaded
from mirrord.control.http import failures
from mirrord.control.http.answers import json_response
from mirrord.control.http.events import Events
from mirrord.control.http.explain import explain
from mirrord.control.http.requests import (
    CHECKED,
    MAX_BODY,
    MAX_ORIGIN,
    STATUS,
    caller_of,
    flag,
    json_object,
    known,
    limit,
    one_of,
    period,
    since,
    tags,
    target_of,
)
from mirrord.control.http.resource import Handler, Resource
from mirrord.control.origins import Origins
from mirrord.control.running.live import Live
from mirrord.control.running.recorded import Recorded
from mirrord.control.service import Service
from mirrord.control.shown import Shown
from mirrord.control.targets import WORDS, Target
from mirrord.errors import ConfigError, MirrordError, Problem
from mirrord.model.validation import find_session, not_found

SERVICE = web.AppKey("service", Service)
SHOWN = web.AppKey("shown", Shown)
CHANGES = web.AppKey("changes", Changes)
EVENTS = web.AppKey("events", Events)
ORIGINS = web.AppKey("origins", Origins)

MIRROR = "/v1/mirrors/{mirror}"
SESSION = f"{MIRROR}/sessions/{{session}}"
FILTER, NETWORK = "/v1/filters/{filter}", "/v1/flow_networks/{flow_network}"
PUT = (200, 201)
NOTHING_MORE: Mapping[str, Any] = {}


def application(
    service: Service, shown: Shown, changed_by: Changes, origins: Origins, events: Events, *, read_only: bool = False
) -> web.Application:
    """Every resource of the API, or what of it only reads."""
    app = web.Application(middlewares=[failures.told(STATUS), known], client_max_size=MAX_BODY)
    app[SERVICE], app[SHOWN], app[CHANGES], app[ORIGINS], app[EVENTS] = service, shown, changed_by, origins, events
    for one in RESOURCES:
        if one.method == "GET":
            app.router.add_get(one.path, one.handler)  # and HEAD: RFC 9110, section 9.1
        else:
            app.router.add_route(one.method, one.path, _refuse_change if read_only else one.handler)
    for one in STREAMS:
        packets = one.path.startswith(SESSION)
        app.router.add_get(one.path, _refuse_packets if packets and read_only else one.handler, allow_head=False)
    return app


async def _refuse_change(request: web.Request) -> web.StreamResponse:
    raise MirrordError("method_not_allowed", f"{request.method} {request.path}: this socket serves GET alone")


async def _refuse_packets(request: web.Request) -> web.StreamResponse:
    raise MirrordError("read_only", f"{request.path}: this socket serves states and counters, no packets")


# --- the daemon ---


async def _status(request: web.Request) -> web.StreamResponse:
    store = request.app[CHANGES].store
    state = {"path": str(store.path), "problem": store.problem}
    origin = request.app[ORIGINS].told()
    return await json_response({**request.app[SHOWN].status(), "state": state, "cluster": origin})


async def _reload(request: web.Request) -> web.StreamResponse:
    if flag(request, "dry_run"):
        return await json_response(_came(await request.app[CHANGES].try_reload()))
    await request.app[CHANGES].reload(caller_of(request))
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
    found = await request.app[SERVICE].sources(at_once=flag(request, "at_once"))
    return await json_response({"sources": iter(found)})


async def _history(request: web.Request) -> web.StreamResponse:
    """The hour of all sessions together, or of one."""
    service, query, begin = request.app[SERVICE], request.query, since(request.query.get("since"))
    mirror, session = query.get("mirror"), query.get("session")
    if mirror is None and session is None:
        past = await asyncio.to_thread(service.history.sums, begin)
    elif mirror is None or session is None:
        raise MirrordError("bad_request", "mirror and session go together; without both, all sessions are summed up")
    else:
        find_session(service.loaded.config, mirror, session)
        past = await asyncio.to_thread(service.history.of, mirror, session, begin)
    return await json_response(past.shown())


async def _origin(request: web.Request) -> web.StreamResponse:
    return await json_response(request.app[ORIGINS].shown())


async def _put_origin(request: web.Request) -> web.StreamResponse:
    body, replace = await json_object(request.clone(client_max_size=MAX_ORIGIN)), flag(request, "replace")
    return await json_response(await request.app[ORIGINS].put(caller_of(request), body, replace=replace))


async def _check_origin(request: web.Request) -> web.StreamResponse:
    body, replace = await json_object(request.clone(client_max_size=MAX_ORIGIN)), flag(request, "replace")
    problems = list[dict[str, str]]()

    async def trying() -> Done | Applied:
        left_out, outcome = await request.app[ORIGINS].check(body, replace=replace)
        problems.extend({"code": one.code, "path": one.path, "message": one.message} for one in left_out)
        return Applied([], outcome)

    return await _checked(trying(), problems)


async def _delete_origin(request: web.Request) -> web.StreamResponse:
    await request.app[ORIGINS].delete(caller_of(request))
    return web.Response(status=204)


async def _openapi(_: web.Request) -> web.StreamResponse:
    from mirrord.control.http import openapi  # noqa: PLC0415 (0.5 MB, which few daemons are ever asked for)

    return await json_response(openapi.document([*RESOURCES, *STREAMS]))


# --- objects ---


def _list(section: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        shown, loaded = request.app[SHOWN], request.app[SERVICE].loaded
        one = shown.mirror if section == "mirrors" else partial(shown.object, section)
        return await json_response({section: (one(name, loaded) for name in getattr(loaded.config, section))})

    return handler


async def _sessions(request: web.Request) -> web.StreamResponse:
    target, loaded = target_of(request, "mirror"), request.app[SERVICE].loaded
    sessions = request.app[SHOWN].mirror(target.name, loaded)["sessions"]
    return await json_response({"sessions": sessions}, headers=await _tagged(loaded, target))


def _get(kind: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return await _shown(request, target_of(request, kind), request.app[SERVICE].loaded)

    return handler


def _put(kind: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        written, conditions = await json_object(request), condition(request)
        done = await request.app[CHANGES].put(caller_of(request), target_of(request, kind), written, conditions)
        return await _done(request, done, 201 if done.made else 200)

    return handler


def _patch(kind: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        patch, conditions = await json_object(request), condition(request)
        done = await request.app[CHANGES].patch(caller_of(request), target_of(request, kind), patch, conditions)
        return await _done(request, done)

    return handler


def _delete(kind: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        conditions = condition(request)
        done = await request.app[CHANGES].delete(caller_of(request), target_of(request, kind), conditions)
        return await _done(request, done) if conditions.dry_run else web.Response(status=204)

    return handler


def _enable(kind: str, *, enabled: bool) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        target = target_of(request, kind)
        done = await request.app[CHANGES].enable(caller_of(request), target, condition(request), enabled=enabled)
        return await _done(request, done)

    return handler


async def _add_session(request: web.Request) -> web.StreamResponse:
    return await _done(
        request, await _adding(request, await json_object(request), dry_run=flag(request, "dry_run")), 201
    )


def _adding(request: web.Request, written: Mapping[str, Any], *, dry_run: bool) -> Awaitable[Done]:
    conditions = condition(request, dry_run=dry_run)._replace(none_match=())
    target = Target("session", str(written.get("name", "")), request.match_info["mirror"])
    return request.app[CHANGES].add(caller_of(request), target, written, conditions)


def _check(kind: str) -> Handler:
    """What would come of a change, a PUT unless `change` names another; nothing is changed."""

    async def handler(request: web.Request) -> web.StreamResponse:
        target, caller, changes = target_of(request, kind), caller_of(request), request.app[CHANGES]
        only, change = condition(request, dry_run=True), one_of(request, "change", CHECKED)
        if change == "delete":
            return await _checked(changes.delete(caller, target, only))
        if change in ("enable", "disable"):
            if target.section != "mirrors":
                raise MirrordError("bad_request", f"change: a {WORDS[kind]} is not enabled or disabled")
            return await _checked(changes.enable(caller, target, only, enabled=change == "enable"))
        change_to = changes.put if change == "put" else changes.patch
        return await _checked(change_to(caller, target, await json_object(request), only))

    return handler


async def _check_session(request: web.Request) -> web.StreamResponse:
    return await _checked(_adding(request, await json_object(request), dry_run=True))


async def _check_apply(request: web.Request) -> web.StreamResponse:
    return await _checked(_applying(request, await json_object(request), dry_run=True))


async def _check_reload(request: web.Request) -> web.StreamResponse:
    async def trying() -> Applied:
        return Applied([], await request.app[CHANGES].try_reload())

    return await _checked(trying())


async def _checked(trying: Awaitable[Done | Applied], left_out: Iterable[dict[str, str]] = ()) -> web.StreamResponse:
    """What would come of it: every problem, or else what is doubtful and what it would do to sessions; and what would
    be `left_out`, which is known afterwards.
    """
    problems, outcome = list[dict[str, str]](), Outcome()
    try:
        outcome = (await trying).outcome
    except ConfigError as error:
        problems = [{"code": error.code, "path": one.path, "message": one.expectation} for one in error.problems]
    except MirrordError as error:
        if STATUS[error.code] >= STATUS["internal"]:  # nobody's wish is wrong
            raise
        problems = [{"code": error.code, "path": error.path, "message": error.message}]
    return await json_response({"problems": [*problems, *left_out], **_came(outcome)})


async def _explain(request: web.Request) -> web.StreamResponse:
    filters, name = request.app[SERVICE].loaded.config.filters, request.match_info["filter"]
    if name not in filters:
        raise not_found("filter", name, filters)
    return await json_response(await asyncio.to_thread(explain, filters[name], await json_object(request)))


async def _apply(request: web.Request) -> web.StreamResponse:
    applied = await _applying(request, await json_object(request), dry_run=(dry_run := flag(request, "dry_run")))
    each = [{"kind": one.kind, "name": one.name, "operation": operation} for one, operation in applied.operations]
    told = _came(applied.outcome) if dry_run else {"warnings": _told(applied.outcome.warnings)}
    return await json_response({"objects": each, **told})


def _applying(request: web.Request, objects: Mapping[str, Any], *, dry_run: bool) -> Awaitable[Applied]:
    service, store = request.app[SERVICE], request.app[CHANGES].store
    return applying.apply(service, store, caller_of(request), objects, prune=flag(request, "prune"), dry_run=dry_run)


RESOURCES = [
    Resource("GET", "/v1/status", _status, "The daemon and every session.", "Status"),
    Resource("GET", "/v1/origins/cluster", _origin, "What a cluster wants of this host, and what it took.", "Origin"),
    Resource(
        "PUT", "/v1/origins/cluster", _put_origin, "Run this of a cluster's, and nothing else.", "Origin", "Wanted"
    ),
    Resource("POST", "/v1/origins/cluster/check", _check_origin, "What would come of it.", "Check", "Wanted"),
    Resource("DELETE", "/v1/origins/cluster", _delete_origin, "Run nothing of a cluster's any more.", statuses=(204,)),
    Resource("POST", "/v1/reload", _reload, "Take over the files as they are now."),
    Resource("POST", "/v1/reload/check", _check_reload, "What would come of a reload.", "Check"),
    Resource("POST", "/v1/apply/check", _check_apply, "What would come of it.", "Check", "Objects"),
    Resource("POST", "/v1/apply", _apply, "Make run-time objects as these: all or none.", "Applied", "Objects"),
    Resource("GET", "/v1/audit", _audit, "Who did what; oldest first.", "AuditRecord[]"),
    Resource("GET", "/v1/doctor", _doctor, "What is wrong, and what to do; errors first.", "Finding[]"),
    Resource("GET", "/v1/sources", _sources, "What could be mirrored, and who mirrors it now.", "MirrorSource[]"),
    Resource("GET", "/v1/history", _history, "The last hour, of all sessions together or of one.", "History"),
    Resource("GET", "/v1/openapi.json", _openapi, "This description."),
    Resource("GET", "/v1/mirrors", _list("mirrors"), "Every mirror.", "Mirror[]"),
    Resource("GET", MIRROR, _get("mirror"), "One mirror.", "Mirror"),
    Resource("PUT", MIRROR, _put("mirror"), "Make or replace a mirror.", "Mirror", "Mirror", PUT),
    Resource("PATCH", MIRROR, _patch("mirror"), "Change a mirror; `name` renames.", "Mirror", "MirrorPatch"),
    Resource("DELETE", MIRROR, _delete("mirror"), "Delete a mirror.", statuses=(204,)),
    Resource("POST", f"{MIRROR}/check", _check("mirror"), "What would come of a change.", "Check", "Mirror"),
    Resource("POST", f"{MIRROR}/enable", _enable("mirror", enabled=True), "Enable a mirror.", "Mirror"),
    Resource("POST", f"{MIRROR}/disable", _enable("mirror", enabled=False), "Disable a mirror.", "Mirror"),
    Resource("GET", f"{MIRROR}/sessions", _sessions, "A mirror's sessions.", "Session[]"),
    Resource("POST", f"{MIRROR}/sessions", _add_session, "Add a session.", "Session", "Session", (201,)),
    Resource("POST", f"{MIRROR}/sessions/check", _check_session, "What would come of adding it.", "Check", "Session"),
    Resource("GET", SESSION, _get("session"), "One session.", "Session"),
    Resource("PUT", SESSION, _put("session"), "Make or replace a session.", "Session", "Session", PUT),
    Resource("PATCH", SESSION, _patch("session"), "Change a session; `name` renames.", "Session", "SessionPatch"),
    Resource("DELETE", SESSION, _delete("session"), "Delete a session.", statuses=(204,)),
    Resource("POST", f"{SESSION}/check", _check("session"), "What would come of a change.", "Check", "Session"),
    Resource("POST", f"{SESSION}/enable", _enable("session", enabled=True), "Enable a session.", "Session"),
    Resource("POST", f"{SESSION}/disable", _enable("session", enabled=False), "Disable a session.", "Session"),
    Resource("GET", "/v1/filters", _list("filters"), "Every filter.", "Filter[]"),
    Resource("GET", FILTER, _get("filter"), "One filter.", "Filter"),
    Resource("PUT", FILTER, _put("filter"), "Make or replace a filter.", "Filter", "Filter", PUT),
    Resource("PATCH", FILTER, _patch("filter"), "Change a filter; `name` renames.", "Filter", "FilterPatch"),
    Resource("POST", f"{FILTER}/check", _check("filter"), "What would come of a change.", "Check", "Filter"),
    Resource("POST", f"{FILTER}/explain", _explain, "Which rule takes a packet.", "Explanation", "Packets"),
    Resource("DELETE", FILTER, _delete("filter"), "Delete a filter that nothing uses.", statuses=(204,)),
    Resource("GET", "/v1/flow_networks", _list("flow_networks"), "Every flow network.", "FlowNetwork[]"),
    Resource("GET", NETWORK, _get("flow_network"), "One flow network.", "FlowNetwork"),
    Resource(
        "PUT", NETWORK, _put("flow_network"), "Make or replace a flow network.", "FlowNetwork", "FlowNetwork", PUT
    ),
    Resource(
        "PATCH", NETWORK, _patch("flow_network"), "Change one; `name` renames.", "FlowNetwork", "FlowNetworkPatch"
    ),
    Resource(
        "POST", f"{NETWORK}/check", _check("flow_network"), "What would come of a change.", "Check", "FlowNetwork"
    ),
    Resource("DELETE", NETWORK, _delete("flow_network"), "Delete a flow network that nothing uses.", statuses=(204,)),
]


# --- what has no end ---


async def _events(request: web.Request) -> web.StreamResponse:
    return await request.app[EVENTS].answer(request)


async def _capture(request: web.Request) -> web.StreamResponse:
    """A live pcapng, until its reader goes; with `last` what was kept of that time, and from there on with `follow`."""
    service, query = request.app[SERVICE], request.query
    of = request.match_info["mirror"], request.match_info["session"], query.get("source")
    follow, last = flag(request, "follow"), period(query.get("last"), "last")
    live: Live | Recorded
    if last is None:
        if follow:
            raise MirrordError("bad_request", "follow: goes with last; without it a capture is live")
        live = await service.live(*of)
    else:
        live = await service.recorded(*of, last, follow=follow)
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


STREAMS = [
    Resource("GET", "/v1/events", _events, "What happens, as it happens.", "text/event-stream"),
    Resource("GET", f"{SESSION}/capture", _capture, "What a session mirrors.", "application/x-pcapng"),
]
"""Until the client goes. What is of a session has packets in it."""


# --- what they share ---


def condition(request: web.Request, *, dry_run: bool | None = None) -> Condition:
    """If-Match and If-None-Match, and `dry_run`, of the query if not given. MirrordError: it is no tags, or no flag."""
    only = flag(request, "dry_run") if dry_run is None else dry_run
    return Condition(tags(request, "If-Match"), tags(request, "If-None-Match"), only)


async def _done(request: web.Request, done: Done, status: int = 200) -> web.StreamResponse:
    """The object as it is now, with what is doubtful about it; of a dry run only that."""
    if flag(request, "dry_run"):
        return await json_response(_came(done.outcome))
    warnings = _told(done.outcome.warnings)
    return await _shown(request, done.target, done.loaded, status, {"warnings": warnings} if warnings else {})


def _came(outcome: Outcome) -> dict[str, Any]:
    """What would come of a change."""
    return {"warnings": _told(outcome.warnings), "sessions": [one._asdict() for one in outcome.effects]}


def _told(warnings: Iterable[Problem]) -> list[dict[str, str]]:
    return [{"path": one.path, "message": one.expectation} for one in warnings]


async def _shown(
    request: web.Request, target: Target, loaded: Loaded, status: int = 200, more: Mapping[str, Any] = NOTHING_MORE
) -> web.StreamResponse:
    """An object of a configuration, and its entity tag. MirrordError `not_found`."""
    shown = request.app[SHOWN]
    if target.kind == "session":
        found = shown.session(target.mirror, target.name, loaded)
    elif target.kind == "mirror":
        found = shown.mirror(target.name, loaded)
    else:
        found = shown.object(target.section, target.name, loaded)
    return await json_response({**found, **more}, status=status, headers=await _tagged(loaded, target))


async def _tagged(loaded: Loaded, target: Target) -> dict[str, str]:
    return {"ETag": await asyncio.to_thread(tag_of, loaded, target) or ""}
