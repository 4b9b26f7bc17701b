"""The watchdog is fed while the workers make progress, and only then."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.topology import Topology
from tests.support.wait import wait_for

PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT, WALL = 17, 0x4206, 0x4207, 0x40000000  # linux/ptrace.h, linux/wait.h
WATCHDOG_SECONDS = 4  # an idle worker turns once a second
NICE = 3  # a worker's, and no other thread's
SESSION = """
[[mirrors.m.sessions]]
name = "s"
source = "nic"
destination = { type = "vxlan", remote = "192.0.2.2", vni = 1 }
"""


@contextmanager
def stopped(thread: int) -> Iterator[None]:
    """Hold one thread, wherever it is, while the others of its process go on (ptrace(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    assert libc.ptrace(PTRACE_SEIZE, thread, None, None) == 0, os.strerror(ctypes.get_errno())
    assert libc.ptrace(PTRACE_INTERRUPT, thread, None, None) == 0, os.strerror(ctypes.get_errno())
    os.waitpid(thread, WALL)
    try:
        yield
    finally:
        assert libc.ptrace(PTRACE_DETACH, thread, None, None) == 0, os.strerror(ctypes.get_errno())


def worker(pid: int) -> int:
    """The id of the daemon's only worker."""
    (found,) = [
        int(task.name)
        for task in Path(f"/proc/{pid}/task").iterdir()
        if os.getpriority(os.PRIO_PROCESS, int(task.name)) == NICE
    ]
    return found


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
        with stopped(worker(daemon.pid)):
            wait_for(lambda: "worker makes no progress" in daemon.output(), "the stalled worker noticed")
            while fed(manager, 0.01):  # before that
                pass
            assert not fed(manager, 2.5)  # of two ticks or three
        assert fed(manager, WATCHDOG_SECONDS)
    assert daemon.stop()[0] == 0
