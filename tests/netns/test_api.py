"""The control API: what is refused, by code and text; two clients at once; files and run time; who may only read.

guest eth0 ---- tap0 [host] up0 ---- up0 collector
"""

from __future__ import annotations

import grp
import os
import re
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mirrord.crowds import MAX_CONNECTIONS
from tests.conftest import MakeDaemon
from tests.support.api import Api
from tests.support.daemon import ROOT, Daemon
from tests.support.send import FRAME, send
from tests.support.topology import Host, Topology
from tests.support.uplink import CORE, mirror, tapped
from tests.support.wait import wait_for


@pytest.fixture
def dataplane() -> str:
    """One is enough: how frames are moved is not looked at."""
    return "native"


@pytest.fixture
def host(net: Topology) -> Host:
    return tapped(net)[0]


def span(source: str, destination: str) -> dict[str, Any]:
    return {"sessions": [{"name": "s", "source": source, "destination": {"type": "device", "device": destination}}]}


NETWORK = {"device": "set-aside0", "addresses": "198.51.100.9/24"}
THERE = [
    ("flow_networks/n", NETWORK),
    ("mirrors/user", {"flow_network": "n", "enabled": False}),
    ("mirrors/there", {**span("a0", "b0"), "enabled": False}),
]
REFUSED = [
    ("mirrors/x", span("tap0", "tap0"), "mirrors.x.sessions[s].destination.device: 'tap0' is also the source"),
    (
        "mirrors/x", span("b0", "a0"),
        "mirrors.x.sessions[s].destination.device: closes a cycle of copies with mirrors.there.sessions[s]",
    ),
    (
        "mirrors/x", {"flow_network": "n"},
        "mirrors.x.flow_network: flow network 'n' is already used at mirrors.user.flow_network",
    ),
    ("flow_networks/m", NETWORK, "flow_networks.m.device: 'set-aside0' is already set aside by flow_networks.n"),
    (
        "mirrors/x", mirror("set-aside0", 7),
        "mirrors.x.sessions[s].source: 'set-aside0' is set aside for copies by flow_networks.n",
    ),
    (
        "mirrors/x", span("tap0", "set-aside0"),
        "mirrors.x.sessions[s].destination.device: 'set-aside0' is set aside for copies by flow_networks.n",
    ),
    (
        "mirrors/x", mirror("up0", 1),
        (
            "mirrors.x.sessions[s].destination.vni: mirrors.core.sessions[0] sends to the same remote, port and VNI;"
            " set shared_vni = true in both if that is meant"
        ),
    ),
    (
        "mirrors/x", span("tap0", "up0"),
        (
            "session 's' on tap0: up0 holds a default route of this host, copies would go out among its own traffic"
            " (allow_default_route = true permits it)"
        ),
    ),
]  # fmt: skip


def test_what_section_2_refuses_changes_nothing(host: Host, daemon: MakeDaemon) -> None:
    running = daemon(host, CORE)
    api = Api(running.socket)
    host.ip("route add default via 192.0.2.2")
    for resource, body in THERE:
        assert api("PUT", resource, body).status == 201
    before = api("GET", "mirrors").body, api("GET", "flow_networks").body
    for resource, body, text in REFUSED:
        answer = api("PUT", resource, body)
        assert (answer.status, answer.code, answer.message) == (409, "refused", text)
        row = api.audit()[-1]
        assert (row["result"], row["code"], row["old"], row["new"]["name"]) == (
            "refused",
            "refused",
            None,
            resource[-1],
        )
        assert row["message"].endswith(text)
    for method, resource, body, text in [
        ("PATCH", "mirrors/user", {"name": "core"}, "mirror 'core' exists already"),
        ("POST", "mirrors/there/sessions", span("c0", "d0")["sessions"][0], "session 's' exists already"),
    ]:
        answer = api(method, resource, body)
        assert (answer.status, answer.code, answer.message) == (409, "refused", text)
    assert (api("GET", "mirrors").body, api("GET", "flow_networks").body) == before
    assert [row["result"] for row in api.audit()] == ["done"] * len(THERE) + ["refused"] * (len(REFUSED) + 2)

    assert api("PUT", "mirrors/x", {**span("tap0", "up0"), "enabled": False}).status == 201
    assert api("POST", "mirrors/x/enable").code == "refused"
    assert api("GET", "mirrors/x").body["enabled"] is False


def test_every_other_error_has_its_code_and_text(host: Host, daemon: MakeDaemon) -> None:
    running = daemon(host, CORE)
    api = Api(running.socket)
    rules = {"rules": [{"priority": 1, "action": "accept"}]}
    assert api("PUT", "filters/mine", rules, Content_Type="").status == 201  # nothing else than JSON goes in
    assert api("PUT", "mirrors/x", mirror("up0", 2, filter="mine")).status == 201
    where = f"is defined in {running.file}: change it there, then reload"
    text = {"Content_Type": "text/plain"}
    for method, resource, body, headers, status, code, message in [
        ("PUT", "mirrors/core", {}, {}, 403, "read_only", where),
        ("DELETE", "mirrors/core", None, {}, 403, "read_only", where),
        ("POST", "mirrors/core/disable", None, {}, 403, "read_only", where),
        ("DELETE", "mirrors/core/sessions/a", None, {}, 403, "read_only", where),
        ("PUT", "filters/all", rules, {}, 403, "read_only", where),
        ("PATCH", "mirrors/none", {}, {}, 404, "not_found", "no such mirror: none"),
        ("POST", "mirrors/none/sessions", {"name": "s"}, {}, 404, "not_found", "no such mirror: none"),
        ("DELETE", "mirrors/x/sessions/t", None, {}, 404, "not_found", "no such session: t"),
        ("GET", "filters/none", None, {}, 404, "not_found", "no such filter: none"),
        ("GET", "flow_networks/none", None, {}, 404, "not_found", "no such flow network: none"),
        ("POST", "filters/mine", rules, {}, 405, "method_not_allowed", "POST /v1/filters/mine: Method Not Allowed"),
        ("DELETE", "filters/mine", None, {}, 409, "in_use", "filter 'mine' is used at mirrors.x.sessions[s].filter"),
        ("PUT", "mirrors/x", {}, {"If_None_Match": "*"}, 412, "exists", "mirror 'x' exists already"),
        ("PUT", "mirrors/x", {}, {"If_Match": '"0"'}, 412, "stale", "mirror 'x' was changed meanwhile: read it again"),
        (
            "POST", "mirrors/x/sessions", {"name": "t"}, {"If_Match": '"0"'}, 412, "stale",
            "mirror 'x' was changed meanwhile: read it again",
        ),
        ("DELETE", "mirrors/y", None, {"If_Match": "*"}, 412, "stale", "mirror 'y' does not exist: read it again"),
        ("PUT", "mirrors/x", {}, {"If_Match": "0"}, 400, "bad_request", "If-Match: expected entity tags such as"),
        ("PUT", "mirrors/x", b"{", {}, 400, "bad_request", "the body is not JSON: "),
        ("PUT", "mirrors/x", b'{"description": NaN}', {}, 400, "bad_request", "the body is not JSON: NaN"),
        ("PUT", "mirrors/x", b"[" * 100_000, {}, 400, "bad_request", "the body has more than 32 "),
        ("PUT", "mirrors/x", b'{"a":' * 970 + b"1" + b"}" * 970, {}, 400, "bad_request", "the body has more than 32 "),
        ("PUT", "mirrors/x", b'{"a":' * 32 + b"1" + b"}" * 32, {}, 422, "invalid_config", "mirrors.x.a: unknown key"),
        ("PUT", "mirrors/x", b'{"description": "\\ud800"}', {}, 400, "bad_request", "the body is not JSON: "),
        ("PUT", "mirrors/x", b"[]", {}, 400, "bad_request", "the body is not a JSON object"),
        ("PUT", "mirrors/x", b"{}", text, 415, "unsupported_media_type", "expected Content-Type: application/json"),
        ("PUT", "mirrors/x", b" " * (1 << 20) + b"{}", {}, 413, "too_large", "the body has more than 1048576 bytes"),
        ("PUT", "mirrors/x", {"colour": 1}, {}, 422, "invalid_config", "mirrors.x.colour: unknown key"),
        ("PUT", "mirrors/x", {"name": "y"}, {}, 422, "invalid_config", "mirrors.x.name: expected 'x', as in"),
        ("PUT", "mirrors/x/sessions/s", {"name": "y"}, {}, 422, "invalid_config", "mirrors.x.sessions[s].name: "),
        ("PUT", "mirrors/a%20b", {}, {}, 422, "invalid_config", 'mirrors."a b": expected a name: 1 to 63'),
        ("PATCH", "mirrors/x", {"name": None}, {}, 422, "invalid_config", "mirrors.x.name: expected a name"),
        (
            "PUT", "mirrors/x", mirror("up0", 1 << 24, filter="mien"), {}, 422, "invalid_config",
            (
                "mirrors.x.sessions[s].destination.vni: expected a whole number from 0 to 16777215, not 16777216\n"
                "mirrors.x.sessions[s].filter: there is no filter 'mien'; did you mean 'mine'?"
            ),
        ),
        ("GET", "audit?limit=0", None, {}, 400, "bad_request", "limit: expected a number from 1 to 20000, not '0'"),
        ("GET", "audit?since=then", None, {}, 400, "bad_request", "since: expected seconds or a time such as"),
    ]:  # fmt: skip
        answer = api(method, resource, body, **headers)
        assert (answer.status, answer.code) == (status, code), answer
        assert answer.message.startswith(message), answer
        assert "Traceback" not in running.output()
    rows = api.audit()
    assert [row["object"] for row in rows if row["result"] == "done"] == ["mine", "x"]
    of_mirror_x = {row["code"]: row["operation"] for row in rows if (row["kind"], row["object"]) == ("mirror", "x")}
    assert (of_mirror_x["exists"], of_mirror_x["stale"]) == ("create", "replace")


def test_two_clients_that_read_the_same_cannot_both_change_it(host: Host, daemon: MakeDaemon) -> None:
    api = Api(daemon(host, CORE).socket)
    assert api("PUT", "mirrors/x", {"description": "0"}).status == 201
    with ThreadPoolExecutor(2) as clients:
        for turn in range(10):
            tag = api("GET", "mirrors/x").headers["ETag"]
            wishes = [{"description": f"{turn} {client}", "enabled": client == "a"} for client in "ab"]
            answers = list(clients.map(lambda wish: api("PUT", "mirrors/x", wish, If_Match=tag), wishes))  # noqa: B023
            assert sorted(answer.status for answer in answers) == [200, 412]
            (won,) = [wish for wish, answer in zip(wishes, answers, strict=True) if answer.status == 200]
            assert {key: api("GET", "mirrors/x").body[key] for key in won} == won
        wishes = [{"description": f"{n}", "enabled": n % 2 == 0} for n in range(20)]  # nobody says what he has read
        answers = list(clients.map(lambda wish: api("PUT", "mirrors/x", wish), wishes))
    assert {answer.status for answer in answers} == {200}
    rows = [row for row in api.audit() if row["result"] == "done"]
    assert [row["old"] for row in rows[1:]] == [row["new"] for row in rows[:-1]]  # one after the other
    last = rows[-1]["new"]
    assert {key: api("GET", "mirrors/x").body[key] for key in last} == last


def test_what_is_shown_may_be_sent_back(host: Host, daemon: MakeDaemon) -> None:
    api = Api(daemon(host, CORE).socket)
    assert api("PUT", "filters/f", {"rules": [{"priority": 1, "action": "accept"}]}).status == 201
    assert api("PUT", "flow_networks/n", NETWORK).status == 201
    assert api("PUT", "mirrors/x", mirror("up0", 2, filter="f", rate_limit="5Mbit")).status == 201
    for resource in ("filters/f", "flow_networks/n", "mirrors/x", "mirrors/x/sessions/s"):
        shown = api("GET", resource)
        again = api("PUT", resource, shown.body, If_Match=shown.headers["ETag"])
        assert (again.status, again.headers["ETag"]) == (200, shown.headers["ETag"])
    patched = api("PATCH", "mirrors/x/sessions/s", {"rate_limit": None, "destination": {"vni": 3}, "name": "t"})
    assert (patched.body["rate_limit"], patched.body["destination"]["vni"], patched.body["name"]) == ("0", 3, "t")
    assert api("GET", "mirrors/x/sessions").body["sessions"][0]["destination"]["remote"] == "192.0.2.2"
    assert api("GET", "mirrors/x/sessions/s").status == 404
    sessions = api("GET", "mirrors/x/sessions")
    added = {"name": "u", "source": "up0", "destination": {"type": "vxlan", "remote": "192.0.2.2", "vni": 4}}
    answers = [api("POST", "mirrors/x/sessions", added, If_Match=sessions.headers["ETag"]) for _ in range(2)]
    assert [answer.status for answer in answers] == [201, 412]  # the first has changed the mirror


@pytest.mark.parametrize("dataplane", ["python", "native"])
def test_a_session_goes_on_under_another_name(host: Host, daemon: MakeDaemon) -> None:
    running = daemon(host, "", up=False)
    api = Api(running.socket)
    assert api("PUT", "mirrors/a", mirror("tap0", 2, direction="egress")).status == 201
    sending = threading.Thread(target=send, args=(host, "tap0", FRAME, 2000, 4000))
    sending.start()
    for before, after in zip("abcd", "bcde", strict=True):
        assert api("PATCH", f"mirrors/{before}", {"name": after}).status == 200
    assert api("PATCH", "mirrors/e/sessions/s", {"name": "t"}).status == 200
    sending.join()
    metrics = running.settle(captured=2000)
    assert metrics.total("mirrord_captured_frames_total", mirror="e", session="t") == 2000
    assert metrics.total("mirrord_captured_frames_total") == 2000  # and under no other name


def reload(running: Daemon, api: Api, text: str) -> int:
    running.file.write_text(text)
    return api("POST", "reload").status


def test_what_a_file_defines_goes_before_what_was_made(host: Host, daemon: MakeDaemon) -> None:
    running = daemon(host, CORE)
    api = Api(running.socket)
    text = running.file.read_text()
    assert api("PUT", "mirrors/x", mirror("tap0", 2, direction="egress", filter="all")).status == 201
    send(host, "tap0", FRAME, 10)
    wait_for(lambda: running.metrics().total("mirrord_mirrored_frames_total", mirror="x") == 10, "10 frames mirrored")

    assert reload(running, api, text.replace("filters.all", "filters.other")) == 422
    assert "made at run time: mirrors.x.sessions[s].filter: there is no filter 'all'" in api.audit()[-1]["message"]
    same = """
        [mirrors.x]
        description = "of the file"
        [[mirrors.x.sessions]]
        name = "s"
        source = "tap0"
        direction = "egress"
        filter = "all"
        destination = { type = "vxlan", remote = "192.0.2.2", vni = 2 }
    """
    assert reload(running, api, text + same) == 200
    assert api("GET", "mirrors/x").body["origin"] == {"file": str(running.file)}
    (aside,) = api("GET", "status").body["config"]["set_aside"]
    assert aside == {"section": "mirrors", "name": "x", "reason": f"mirrors.x: {running.file} defines it, too"}
    assert "session down" not in running.output()  # it is the same session: it went on
    assert reload(running, api, text) == 200
    assert api("GET", "mirrors/x").body["origin"] == {"state": True}
    assert api("GET", "status").body["config"]["set_aside"] == []
    assert running.metrics().total("mirrord_mirrored_frames_total", mirror="x") == 10

    running.reload()
    wait_for(lambda: len(api.audit()) == 5, "the reload in the audit log")
    *_, by_api, by_signal = [(row["operation"], row["kind"], row["result"], row["pid"]) for row in api.audit()]
    assert by_api == ("reload", "daemon", "done", os.getpid())
    assert by_signal == ("reload", "daemon", "done", api("GET", "status").body["pid"])


def test_head_is_get_without_the_body(host: Host, daemon: MakeDaemon) -> None:
    """RFC 9110, section 9.3.2; but what has no end has no head."""
    running = daemon(host, CORE)
    api = Api(running.socket)
    for resource in ("filters/all", "openapi.json", "mirrors/none"):
        head, got = api("HEAD", resource), api("GET", resource)
        assert (head.status, head.headers) == (got.status, got.headers | {"Date": head.headers["Date"]})
        assert head.body is None
    assert api("HEAD", "mirrors/core/sessions/a/capture").status == 405


def test_the_read_only_socket_serves_get_alone(host: Host, daemon: MakeDaemon, tmp_path: Path) -> None:
    group = grp.getgrgid(os.getgid()).gr_name
    running = daemon(host, CORE, read_only_socket=str(tmp_path / "read.sock"), read_only_group=group)
    reader = Api(tmp_path / "read.sock")
    assert oct(reader.path.stat().st_mode & 0o777) == "0o660"
    before = reader("GET", "mirrors").body
    asked = 0
    for path, methods in reader("GET", "openapi.json").body["paths"].items():
        resource = re.sub("{.*?}", "x", path.removeprefix("/v1/"))
        for method in {"put", "patch", "post", "delete"} & methods.keys():
            answer = reader(method.upper(), resource, {})
            assert (answer.status, answer.code) == (405, "method_not_allowed")
            asked += 1
    assert asked == 30
    assert reader.audit() == []
    assert Api(running.socket)("GET", "mirrors").body == before
    assert running.stop()[0] == 0
    assert not reader.path.exists()


def test_who_hangs_on_keeps_nobody_out(host: Host, daemon: MakeDaemon) -> None:
    """Those for whom there is room stay. Of more, clients that never finish a request, none keeps others out."""
    running = daemon(host, CORE)
    api = Api(running.socket)
    with ExitStack() as there:
        clients = [there.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(MAX_CONNECTIONS - 4)]
        for client in clients:
            client.connect(str(running.socket))
        assert api("GET", "mirrors").status == 200
        clients[0].send(b"GET /v1/status HTTP/1.1\r\nHost: d\r\n\r\n")
        assert clients[0].recv(64).startswith(b"HTTP/1.1 200")
    with ExitStack() as hanging:
        for n in range(100):
            client = hanging.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(running.socket))
            head = (
                b"PUT /v1/mirrors/x HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
            )
            client.send(head if n % 2 else head[:20])
        begun = time.monotonic()
        assert api("PUT", "mirrors/x", {}).status == 201
        assert api("GET", "mirrors").status == 200
        assert time.monotonic() - begun < 5  # the body of the others may take 10 s
        sockets = len(list(Path(f"/proc/{api('GET', 'status').body['pid']}/fd").iterdir()))
        assert sockets < 100


def test_who_hangs_on_to_the_metrics_keeps_nobody_out(host: Host, daemon: MakeDaemon) -> None:
    running = daemon(host, CORE)
    with ExitStack() as hanging:
        for _ in range(100):
            client = hanging.enter_context(host.open_socket(socket.AF_INET, socket.SOCK_STREAM))
            client.connect(("127.0.0.1", 9817))
        assert running.metrics().total("process_open_fds") < 100


def test_sockets_that_systemd_opened_are_taken_over(host: Host, tmp_path: Path) -> None:
    """By systemd's own systemd-socket-activate, which starts the daemon at the first connection."""
    change, read = tmp_path / "change.sock", tmp_path / "read.sock"
    file = tmp_path / "mirrord.toml"
    file.write_text(
        f'[daemon]\ninclude = []\nmetrics = ""\nstate = "{tmp_path}/s.db"\nsocket = "/nowhere/s.sock"\n{CORE}'
    )
    process = host.spawn(
        "systemd-socket-activate", "--fdname=mirrord.sock:mirrord-read-only.sock", f"--listen={change}",
        f"--listen={read}", f"--setenv=PYTHONPATH={ROOT}",
        sys.executable, "-m", "mirrord.control.daemon", "-c", str(file),
    )  # fmt: skip
    wait_for(read.exists, "the sockets")
    assert Api(change)("PUT", "mirrors/x", {}).status == 201
    assert Api(read)("PUT", "mirrors/x", {}).status == 405
    assert [one["name"] for one in Api(read)("GET", "mirrors").body["mirrors"]] == ["core", "x"]
    assert process.stop() == 0, process.output()
    assert change.exists()  # they are not ours to take away
    assert read.exists()
