"""Faults of the host, one after the other, under traffic: every frame is accounted for, and all is as before.

guest eth0 ---- tap0 [host] up0 ---- up0 collector

Each fault ends with the same look: what the host sent by `tap0`, as the kernel counts it, is what was captured, each
frame is mirrored, skipped or dropped, what was mirrored left by `up0`, more frames are all mirrored, and nothing was
left open.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import MakeDaemon
from tests.support.api import Api
from tests.support.cgroup import limited
from tests.support.ctl import invoke
from tests.support.daemon import Daemon
from tests.support.send import FRAME, send
from tests.support.strace import injected
from tests.support.topology import Host, Topology
from tests.support.uplink import CORE, tapped
from tests.support.wait import wait_for

ERRORS = ("EIO", "ENOMEM", "EPERM", "ENOBUFS", "EAGAIN", "EINTR", "ENETDOWN")
SENDS, READS = "sendmmsg,sendmsg,sendto", "recvmmsg,recvmsg"
OF_FRAMES = re.compile(r"<(socket|UDP):.*\(INJECTED\)")
"""In strace's words: a call of a packet socket's, or of UDP's, failed, not one of the control plane's."""

GUESTS = """
[[mirrors.guests.sessions]]
name = "web"
source = {{ type = "container", container = "web", engine = "{engine}" }}
destination = {{ type = "vxlan", remote = "192.0.2.2", vni = 9 }}

[[mirrors.guests.sessions]]
name = "vm"
source = {{ type = "vm", vm = "VM-2", connection = "qemu:///system?socket={libvirt}" }}
destination = {{ type = "vxlan", remote = "192.0.2.2", vni = 10 }}
"""


class Looked:
    """A daemon whose mirror `core` copies what leaves by tap0, and what it holds at rest."""

    def __init__(self, host: Host, mirrord: Daemon) -> None:
        self.host, self.mirrord = host, mirrord
        self._before, self._copies = host.transmitted("tap0"), host.transmitted("up0")
        self._mirrored = 0.0
        self.recovers()
        self.held = self._held()

    def _held(self) -> tuple[int, int]:
        process = Path(f"/proc/{self.mirrord.pid}")
        return len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))

    def send(self, count: int = 200) -> None:
        send(self.host, "tap0", FRAME, count, rate=4000)

    def accounted(self) -> None:
        """What was sent was captured, and each frame has come to its end."""

        def all_there() -> bool:
            metrics, sent = self.mirrord.metrics(), self.host.transmitted("tap0") - self._before
            captured = metrics.total("mirrord_captured_frames_total", mirror="core")
            return bool(captured == sent and metrics.unaccounted() == 0)

        wait_for(all_there, "what was sent, captured and accounted for", 30)
        self._mirrored = self.mirrord.metrics().total("mirrord_mirrored_frames_total", mirror="core")
        assert self.host.transmitted("up0") - self._copies == self._mirrored

    def recovers(self) -> None:
        """More frames are all mirrored."""

        def up() -> bool:
            return self.mirrord.metrics().total("mirrord_session_up", mirror="core") == 1

        self.accounted()
        self.send(1)
        wait_for(up, "the session up", 30)
        self.accounted()
        before = self._mirrored
        self.send(50)
        self.accounted()
        assert self._mirrored - before == 50

    def nothing_left(self) -> None:
        wait_for(lambda: self._held() <= self.held, f"no more than {self.held} open: {self._held()}", 20)


@pytest.fixture
def looked(net: Topology, daemon: MakeDaemon, tmp_path: Path) -> Iterator[Looked]:
    host, _ = tapped(net)
    with hanging(tmp_path / "engine") as engine, hanging(tmp_path / "libvirt") as libvirt:
        mirrord = daemon(host, CORE + GUESTS.format(engine=engine, libvirt=libvirt), up=False)
        wait_for(lambda: mirrord.metrics().total("mirrord_session_up", mirror="core") == 1, "the session")
        yield Looked(host, mirrord)
    assert "Traceback" not in mirrord.output()


@contextmanager
def hanging(path: Path) -> Iterator[Path]:
    """A socket that takes connections and never says anything, as a manager that hangs."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        path.chmod(0o666)
        listening.listen(64)
        yield path


def test_system_calls_that_fail(looked: Looked, tmp_path: Path) -> None:
    """Each error in turn, of all that sends (one that fails once is tried again), then of one in three that reads."""
    for error in ERRORS:
        for calls, when, times in ((SENDS, "1+1", 10), (READS, "2+3", 1)):
            fault, seen = f"inject={calls}:error={error}:when={when}", tmp_path / "seen"
            with injected(looked.mirrord, "-yy", "-o", str(seen), "-e", f"trace={calls}", "-e", fault):
                looked.send()
                wait_for(lambda: len(OF_FRAMES.findall(seen.read_text())) >= times, f"{error} of {calls}", 30)  # noqa: B023
            looked.recovers()
    for reasons in (("send_error",), ("link_down", "no_route")):  # the latter ENETDOWN, of a device and of a next hop
        metrics = looked.mirrord.metrics()
        assert sum(metrics.total("mirrord_dropped_frames_total", reason=one) for one in reasons) > 0
    looked.nothing_left()


def test_managers_that_hang_stopped_and_starved_and_stormed(looked: Looked) -> None:
    """A container engine and a libvirt that never answer are there all the while: their sessions alone wait."""
    api, mirrord = Api(looked.mirrord.socket), looked.mirrord
    states = {one["session"]: one["state"] for one in api("GET", "status").body["sessions"]}
    assert states.pop("a") == "up"
    assert set(states.values()) <= {"waiting"}

    mirrord.freeze()  # SIGSTOP
    looked.send()
    mirrord.thaw()
    looked.recovers()

    with limited(mirrord.pid, "cpu", 5000):  # a twentieth of a processor for all of the daemon
        looked.send()
        looked.accounted()
    looked.recovers()

    storms = [threading.Thread(target=storm, args=(mirrord,)) for storm in (signals, changes)]
    for one in storms:
        one.start()
    while any(one.is_alive() for one in storms):
        looked.send(40)
    looked.recovers()
    assert api("GET", "status").body["config"]["last_reload_successful"]
    looked.nothing_left()


def signals(mirrord: Daemon) -> None:
    for _ in range(40):
        mirrord.reload()


def changes(mirrord: Daemon) -> None:
    for n in range(8):
        assert invoke(mirrord.socket, "reload").exit_code == 0
        assert Api(mirrord.socket)("PUT", "mirrors/x", {"description": str(n)}).status < 300
