"""Hundreds of sessions: a change is answered soon, who asks meanwhile does not wait for it, and the end is soon."""

from __future__ import annotations

import http.client
import time

import pytest

from tests.conftest import MakeDaemon
from tests.support.api import Api
from tests.support.loop import Waits
from tests.support.topology import Topology

pytestmark = pytest.mark.alone

SESSIONS, DEVICES = 300, 30
LONGEST_TURN_SECONDS = 0.05  # of the event loop
CHANGE_SECONDS, STOP_SECONDS = (
    0.5,
    1.5,
)  # one session's change; the end of all, of which each waits 10 ms for the kernel


@pytest.mark.parametrize("dataplane", ["native"])  # they differ in nothing that costs without frames
def test_hundreds_of_sessions_change_and_end_together(net: Topology, daemon: MakeDaemon) -> None:
    host = net.host("mirror")
    batch = [f"link add tap{n} type ifb\nlink set tap{n} up" for n in range(DEVICES)]
    batch += ["link add sink type ifb", "link set sink up", "address add 10.77.0.1/24 dev sink"]
    host.run("ip", "-batch", "-", stdin="\n".join(batch))
    mirrord = daemon(host, "", up=False)
    api = Api(mirrord.socket)
    way = {"type": "vxlan", "remote": "10.77.0.2"}
    sessions = [
        {"name": f"s{n}", "source": f"tap{n % DEVICES}", "destination": {**way, "vni": n}} for n in range(SESSIONS)
    ]
    assert api("PUT", "mirrors/many", {"sessions": sessions}).status == http.client.CREATED
    mirrord.wait_up()
    api("PATCH", "mirrors/many/sessions/s7", {"snaplen": 95})
    with Waits(mirrord.socket) as waits:
        begun = time.monotonic()
        answer = api("PATCH", "mirrors/many/sessions/s7", {"snaplen": 96})
        taken = time.monotonic() - begun
    assert answer.body["snaplen"] == 96
    assert taken < CHANGE_SECONDS
    assert waits.longest < LONGEST_TURN_SECONDS
    for resource in ("status", "mirrors/many", "doctor"):
        with Waits(mirrord.socket) as waits:
            assert api("GET", resource).status == http.client.OK
        assert waits.longest < LONGEST_TURN_SECONDS, resource
    begun = time.monotonic()
    status, output = mirrord.stop()
    assert time.monotonic() - begun < STOP_SECONDS
    assert status == 0, output
    assert [output.count(f"[info     ] {what} ") for what in ("session down", "total")] == [SESSIONS, SESSIONS]
