"""What happens, told as it happens, and the history of the last hour, by both sockets, while frames are mirrored.

guest eth0 ---- tap0 [host] up0 ---- up0 collector
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Any

import pytest

from mirrord.control.http.events import MOST_LISTENERS
from tests.conftest import MakeDaemon
from tests.support.api import Api
from tests.support.daemon import Daemon
from tests.support.events import EventStream
from tests.support.send import FRAME, send
from tests.support.topology import Topology
from tests.support.uplink import CORE, tapped
from tests.support.wait import wait_for

COPY = 14 + 20 + 8 + 8 + len(FRAME)  # bytes: Ethernet, IPv4, UDP, VXLAN (RFC 7348 5)
WHO = {"mirror": "core", "session": "a", "source": "tap0"}


def busy(past: dict[str, Any]) -> list[tuple[float, float]]:
    """Frames and bits a second of the steps that had any."""
    both = zip(past["frames_per_second"], past["bits_per_second"], strict=True)
    return [(frames, bits) for frames, bits in both if frames]


@pytest.mark.parametrize("dataplane", ["native"])  # it is the control plane that tells
def test_what_happens_is_told_and_remembered(net: Topology, daemon: MakeDaemon, tmp_path: Path) -> None:
    host, _ = tapped(net)
    reading = tmp_path / "reading.sock"
    running = daemon(host, CORE, read_only_socket=str(reading))
    api, reader = Api(running.socket), Api(reading)
    with EventStream(reading) as events:
        assert (events.status, events.content_type) == (200, "text/event-stream")
        assert events.event() == ("state", {**WHO, "state": "up", "reason": ""})
        assert events.event() == ("ready", {})
        quiet = events.until(lambda one: one.kind == "counters", "counters")
        assert (quiet.data["sessions"], quiet.data["frames_per_second"]) == ([], 0)

        send(host, "tap0", FRAME, 200)
        told = events.until(lambda one: one.kind == "counters" and one.data["sessions"], "counters of frames")
        [[*key, frames, bits]] = told.data["sessions"]
        assert key == list(WHO.values())
        assert bits == pytest.approx(8 * COPY * frames, abs=8 * COPY * 0.06)  # frames are told to a tenth
        assert told.data["frames_per_second"] == pytest.approx(frames, rel=1e-3, abs=0.06)
        assert told.data["latency_seconds"] > 0

        assert api("PUT", "filters/more", {"rules": [{"priority": 1, "action": "accept"}]}).status == 201
        row = events.until(lambda one: one.kind == "audit", "the change").data
        assert row == {key: value for key, value in api.audit()[-1].items() if key not in ("old", "new")}
        assert (row["operation"], row["object"]) == ("create", "more")

        host.run("ip", "link", "delete", "tap0")
        told = events.until(lambda one: one.kind == "state" and one.data["state"] == "waiting", "it waits")
        assert told.data == {**WHO, "state": "waiting", "reason": told.data["reason"]}
        assert "tap0" in told.data["reason"]

        second = busy(reader("GET", "history").body)
        assert second
        for frames, bits in second:
            assert bits / frames == pytest.approx(8 * COPY, rel=0.005)
        steps = wait_for(
            lambda: busy(reader("GET", "history?mirror=core&session=a").body), "the session's step has ended", 60
        )
        assert steps[0][1] / steps[0][0] == pytest.approx(8 * COPY, rel=0.005)
        with contextlib.ExitStack() as many:  # who may only read keeps nobody out who may change
            for _ in range(MOST_LISTENERS - 1):
                assert many.enter_context(EventStream(reading)).status == 200
            assert many.enter_context(EventStream(reading)).status == 503
            assert many.enter_context(EventStream(running.socket)).status == 200
        assert running.stop()[0] == 0, "a listener does not hold it up"


@pytest.mark.parametrize("dataplane", ["native"])
def test_a_history_that_is_not_there(net: Topology, daemon: MakeDaemon) -> None:
    api = Api(daemon(tapped(net)[0], CORE).socket)
    assert api("GET", "history?mirror=core&session=none").status == 404
    assert api("GET", "history?mirror=core").code == "bad_request"
    assert api("GET", "history?since=soon").code == "bad_request"

    def some() -> list[float] | None:
        past = api("GET", "history").body
        assert past["step_seconds"] == 1
        return past["times"] if len(past["times"]) > 2 else None

    times = wait_for(some, "three seconds")
    assert times == sorted(times)
    later = api("GET", f"history?since={times[0] + 0.001}").body
    assert later["times"][0] > times[0]
    assert {len(later["times"])} == {len(later["dropped_per_second"]["ring_full"]), len(later["ring_fill"])}
    assert api("HEAD", "events").status == 405


def descriptors(daemon: Daemon) -> int:
    return len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))


def test_a_client_that_never_reads_is_ended(net: Topology, tmp_path: Path) -> None:
    """All states, to begin with, are more than the kernel keeps for it (unix(7), SO_SNDBUF)."""
    name = "x" * 58
    many = "".join(
        f'[[mirrors.{name}.sessions]]\nname = "{name}{n}"\nsource = "{n}"\n'
        f'destination = {{ type = "vxlan", remote = "192.0.2.2", vni = {n} }}\n'
        for n in range(1500)
    )
    daemon = Daemon(net.host("host"), tmp_path, many, up=False)
    before = descriptors(daemon)
    with contextlib.ExitStack() as clients, EventStream(daemon.socket) as reads:
        for _ in range(5):
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(daemon.socket))
            client.sendall(b"GET /v1/events HTTP/1.1\r\nHost: mirrord\r\n\r\n")
        reads.until(lambda one: one.kind == "ready", "all states")
        wait_for(lambda: daemon.output().count("a client does not read") == 5, "they are given up", 30)
        reads.until(lambda one: one.kind == "counters", "another one is told all the same")
        wait_for(lambda: descriptors(daemon) <= before + 1, "their connections end")
    wait_for(lambda: descriptors(daemon) <= before, "all connections end")
    assert daemon.stop()[0] == 0
