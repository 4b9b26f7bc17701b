"""The console's server: who may ask it, what it passes on, and with whose rights. The page itself: scenarios."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mirrord.crowds import MAX_CONNECTIONS
from tests.conftest import MakeDaemon
from tests.support.console import Console
from tests.support.crowds import crowd, opened
from tests.support.ctl import ctl
from tests.support.topology import Topology
from tests.support.wait import wait_for

FILE = """
[mirrors.fixed]
enabled = false
"""


@pytest.fixture
def dataplane() -> str:
    """One is enough: how frames go is not the question."""
    return "native"


def test_only_the_page_with_its_key_is_answered(net: Topology, daemon: MakeDaemon) -> None:
    host = net.host("host")
    mirrord = daemon(host, FILE, up=False)
    console = Console(host, mirrord.socket)

    page = console.ask("GET", "/")
    policy = page.headers["Content-Security-Policy"]
    assert (page.status, "unsafe" in policy, "default-src 'none'" in policy) == (200, False, True)
    assert "<script type" in page.text
    assert "http" not in page.text.replace("<!doctype html>", "")  # nothing of anybody else's
    for path in ("/../guard.py", "/%2e%2e/guard.py", "/vendor/../../guard.py", "/vendor", "//etc/passwd"):
        assert console.ask("GET", path).status == 404, path
    bodies: tuple[Any, ...] = (
        {"token": "x"},
        {"token": 1},
        {},
        [],
        None,
        {"token": console.token + "x"},
        {"token": "\u00e9"},
    )
    for body in bodies:
        refused = console.ask("POST", "/console/key", body)
        assert (refused.status, refused.code) == (403, "wrong_token"), body

    key = console.key()
    again = console.ask("POST", "/console/key", {"token": console.token})
    assert (again.status, again.code) == (403, "wrong_token")  # whoever finds the link later
    assert json.loads(console.ask("GET", "/v1/mirrors", key=key).text)["mirrors"][0]["name"] == "fixed"
    for given in ("", "x", console.token, key + "x"):
        refused = console.ask("GET", "/v1/mirrors", key=given)
        assert (refused.status, refused.code) == (401, "no_key"), given
    cookie = console.ask("GET", "/v1/mirrors", Cookie=f"key={key}")
    assert cookie.status == 401
    another = json.loads(console.ask("POST", "/console/token", key=key).text)["token"]
    other = json.loads(console.ask("POST", "/console/key", {"token": another}).text)["key"]
    assert console.ask("GET", "/v1/status", key=other).status == 200

    here = f"127.0.0.1:{console.port}"
    for foreign in ("evil.example", f"evil.example:{console.port}", "127.0.0.1.evil.example", "192.0.2.1", "[", ""):
        for path in ("/", "/v1/mirrors"):
            refused = console.ask("GET", path, key=key, Host=foreign)
            assert refused.status == 421, (foreign, path)
    for near in (here, f"localhost:{console.port}", "127.0.0.1:4000", "[::1]:9818"):  # the last two: ssh -L
        assert console.ask("GET", "/v1/mirrors", key=key, Host=near).status == 200, near
    for origin in ("http://evil.example", "http://127.0.0.1:1", f"https://{here}", "null", "http://localhost"):
        refused = console.ask("PUT", "/v1/mirrors/x", {}, key=key, Host=here, Origin=origin)
        assert (refused.status, refused.code) == (403, "wrong_origin"), origin
        assert console.ask("POST", "/console/key", {"token": "x"}, Host=here, Origin=origin).code == "wrong_origin"
    assert console.ask("GET", "/v1/mirrors", key=key, Sec_Fetch_Site="cross-site").code == "wrong_origin"
    assert "Access-Control-Allow-Origin" not in console.ask("OPTIONS", "/v1/mirrors", key=key).headers
    assert [one["name"] for one in json.loads(ctl(mirrord.socket, "--json", "list"))] == ["fixed"]

    open_before = opened(console.pid)
    with crowd(host, ("127.0.0.1", console.port)):  # any user of the host may
        assert console.ask("GET", "/v1/mirrors", key=key).status == 200
        bounds = range(MAX_CONNECTIONS - 1, MAX_CONNECTIONS + 2)  # and one to the daemon
        wait_for(lambda: opened(console.pid) - open_before in bounds, "the oldest alone are closed")

    made = console.ask("PUT", "/v1/mirrors/core", {"description": "core"}, key=key, Host=here, Origin=f"http://{here}")
    assert (made.status, bool(made.headers["ETag"])) == (201, True)
    stale = console.ask("PATCH", "/v1/mirrors/core", {"enabled": False}, key=key, If_Match='"x"')
    assert (stale.status, stale.code) == (412, "stale")
    rows = json.loads(ctl(mirrord.socket, "--json", "audit"))
    assert [(row["user"], row["result"]) for row in rows] == [("root", "done"), ("root", "refused")]
    mirrord.stop()
    gone = console.ask("GET", "/v1/mirrors", key=key)
    assert (gone.status, gone.code) == (502, "unreachable")
    assert console.stop() == 0


def test_reading_alone_and_addresses(net: Topology, daemon: MakeDaemon, tmp_path: Path) -> None:
    host = net.host("host")
    mirrord = daemon(host, FILE, up=False)
    console = Console(host, mirrord.socket, "--read-only", "--listen", "127.0.0.1:0")
    key = console.key()
    assert json.loads(console.ask("GET", "/console/about", key=key).text)["read_only"] is True
    assert console.ask("GET", "/v1/mirrors", key=key).status == 200
    for method, path in (("PUT", "mirrors/x"), ("DELETE", "mirrors/x"), ("GET", "mirrors/a/sessions/b/capture")):
        refused = console.ask(method, f"/v1/{path}", key=key)
        assert (refused.status, refused.code) == (403, "read_only")
    assert console.stop() == 0

    for address in ("0.0.0.0:9818", "192.0.2.1:9818", "[::]:9818", ":9818", "evil.example:9818"):
        assert "ssh -L" in ctl(mirrord.socket, "console", "--listen", address, status=2), address
    for address in ("127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536"):
        ctl(mirrord.socket, "console", "--listen", address, status=2)
    assert "is the daemon running" in ctl(tmp_path / "nothing", "console", "--no-browser", status=3)
