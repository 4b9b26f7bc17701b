"""Requests that openapi.json describes, with something wrong in most of them: told so, and nothing else happens.

`--requests 10000 --timeout 0` runs as many, in some minutes; without it as many as fit between other tests.

guest eth0 ---- tap0 [host] up0 ---- up0 collector
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mirrord.control.http.api import RESOURCES
from mirrord.control.http.openapi import document
from tests.conftest import MakeDaemon
from tests.support.api import Api
from tests.support.daemon import Daemon
from tests.support.send import FRAME, send
from tests.support.topology import Topology
from tests.support.uplink import CORE, mirror, tapped

CHUNKED = (
    b"PUT /v1/mirrors/x HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
)
DOCUMENT = document(RESOURCES)
NAMES = ["core", "kept", "x", "all", "s", "nic7", "nic*"]
VALUES = [
    "192.0.2.9",
    "192.0.2.0/24",
    "2001:db8::1",
    "192.0.2.1-192.0.2.9/24",
    "tcp",
    "80",
    "1-2",
    "5Mbit",
    "8MiB",
    "80%",
]
WRONG = ["/tmp/../etc/x", "fe80::1%lo", "", "\0", "\ud800", "0x10", "1e9", "a" * 300]
WORDS = st.sampled_from([*NAMES, *VALUES, *WRONG]) | st.text(max_size=8)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=4,
)


def odd(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Mostly as the schema says."""
    return st.one_of(*[described(schema)] * 7, JUNK)


def described(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """What the schema describes, with something odd in it here and there."""
    if reference := schema.get("$ref"):
        return st.deferred(lambda: SCHEMAS[reference.rpartition("/")[2]])
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return st.one_of(*map(described, choices))
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    match schema.get("type"):
        case "integer":
            return st.integers(schema.get("minimum"), schema.get("maximum"))
        case "boolean":
            return st.booleans()
        case "array":
            return st.lists(odd(schema["items"]), max_size=3)
        case "object":
            return an_object(schema)
        case "null":
            return st.none()
    return WORDS


def an_object(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    properties = {key: odd(value) for key, value in schema.get("properties", {}).items()}
    required = {key: properties[key] for key in schema.get("required", ())}
    optional = st.fixed_dictionaries({}, optional={key: properties[key] for key in properties.keys() - required})
    few = optional.map(lambda found: dict(list(found.items())[:3]))
    return st.builds(lambda must, may: must | may, st.fixed_dictionaries(required), few)


SCHEMAS = {name: described(schema) for name, schema in DOCUMENT["components"]["schemas"].items()}
OPERATIONS = [
    (method.upper(), path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
    if path != "/v1/reload"
]


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, bytes | None, dict[str, str]]:
    method, path, operation = draw(st.sampled_from(OPERATIONS))
    headers, query = {}, []
    for parameter in operation["parameters"]:
        value = str(draw(odd(parameter["schema"])))
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", quote(value, safe="", errors="replace"))
        elif parameter["in"] == "query":
            query.append(f"{parameter['name']}={quote(value, errors='replace')}")
        elif draw(st.booleans()):
            headers[parameter["name"]] = draw(st.sampled_from(['"{}"', "{}", "*"])).format(
                quote(value, errors="replace")
            )
    if "/kept" in path:
        headers["If-Match"] = '"not what it is"'
        path = path.replace("/kept/sessions", "/x/sessions") if method == "POST" else path  # it has no conditions
    body = None
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        body = json.dumps(draw(odd(schema))).encode()
        body = body[: draw(st.sampled_from([None, None, None, None, -1, 5]))]
        headers["Content-Type"] = draw(st.sampled_from(["application/json"] * 8 + ["text/plain", "/;"]))
        headers |= draw(st.sampled_from([{}] * 8 + [{"Content-Encoding": "gzip", "Connection": "close"}]))
    return method, f"{path}?{'&'.join(query)}", body, headers


class Connection:
    """Requests on one connection, as long as the daemon keeps it open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._http = http.client.HTTPConnection("mirrord", timeout=20)

    def ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        if self._http.sock is None:
            self._http.sock = socket.socket(socket.AF_UNIX)
            self._http.sock.connect(str(self._path))
        self._http.request(method, path, body, headers)
        response = self._http.getresponse()
        return response.status, response.read()

    def close(self) -> None:
        self._http.close()


@pytest.fixture
def dataplane() -> str:
    """One is enough: how frames are moved is not looked at."""
    return "native"


@pytest.fixture
def running(net: Topology, daemon: MakeDaemon, tmp_path: Path) -> Iterator[tuple[Daemon, Connection]]:
    """A daemon that mirrors by a file's mirror and by one made at run time; both count on afterwards."""
    host, _ = tapped(net)
    mirrord = daemon(host, CORE, capture_directories=[str(tmp_path)])
    api = Api(mirrord.socket)
    assert api("PUT", "mirrors/kept", mirror("tap0", 2)).status == 201
    send(host, "tap0", FRAME, 100)
    before = [api("GET", f"mirrors/{name}").headers["ETag"] for name in ("core", "kept")]
    connection = Connection(mirrord.socket)
    yield mirrord, connection
    connection.close()
    assert [api("GET", f"mirrors/{name}").headers["ETag"] for name in ("core", "kept")] == before
    assert [row["operation"] for row in api.audit("?mirror=kept") if row["result"] == "done"] == ["create"]
    for row in api.audit("?limit=20000"):
        assert row["mirror"] != "core" or row["result"] == "refused"
    send(host, "tap0", FRAME, 100)
    metrics = mirrord.settle(400)
    for name in ("core", "kept"):
        assert metrics.total("mirrord_mirrored_frames_total", mirror=name) == 200
    output = mirrord.output()
    assert "Traceback" not in output
    assert "a bug" not in output


def test_malformed_requests(running: tuple[Daemon, Connection], pytestconfig: pytest.Config) -> None:
    _, connection = running

    @settings(
        max_examples=pytestconfig.getoption("requests"),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(requests())
    def ask(request: tuple[str, str, bytes | None, dict[str, str]]) -> None:
        status, text = connection.ask(*request)
        assert status < 500, text
        if status >= 400:
            error = json.loads(text)["error"]
            assert error.keys() == {"code", "message", "path"}
            assert error["message"]

    ask()


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None, database=None)
def ask_nonsense(path: Path, data: bytes) -> None:
    """What is no HTTP, or the beginning of some."""
    for start in (b"", b"GET /v1/status HTTP/1.1\r\nHost: d\r\n", CHUNKED):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(str(path))
            client.sendall(start + data)
            client.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert not answer.startswith(b"HTTP/1.1 5"), answer


def test_nonsense(running: tuple[Daemon, Connection]) -> None:
    ask_nonsense(running[0].socket)
