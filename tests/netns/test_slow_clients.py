"""Clients that ask and never read: what they cost the daemon is bounded, and comes back.

[host] with 1,000 sessions, whose devices are not there
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from tests.support.api import Api
from tests.support.daemon import Daemon
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

CLIENTS = 60
MIB = 1 << 20


def sessions(count: int) -> str:
    return "".join(
        f"""
[[mirrors.m{n // 10}.sessions]]
name = "session-{n}"
source = "tap{n}"
destination = {{ type = "vxlan", remote = "192.0.2.2", vni = {n} }}
"""
        for n in range(count)
    )


def resident(daemon: Daemon) -> int:
    """Bytes of the daemon's memory: proc(5), VmRSS."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) << 10


def ask(client: socket.socket, path: str) -> None:
    """Ask for a resource and leave the answer where it is."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # one client too many: the server ends the oldest
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: mirrord\r\n\r\n".encode())


def descriptors(daemon: Daemon) -> int:
    return len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))


@pytest.fixture
def host(net: Topology) -> Host:
    return net.host("host")


def test_clients_that_never_read_cost_little_and_are_left(host: Host, tmp_path: Path) -> None:
    reading = tmp_path / "reading.sock"
    daemon = Daemon(host, tmp_path, sessions(1000), up=False, read_only_socket=str(reading))
    api = Api(daemon.socket)
    for _ in range(2):  # what answers take for a moment is taken
        assert len(api("GET", "mirrors").body["mirrors"]) == 100
        daemon.scrape()
    before, open_before = resident(daemon), descriptors(daemon)

    with contextlib.ExitStack() as clients:
        for _ in range(CLIENTS):
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(str(reading))
            ask(client, "/v1/mirrors")
        for _ in range(CLIENTS):
            client = clients.enter_context(host.open_socket(socket.AF_INET, socket.SOCK_STREAM))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", 9817))
            ask(client, "/metrics")
        wait_for(lambda: descriptors(daemon) > open_before + 20, "many are connected")
        most = 0
        for _ in range(3):
            assert len(api("GET", "mirrors").body["mirrors"]) == 100, "others are answered meanwhile"
            most = max(most, resident(daemon))
        assert (most - before) / MIB < 40  # 60 whole answers of each kind are 300 MiB
        wait_for(lambda: "a client does not read" in daemon.output(), "they are given up", 30)
        wait_for(lambda: descriptors(daemon) <= open_before, "all of them", 30)
        assert (resident(daemon) - before) / MIB < 40
    assert daemon.stop()[0] == 0
