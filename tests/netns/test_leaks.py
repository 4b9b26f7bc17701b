"""Nothing stays behind of what came and went: live captures, session changes, reloads.

client eth0 ---- nic [source] uplink ---- eth0 [collector]

`--comings 100` runs 100 captures, ten times as many session changes and 100 reloads.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import MakeDaemon
from tests.support.api import Api
from tests.support.daemon import Daemon
from tests.support.send import FRAME, send
from tests.support.source import VXLAN, session, source_and_collector
from tests.support.topology import Topology
from tests.support.wait import wait_for

WARM_UP = 5
MEMORY = 6 << 20
"""Bytes that the allocator's moods may add; one live capture once left 35 MB of address space behind."""


class Size(NamedTuple):
    """What a process takes: bytes of address space and memory, and how many of the rest."""

    space: int
    resident: int
    descriptors: int
    threads: int
    maps: int


def size(daemon: Daemon) -> Size:
    process = Path(f"/proc/{daemon.pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return Size(
        int(status["VmSize"].split()[0]) << 10,
        int(status["VmRSS"].split()[0]) << 10,
        len(list((process / "fd").iterdir())),
        int(status["Threads"]),
        len((process / "maps").read_text().splitlines()),
    )


def capture(daemon: Daemon) -> None:
    """A live capture, up to its first bytes."""
    connection = http.client.HTTPConnection("mirrord", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(daemon.socket))
    try:
        connection.request("GET", "/v1/mirrors/m/sessions/s/capture")
        response = connection.getresponse()
        assert response.status == http.client.OK
        assert response.read(4) == b"\x0a\x0d\x0d\x0a"  # a section header block
        send(daemon.host, "nic", FRAME)
    finally:
        connection.close()


def change(api: Api, number: int) -> None:
    """The session of another mirror begins, with another destination each time."""
    made = {
        "name": "t", "source": "nic", "capture": "ring", "ring_size": "1MiB",
        "destination": {"type": "vxlan", "remote": "10.99.0.2", "vni": 2 + number % 2},
    }  # fmt: skip
    assert api("PUT", "mirrors/other", {"enabled": True, "sessions": [made]}).status in (200, 201)


def reload(daemon: Daemon, api: Api) -> None:
    with daemon.file.open("a") as file:
        file.write("\n")
    assert api("POST", "reload").status == 200


def flat(daemon: Daemon, what: str, once: Callable[[int], None], count: int) -> None:
    """It takes no more after `count` times than after a few."""
    for n in range(WARM_UP):
        once(n)
    api = Api(daemon.socket)
    assert api("GET", "status").status == 200
    rested = least(daemon, None)
    for n in range(count):
        once(n)
    after = least(daemon, rested)
    grown = Size(*(now - before for now, before in zip(after, rested, strict=True)))
    print(f"{count} {what}: {rested} -> {after}")
    assert max(grown.space, grown.resident) <= MEMORY, grown
    assert max(grown.descriptors, grown.threads) <= 0, grown
    assert grown.maps <= 2, grown  # the allocator's


def least(daemon: Daemon, rested: Size | None) -> Size:
    """What it takes at rest: when what ends in the background has ended."""
    seen = [size(daemon)]

    def at_rest() -> bool:
        seen.append(size(daemon))
        now = seen[-1]
        if rested is not None:
            return now.descriptors <= rested.descriptors and now.threads <= rested.threads
        return len(seen) > 100 and now[2:] == seen[-50][2:]

    try:
        wait_for(at_rest, "nothing left behind")
    except AssertionError as never:
        raise AssertionError(f"{never}: {rested} -> {seen[-1]}") from never
    return seen[-1]


def test_nothing_stays_behind(net: Topology, daemon: MakeDaemon, request: pytest.FixtureRequest) -> None:
    count = request.config.getoption("--comings")
    _, source, _ = source_and_collector(net)
    mirrord = daemon(source, session('capture = "ring"', VXLAN))
    api = Api(mirrord.socket)
    with ThreadPoolExecutor(12) as clients:  # have the daemon begin all the threads that it keeps for what blocks
        list(clients.map(lambda _: capture(mirrord), range(24)))
    flat(mirrord, "live captures", lambda _: capture(mirrord), count)
    flat(mirrord, "session changes", lambda n: change(api, n), 10 * count if count >= 100 else count)
    flat(mirrord, "reloads", lambda _: reload(mirrord, api), count)
