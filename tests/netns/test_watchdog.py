"""The watchdog is fed while the workers make progress, and only then."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.stopped import niced, stopped
from tests.support.topology import Topology
from tests.support.wait import wait_for

WATCHDOG_SECONDS = 4  # an idle worker turns once a second
NICE = 3  # a worker's, and no other thread's
SESSION = """
[[mirrors.m.sessions]]
name = "s"
source = "nic"
destination = { type = "vxlan", remote = "192.0.2.2", vni = 1 }
"""


def fed(manager: socket.socket, seconds: float) -> bool:
    """Whether the watchdog is fed within this time."""
    manager.settimeout(seconds)
    try:
        return manager.recv(100) == b"WATCHDOG=1"
    except TimeoutError:
        return False


def test_a_worker_that_stands_still_starves_the_watchdog(net: Topology, tmp_path: Path) -> None:
    """On one data plane: both have the same loop around them."""
    host, other = net.host("host"), net.host("other")
    net.link(host, "nic", other, "eth0", ("192.0.2.1/24", "192.0.2.2/24"))
    under = ("env", f"WATCHDOG_USEC={WATCHDOG_SECONDS * 1_000_000}")
    daemon = Daemon(host, tmp_path, SESSION, under=under, nice=NICE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify.sock"))
        assert fed(manager, WATCHDOG_SECONDS)
        (worker,) = niced(daemon.pid, NICE)
        with stopped(worker):
            wait_for(lambda: "worker makes no progress" in daemon.output(), "the stalled worker noticed")
            while fed(manager, 0.01):  # before that
                pass
            assert not fed(manager, 2.5)  # of two ticks or three
        assert fed(manager, WATCHDOG_SECONDS)
    assert daemon.stop()[0] == 0
