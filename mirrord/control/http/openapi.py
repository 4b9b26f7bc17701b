"""The API's description, OpenAPI 3.1, made of its table of resources and of the models."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, get_type_hints

from pydantic.json_schema import models_json_schema

from mirrord import __version__
from mirrord.control.callers import Caller
from mirrord.control.http.requests import CHECKED, MAX_ROWS, STATUS
from mirrord.control.http.resource import Resource, changes, queries
from mirrord.control.planning.effects import EFFECTS, Effect
from mirrord.control.planning.finding import ERROR, WARNING, Finding
from mirrord.control.reporting.sources import ShownGuest, ShownSource
from mirrord.control.store import AuditRecord
from mirrord.dataplane.counters import DROPPED
from mirrord.model import Filter, FlowNetwork, Mirror, Session

TEXT = {"type": "string"}
KINDS = ["mirror", "session", "filter", "flow_network", "daemon"]
OPERATIONS = ["create", "replace", "change", "rename", "enable", "disable", "delete", "reload", "apply"]
ORIGIN = {
    "description": "Where the object is defined: in a file, which only reads, in the cluster, or at run time.",
    "type": "object",
    "properties": {"file": TEXT, "cluster": {"const": True}, "state": {"const": True}},
    "readOnly": True,
}
IN_USE = {"mirror": TEXT, "address": TEXT, "reason": TEXT}
"""Of a flow network: by whom, and the address that was taken, or why there is none."""
CONDITIONS = ("If-Match", "If-None-Match")
QUERY: dict[str, dict[str, Any]] = {
    "mirror": TEXT,
    "since": {"type": "string", "description": "A time of RFC 3339, or seconds of the epoch."},
    "limit": {"type": "integer", "minimum": 1, "maximum": MAX_ROWS, "default": 1000},
    "prune": {"type": "boolean", "default": False, "description": "Delete the run-time objects that are not named."},
    "dry_run": {
        "type": "boolean",
        "default": False,
        "description": "Change nothing: refuse what would be refused, or answer with what is doubtful.",
    },
    "change": {
        "enum": list(CHECKED),
        "default": CHECKED[0],
        "description": "The change that is meant. The body is as of that; to delete, enable and disable take none.",
    },
    "replace": {
        "type": "boolean",
        "default": False,
        "description": "Also of an older generation than what runs, or of another cluster.",
    },
    "session": TEXT,
    "source": {"type": "string", "description": "Which of its devices, if it has several."},
    "last": {"type": "string", "description": "What was kept of this time, such as 30s, and no more."},
    "follow": {"type": "boolean", "default": False, "description": "With `last`: what comes after it, too."},
    "at_once": {
        "type": "boolean",
        "default": False,
        "description": "Leave out the rates, and the guests of managers that take more than 30 ms to answer.",
    },
}

STREAMED = {
    "/v1/events": "Server-sent events. `state`: mirror, session, source, state, reason; all at first, up to `ready`,"
    " and then what changes, `gone` at last. `objects`: some have changed. `audit`: a row of the audit log without"
    " `old` and `new`. `counters`, each second: what all do together, and of each session and source that did something"
    " its mirror, name, source, frames and bits a second.",
}


def document(resources: Iterable[Resource]) -> dict[str, Any]:
    """The description of these resources."""
    paths: dict[str, dict[str, Any]] = {}
    for one in resources:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {"title": "mirrord", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {"schemas": schemas()},
    }


def _operation(one: Resource) -> dict[str, Any]:
    named = re.findall(r"{(\w+)}", one.path)
    parameters = [{"name": name, "in": "path", "required": True, "schema": TEXT} for name in named]
    parameters += [{"name": name, "in": "query", "schema": QUERY[name]} for name in queries(one.method, one.path)]
    if changes(one.method, one.path):
        adds = one.path.removesuffix("/check").endswith("/sessions")
        conditions = CONDITIONS[:1] if adds else CONDITIONS  # the first: of the mirror
        parameters += [{"name": name, "in": "header", "schema": TEXT} for name in conditions]
    operation: dict[str, Any] = {
        "summary": one.summary,
        "parameters": parameters,
        "responses": {
            **{str(status): _answer(one) for status in one.statuses},
            "default": {"description": "What is wrong, by a stable code.", "content": _json(_reference("Error"))},
        },
    }
    if one.takes:
        may_take_none = one.path.endswith("}/check")
        operation["requestBody"] = {"required": not may_take_none, "content": _json(_reference(one.takes))}
    return operation


def _answer(one: Resource) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": "Done."}
    if one.gives.endswith("[]"):
        word = one.path.rpartition("/")[2]
        items = {"type": "array", "items": _reference(one.gives.removesuffix("[]"))}
        answer["content"] = _json({"type": "object", "properties": {word: items}, "required": [word]})
    elif "/" in one.gives:
        answer["content"] = {one.gives: {"schema": TEXT}}
        answer["description"] = STREAMED.get(one.path, "Until the client goes.")
    elif one.gives:
        answer["content"] = _json(_reference(one.gives))
    return answer


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def schemas() -> dict[str, Any]:
    """Every object that goes in or out, by name."""
    models = [(model, "validation") for model in (Mirror, Session, Filter, FlowNetwork)]
    found: dict[str, Any] = models_json_schema(models, ref_template="#/components/schemas/{model}")[1]["$defs"]  # type: ignore[arg-type]
    for name in ("Mirror", "Filter", "FlowNetwork"):
        found[name]["properties"] |= {"name": TEXT}
    for name in ("Mirror", "Filter", "FlowNetwork", "Session"):
        found[name]["properties"] |= {"origin": ORIGIN}
    for schema in found.values():
        if schema["properties"].get("type", {}).get("const", "device") != "device":
            # it tells one source, or destination, from another
            schema["required"] = ["type", *schema.get("required", ())]
    running = {"type": "array", "items": {"type": "object"}, "readOnly": True}
    found["Session"]["properties"] |= {"running": running}
    found["Mirror"]["properties"] |= {"expired": {"type": "boolean", "readOnly": True}}
    found["FlowNetwork"]["properties"] |= {"in_use": {"anyOf": [_object(IN_USE), {"type": "null"}], "readOnly": True}}
    warnings = {"type": "array", "items": _warning(), "readOnly": True}
    for name in ("Mirror", "Filter", "FlowNetwork", "Session"):
        found[name]["properties"] |= {"warnings": warnings}
        found[f"{name}Patch"] = _patch(found[name])
    return found | {
        "Error": _error(),
        "AuditRecord": _audit_record(),
        "Finding": _finding(),
        "MirrorSource": _source(),
        "Status": {"type": "object"},
        "History": _history(),
        "Check": _object(
            {
                "problems": {"type": "array", "items": _object(_problem())},
                "warnings": warnings,
                "sessions": {"type": "array", "items": _object(_of(Effect, effect=_effect()))},
            }
        ),
        "Objects": _objects(),
        "Packets": _packets(),
        "Explanation": _explanation(),
        "Wanted": _wanted(),
        "Origin": _object({**_GENERATION, "objects": {"type": "array", "items": {"type": "object"}}}),
        "Applied": _object({"objects": {"type": "array", "items": _object(_applied())}, "warnings": warnings}),
    }


def _history() -> dict[str, Any]:
    """Of each step: lists of as many numbers as there are times."""
    numbers = {"type": "array", "items": {"type": "number"}}
    return _object(
        {
            "step_seconds": {"type": "integer", "description": "1 for all sessions together, 10 for one."},
            "left_out": {"type": "boolean", "description": "There was no room for the history of this session."},
            "times": numbers | {"description": "When each step ended, in seconds since 1970."},
            "frames_per_second": numbers | {"description": "Mirrored."},
            "bits_per_second": numbers | {"description": "Sent."},
            "ring_fill": numbers | {"description": "The largest share of a ring that waited to be read."},
            "latency_seconds": numbers | {"description": "The mean time from capture to send."},
            "dropped_per_second": _object(dict.fromkeys(DROPPED, numbers)),
        }
    )


def _patch(schema: dict[str, Any]) -> dict[str, Any]:
    """Any of the keys; null for the default (RFC 7396)."""
    properties = {key: {"anyOf": [value, {"type": "null"}]} for key, value in schema["properties"].items()}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _error() -> dict[str, Any]:
    keys = {"code": {"enum": sorted(STATUS)}, "message": TEXT, "path": TEXT}
    return _object({"error": _object(keys)})


_JSON: dict[Any, dict[str, Any]] = {
    str: TEXT,
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    list[str]: {"type": "array", "items": TEXT},
    dict[str, str]: {"type": "object", "additionalProperties": TEXT},
    Any: {"type": ["object", "null"]},
}


def _of(what: type, /, **narrower: dict[str, Any]) -> dict[str, Any]:
    """What the fields of a type are in JSON; `narrower`: of those of which more is known."""
    return {name: narrower.get(name) or _JSON[hint] for name, hint in get_type_hints(what).items()}


def _audit_record() -> dict[str, Any]:
    """Who did it in place of the caller."""
    done = _of(
        AuditRecord,
        caller=TEXT,
        operation={"enum": OPERATIONS},
        kind={"enum": KINDS},
        result={"enum": ["done", "refused"]},
    )
    del done["caller"]
    return _object({"time": {"type": "string", "format": "date-time"}} | _of(Caller) | done)


def _source() -> dict[str, Any]:
    return _object(_of(ShownSource, guest={"anyOf": [_object(_of(ShownGuest)), {"type": "null"}]}))


def _finding() -> dict[str, Any]:
    return _object(_of(Finding, severity={"enum": [ERROR, WARNING]}))


def _warning() -> dict[str, Any]:
    return _object({"path": TEXT, "message": TEXT})


def _effect() -> dict[str, Any]:
    return {"enum": list(EFFECTS), "description": "; ".join(f"`{one}`: {text}" for one, text in EFFECTS.items())}


def _problem() -> dict[str, Any]:
    return {"code": {"enum": sorted(STATUS)}, "path": TEXT, "message": TEXT}


def _objects() -> dict[str, Any]:
    """Objects by section and name, as in a file."""
    models = {"flow_networks": "FlowNetwork", "filters": "Filter", "mirrors": "Mirror"}
    properties = {
        section: {"type": "object", "additionalProperties": _reference(model)} for section, model in models.items()
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}


_GENERATION: dict[str, Any] = {"generation": {"type": "integer"}, "cluster_id": TEXT}


def _wanted() -> dict[str, Any]:
    """What a cluster wants of this host."""
    objects = _objects()
    return {**objects, "properties": {**_GENERATION, **objects["properties"]}, "required": list(_GENERATION)}


def _applied() -> dict[str, Any]:
    operations = {"enum": ["create", "change", "delete", "same"]}
    return {"kind": {"enum": KINDS[:-1]}, "name": TEXT, "operation": operations}


def _packets() -> dict[str, Any]:
    """Ethernet frames, each with its direction, where it has one, and its length before it was cut."""
    data = {"type": "string", "description": "Hexadecimal digits; blanks and colons between bytes are passed over."}
    one = {"data": data, "direction": {"enum": ["ingress", "egress"]}, "length": {"type": "integer"}}
    return _object({"packets": {"type": "array", "items": {"type": "object", "properties": one, "required": ["data"]}}})


def _explanation() -> dict[str, Any]:
    """As `mirrorctl explain --json`; of the rules that did not match the last 100."""
    number: dict[str, Any] = {"type": "integer"}
    why = _object({"rule": number, "field": TEXT, "wanted": TEXT, "found": TEXT})
    one = {
        "packet": number,
        "direction": TEXT,
        "frame": TEXT,
        "rule": {"type": ["integer", "null"]},
        "action": {"enum": ["accept", "reject", "unmatched"]},
        "passed_over": {"type": "array", "items": why},
    }
    return _object({"packets": {"type": "array", "items": _object(one)}, "totals": {"type": "object"}})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}
