"""From what somebody wrote to a model, or to every problem in it, each with a dotted path and what was expected.

Pydantic reports all the fields that are wrong at once, but how keys and objects go together can be judged only on
models. So of an object with problems the keys that are right are read once more: what they make is good enough for
those checks, and for nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple, get_args

from pydantic import ValidationError

from mirrord.errors import MirrordError, Problem, nearest
from mirrord.model import (
    Config,
    Contradiction,
    ContradictionError,
    Destination,
    Filter,
    FlowLimit,
    Mirror,
    Model,
    Rule,
    Session,
    Source,
    repeated,
)
from mirrord.model.base import kind_of
from mirrord.values.quantities import parse_rate, show_rate
from mirrord.values.written import unexpected


class Parts(NamedTuple):
    """What a model is a list of: under which key, and which key of each is unique."""

    key: str
    model: type[Model]
    unique: str


PARTS: dict[type[Model], Parts] = {
    Filter: Parts("rules", Rule, "priority"),
    Mirror: Parts("sessions", Session, "name"),
}

_TAGGED: dict[str, type[Model]] = {}
for _union in (Source, Destination):
    for _member in get_args(get_args(_union)[0]):
        _model, _tag = get_args(_member)
        _TAGGED[_tag.tag] = _model

_TABLES: dict[str, type[Model]] = {"flow_limit": FlowLimit}
"""Tables of a session, by their keys."""

_NEUTRAL: dict[int | str, object] = {
    "action": "accept",
    "destination": {"type": "vxlan", "remote": "192.0.2.1", "vni": 0},
    "device": "a",
    "name": "a",
    "path": "/a",
    "priority": 1,
    "source": "a",
    "vni": 0,
}
"""In place of a required key that is wrong: what contradicts nothing."""

MEANT = {
    "port": ("destination_ports", "source_ports"),
    "ports": ("destination_ports", "source_ports"),
    "dport": ("destination_ports",),
    "dst_port": ("destination_ports",),
    "destination_port": ("destination_ports",),
    "sport": ("source_ports",),
    "src_port": ("source_ports",),
    "source_port": ("source_ports",),
    "proto": ("protocol",),
    "flags": ("tcp_flags",),
    "mac": ("source_mac", "destination_mac"),
    "smac": ("source_mac",),
    "src_mac": ("source_mac",),
    "dmac": ("destination_mac",),
    "dst_mac": ("destination_mac",),
    "type": ("icmp_type",),
    "code": ("icmp_code",),
    "size": ("length",),
    "len": ("length",),
    "src": ("source", "local"),
    "dst": ("destination", "remote"),
    "source_ip": ("source", "local"),
    "destination_ip": ("destination", "remote"),
    "ip": ("remote", "local"),
    "address": ("addresses", "remote", "local"),
    "iface": ("device",),
    "interface": ("device",),
    "dev": ("device",),
    "nic": ("device",),
    "id": ("vni", "session_id", "key", "vlan"),
    "vlan_id": ("vlan",),
    "vni": ("key", "session_id"),
    "rate": ("rate_limit",),
    "limit": ("rate_limit",),
    "sampling": ("sampling_rate",),
    "mtu": ("on_mtu_exceeded",),
    "tos": ("dscp",),
    "file": ("path",),
    "disabled": ("enabled",),
    "comment": ("description",),
}
"""Keys by the names that other programs give them."""

WORDS = {
    "in": "ingress",
    "rx": "ingress",
    "incoming": "ingress",
    "input": "ingress",
    "out": "egress",
    "tx": "egress",
    "outgoing": "egress",
    "output": "egress",
    "any": "both",
    "all": "both",
    "inout": "both",
    "allow": "accept",
    "permit": "accept",
    "pass": "accept",
    "deny": "reject",
    "block": "reject",
    "drop": "reject",
    "4": "ipv4",
    "inet": "ipv4",
    "6": "ipv6",
    "inet6": "ipv6",
    "1": "I",
    "2": "II",
    "3": "III",
    "true": "on",
    "false": "off",
    "vm": "guest",
}
"""Words by what they are called elsewhere."""

TYPES = {
    "nic": "device",
    "interface": "device",
    "iface": "device",
    "span": "device",
    "rspan": "device with vlan",
    "vlan": "device with vlan",
    "pcapng": "file",
    "pcap-over-ip": "pcap",
    "gretap": "gre",
}
LIKELY = {"device": "device", "bridge": "bridge", "file": "path", "erspan": "erspan_type"}
"""Types of sources and destinations: by what they are called elsewhere, and by a key that no other has."""

_BYTES_A_SECOND = re.compile(r"bps$", re.IGNORECASE)
_BARE = re.compile(r"[A-Za-z0-9_-]+")  # toml.io/en/v1.0.0#keys

_EXPECTED = {
    "missing": "a value: this key is required",
    "tuple_type": "a list",
    "model_type": "a table",
    "string_type": "a string",
}


class Examined(NamedTuple):
    """What became of an object. With problems, `model` lacks what is wrong, or is None, and must not be run."""

    model: Any
    problems: list[Problem]


def not_found(kind: str, name: str, known: Iterable[str]) -> MirrordError:
    """The error for an object that is not there, with a hint at the one that may be meant."""
    return MirrordError("not_found", f"no such {kind}: {name}{nearest(name, known)}")


def find_session(config: Config, mirror: str, name: str) -> Session:
    """A session of a configuration. MirrordError `not_found`."""
    if mirror not in config.mirrors:
        raise not_found("mirror", mirror, config.mirrors)
    sessions = config.mirrors[mirror].sessions
    found = next((one for one in sessions if one.name == name), None)
    if found is None:
        raise not_found("session", name, [one.name for one in sessions])
    return found


def join(path: str, *parts: int | str) -> str:
    """Extend a dotted path by keys and indices. A key that TOML wants in quotes is quoted, and stays on one line."""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            key = part if _BARE.fullmatch(part) else json.dumps(part, ensure_ascii=False)
            path += f".{key}" if path else key
    return path


def session_path(mirror: str, session: str) -> str:
    """Where a session made at run time is, by its name: an index says little of what nobody has written in a row."""
    return f"{join('mirrors', mirror, 'sessions')}[{session}]"


def examine(model: type[Model], written: object, path: str) -> Examined:
    """Read the object that was written at `path`; tell every problem in it and keep what can be used of it."""
    whole, errors = _read(model, written)
    problems = [problem for error in errors for problem in _problems(model, error, path)]
    if not errors or not isinstance(written, dict):
        return Examined(whole, problems)
    rest, listed = dict(written), ""
    if model in PARTS and isinstance(written.get(PARTS[model].key), list):
        listed = PARTS[model].key
        rest[listed], more = _of_parts(model, written, path)
        problems += more
    if model is Session:
        problems += [one for side in ("source", "destination") for one in _of_end(written, side, path)]
    usable, wrong = None, set[int | str]()
    while blamed := {key for error in errors for key in _keys(error)} - wrong:
        wrong |= blamed
        right = {key: value for key, value in rest.items() if key not in wrong or key == listed}
        usable = _read(model, right)[0]
        required = {key for key, field in model.model_fields.items() if field.is_required()}
        neutral = {key: value for key, value in _NEUTRAL.items() if key in required & wrong}
        errors = _read(model, {**neutral, **right})[1]
        problems += [
            Problem(join(path, one.key), one.why)
            for error in errors
            for one in _contradictions(error)
            if not error["loc"] and wrong.isdisjoint(one.lacks)
        ]
    return Examined(usable, list(dict.fromkeys(problems)))


def wrong_values(model: type[Model], written: dict[str, object]) -> list[Problem]:
    """Problems in what single keys of the object have, whatever else it lacks or contradicts."""
    errors = [error for error in _read(model, written)[1] if not _contradictions(error) and error["type"] != "missing"]
    return [problem for error in errors for problem in _problems(model, error, "")]


def _of_parts(model: type[Model], written: dict[str, object], path: str) -> tuple[list[Any], list[Problem]]:
    """What can be used of a model's parts, and every problem in them."""
    key, _, unique = PARTS[model]
    found = [(item, examined) for _, item, examined in parts(model, written, path)]
    values = [getattr(one.model, unique, item.get(unique)) for item, one in found if isinstance(item, dict)]
    known = [value for value in values if isinstance(value, (str, int))]
    problems = [problem for _, examined in found for problem in examined.problems]
    problems += [Problem(join(path, at), why) for at, why in repeated(key, unique, known)]
    return [examined.model for _, examined in found if examined.model is not None], problems


def _of_end(written: dict[str, object], side: str, path: str) -> list[Problem]:
    """Every problem in a session's source or destination, if it tells which type it is."""
    end = written.get(side)
    model = _TAGGED.get(f"<{kind_of(end)} {side}>") if isinstance(end, dict) else None
    return [] if model is None else examine(model, end, join(path, side)).problems


def parts(model: type[Model], written: dict[str, object], path: str) -> list[tuple[str, object, Examined]]:
    """List the rules of a filter or the sessions of a mirror: the path, what was written, what became of it."""
    key, part, _ = PARTS[model]
    items = written.get(key)
    if not isinstance(items, list):
        return []
    paths = [join(path, key, index) for index in range(len(items))]
    return [(at, item, examine(part, item, at)) for at, item in zip(paths, items, strict=True)]


def _read(model: type[Model], written: object) -> tuple[Model | None, list[Any]]:
    try:
        return model.model_validate(written), []
    except ValidationError as error:
        # A default that depends on a wrong key is no problem of its own.
        return None, [one for one in error.errors() if one["type"] != "default_factory_not_called"]


def _contradictions(error: Any) -> list[Contradiction]:
    cause = error.get("ctx", {}).get("error")
    return cause.found if isinstance(cause, ContradictionError) else []


def _keys(error: Any) -> list[int | str]:
    """Which keys of the object itself are to blame."""
    return list(error["loc"][:1]) or [one.key for one in _contradictions(error)]


def _problems(model: type[Model], error: Any, path: str) -> list[Problem]:
    at = join(path, *(part for part in error["loc"] if part not in _TAGGED))
    found = _contradictions(error)
    if found:
        return [Problem(join(at, one.key), one.why) for one in found]
    if error["type"].startswith("union_tag"):
        return [_no_such_type(error, at)]
    return [Problem(at, _expectation(model, error))]


def _expectation(model: type[Model], error: Any) -> str:
    kind, value = error["type"], error["input"]
    if kind == "extra_forbidden":
        return f"unknown key{_meant(str(error['loc'][-1]), _model_at(model, error['loc']).model_fields)}"
    if kind == "missing":
        return f"expected {_EXPECTED[kind]}"
    if kind == "literal_error":
        expected = error["ctx"]["expected"]
        words = re.findall("'([^']*)'", expected)
        return f"{unexpected(expected, value)}{_word(str(value), words)}"
    if kind == "value_error":
        return str(error["ctx"]["error"])
    return str(unexpected(_EXPECTED[kind], value)) if kind in _EXPECTED else error["msg"]


def doubts(written: object, path: str) -> list[Problem]:
    """What stands in a session and likely means something else than was meant."""
    rate = written.get("rate_limit") if isinstance(written, dict) else None
    if not isinstance(rate, str) or not _BYTES_A_SECOND.search(rate):
        return []
    try:
        bits = show_rate(parse_rate(rate))
    except ValueError:  # a problem, told with the others
        return []
    as_bits = _BYTES_A_SECOND.sub("bit", rate)
    why = f"{rate} is {bits} a second: bps counts bytes here, as in tc; {as_bits} counts bits"
    return [Problem(join(path, "rate_limit"), why)]


def _no_such_type(error: Any, at: str) -> Problem:
    side = "source" if error["loc"][-1] == "source" else "destination"
    types = [tag[1:].split()[0] for tag in _TAGGED if tag.endswith(f" {side}>")]
    expected, written = f"one of {', '.join(types)}", error["input"]
    if not isinstance(written, dict):
        several = '; several devices: { type = "device", device = [...] }' if isinstance(written, list) else ""
        return Problem(at, f"{unexpected(f'a table whose type is {expected}', written)}{several}")
    named = written.get("type")
    if named is None:
        likely = next((kind for kind, key in LIKELY.items() if key in written and kind in types), None)
        return Problem(join(at, "type"), f"expected {expected}" + (f"; did you mean {likely!r}?" if likely else ""))
    meant = TYPES.get(str(named).lower())
    hint = f"; did you mean {meant!r}?" if meant and meant.split()[0] in types else nearest(str(named), types)
    return Problem(join(at, "type"), f"{unexpected(expected, named)}{hint}")


def _meant(key: str, known: Collection[str]) -> str:
    """Hint at the key that goes by another name elsewhere, or else at one that looks alike."""
    found = [name for name in MEANT.get(key.lower().replace("-", "_"), ()) if name in known]
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else nearest(key, known)


def _word(written: str, known: list[str]) -> str:
    """Hint at the word that is called otherwise elsewhere, or else at one that looks alike."""
    meant = WORDS.get(written.lower())
    return f"; did you mean {meant!r}?" if meant in known else nearest(written, known)


def _model_at(model: type[Model], location: tuple[int | str, ...]) -> type[Model]:
    for part in location:
        if part in _TAGGED:
            model = _TAGGED[str(part)]
        elif model in PARTS and part == PARTS[model].key:
            model = PARTS[model].model
        elif model is Session and part in _TABLES:
            model = _TABLES[str(part)]
    return model
