"""kill -9 under load, with changes under way, and a start: everything is as it was, within a second.

guest eth0 ---- tap0 [host] up0 ---- up0 collector
"""

from __future__ import annotations

import http.client
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Answer, Api
from tests.support.daemon import Daemon
from tests.support.send import send, udp_frame
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

pytestmark = pytest.mark.alone

FRAME = udp_frame(("02:00:00:00:00:01", "10.1.0.1", 1000), ("02:00:00:00:00:02", "10.1.0.2", 2000), length=100)
SESSIONS = 10


def mirror(vni: int) -> dict[str, Any]:
    destination = {"type": "vxlan", "remote": "192.0.2.2", "vni": vni}
    return {"sessions": [{"name": "s", "source": "tap0", "direction": "egress", "destination": destination}]}


@pytest.fixture
def host(net: Topology) -> Host:
    host, collector, guest = net.host("host"), net.host("collector"), net.host("guest")
    net.link(host, "up0", collector, "up0", ("192.0.2.1/24", "192.0.2.2/24"), mtu=1600)
    host.ip(f"neighbour replace 192.0.2.2 lladdr {collector.mac('up0')} dev up0")
    net.link(host, "tap0", guest, "eth0")
    return host


def objects(api: Api) -> list[Any]:
    """The mirrors without their counters."""
    mirrors = api("GET", "mirrors").body["mirrors"]
    for one in mirrors:
        for session in one["sessions"]:
            del session["running"]
    return list(mirrors)


def test_a_killed_daemon_comes_back_as_it_was_within_a_second(host: Host, tmp_path: Path) -> None:
    daemon = Daemon(host, tmp_path, "", up=False, dataplane="native")
    api = Api(daemon.socket)
    for vni in range(SESSIONS):
        assert api("PUT", f"mirrors/m{vni}", mirror(vni)).status == 201
    before, audit = objects(api), api.audit()
    answers: list[Answer] = []

    def change() -> None:
        with suppress(OSError, http.client.HTTPException):
            while True:
                answers.append(api("PUT", "mirrors/changing", {"description": str(len(answers))}))

    sending = threading.Thread(target=send, args=(host, "tap0", FRAME, 8000, 4000))
    changing = threading.Thread(target=change)
    sending.start()
    changing.start()
    wait_for(lambda: len(answers) > 20, "changes under way")
    daemon.kill()
    changing.join()

    begun = time.monotonic()
    daemon = Daemon(host, tmp_path, "", dataplane="native")
    assert time.monotonic() - begun < 1.0
    sending.join()
    *after, changed = objects(api)
    assert after == before
    assert int(changed["description"]) - (len(answers) - 1) in {0, 1}  # 1: it was done, and the answer was not read
    rows = api.audit("?limit=20000")
    assert rows[: len(audit)] == audit
    assert rows[-1]["new"]["description"] == changed["description"]
    assert daemon.metrics().total("mirrord_captured_frames_total") > 0
    assert daemon.stop()[0] == 0
