"""What changes, told as it changes: states, objects, audit rows and counters, to several listeners.

guest eth0 ---- tap0 [host] up0 ---- up0 collector
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeDaemon
from tests.support.api import Api
from tests.support.send import FRAME, send
from tests.support.topology import Topology
from tests.support.uplink import mirror, tapped

Event = tuple[str, Any]


@pytest.fixture
def dataplane() -> str:
    """One is enough: how frames are moved is not looked at."""
    return "native"


@contextmanager
def listening(path: Path) -> Iterator[Iterator[Event]]:
    """Events as they come; what takes longer than 20 s fails."""
    connection = http.client.HTTPConnection("mirrord")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(20)
    connection.sock.connect(str(path))
    try:
        connection.request("GET", "/v1/events")
        response = connection.getresponse()
        assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream")
        yield _events(response)
    finally:
        connection.close()


def _events(response: http.client.HTTPResponse) -> Iterator[Event]:
    name = ""
    while line := response.readline().decode().rstrip("\n"):
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)
            assert response.readline() == b"\n"
        else:  # a comment
            assert response.readline() == b"\n"


def until(events: Iterator[Event], wanted: str) -> Any:
    """What the next event of this name says."""
    return next(told for name, told in events if name == wanted)


def test_what_changes_is_told_to_who_listens(net: Topology, daemon: MakeDaemon) -> None:
    host, _ = tapped(net)
    mirrord = daemon(host, "", up=False)
    api = Api(mirrord.socket)
    assert api("PUT", "mirrors/core", mirror("tap0", 1)).status == 201
    mirrord.wait_up()
    with listening(mirrord.socket) as one, listening(mirrord.socket) as other:
        for events in (one, other):
            (told,) = until(events, "states")["sessions"]
            assert (told["mirror"], told["source"], told["state"]) == ("core", "tap0", "up")
            (first,) = until(events, "counters")["sessions"]
            assert first["captured_frames"] == 0
        send(host, "tap0", FRAME, 7)
        for events in (one, other):
            (counted,) = until(events, "counters")["sessions"]
            while counted["mirrored_frames"] < 7:
                (counted,) = until(events, "counters")["sessions"]
            settled = mirrord.settle(7)
            assert counted["captured_frames"] == settled.total("mirrord_captured_frames_total") == 7
            assert counted["sent_bytes"] == settled.total("mirrord_sent_bytes_total")
            assert (counted["skipped_frames"], counted["dropped_frames"]) == ({}, {})
        host.ip("link set dev up0 down")
        (lost,) = until(one, "states")["sessions"]
        assert lost["state"] != "up"
        assert lost["reason"]
        host.ip("link set dev up0 up")
        assert api("PATCH", "mirrors/core", {"description": "new"}).status == 200
        until(one, "objects")
        row = until(one, "audit")
        assert (row["operation"], row["object"], row["user"], row["result"]) == ("change", "core", "root", "done")
        assert api("PUT", "mirrors/core/sessions/two", {"source": "tap0"}).status == 422
        assert until(one, "audit")["result"] == "refused"
        assert api("DELETE", "mirrors/core").status == 204
        while not (gone := until(one, "states")["gone"]):
            pass
        assert [(told["mirror"], told["source"]) for told in gone] == [("core", "tap0")]
    assert api("GET", "status").status == 200
