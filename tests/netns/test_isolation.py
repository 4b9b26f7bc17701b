"""A way out that takes nothing is its session's own trouble: on one worker, 48 other sessions do not notice.

client eth0 ---- nic [source] uplink ---- eth0 [collector]
client eth1 ---- flood [source] slow ---- eth1 [collector]      slow: 8 kbit/s, with room for 100 MB in its queue
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Api
from tests.support.ctl import COMMAND
from tests.support.daemon import Daemon
from tests.support.meanwhile import meanwhile
from tests.support.metrics import Metrics
from tests.support.send import ENDS, send, udp_frame
from tests.support.stopped import ended, niced, stopped
from tests.support.topology import Host, Topology, acquaint
from tests.support.wait import wait_for

SESSIONS = 48
FIRST_PORT = 3000
RATE = 25  # frames a second of each session
LONGEST_GAP = 0.5  # seconds; 0.04 is what is sent
ANSWER = 2.0
NICE = -10  # a worker's, and no other thread's: what else this machine does is not to show in the gaps
WATCHDOG_SECONDS = 4
SO_RCVBUFFORCE, SO_TIMESTAMPNS = 33, 35  # asm-generic/socket.h


def tunnel(vni: int) -> dict[str, Any]:
    return {"type": "vxlan", "remote": "10.98.0.2", "vni": vni}


JAMS: dict[str, dict[str, Any]] = {
    "vxlan": {"destination": tunnel(5000)},
    "socket": {"destination": tunnel(5001), "transmit": "socket"},
    "device": {"destination": {"type": "device", "device": "slow"}},
    "ring": {"destination": tunnel(5002), "capture": "ring"},
}


def frame(n: int) -> bytes:
    return udp_frame(("02:00:00:00:00:01", "10.0.0.1", 1000), ("02:00:00:00:00:02", "10.0.0.2", FIRST_PORT + n))


def configuration() -> str:
    filters = "".join(
        f"[filters.f{n}]\n"
        f'rules = [{{ priority = 1, action = "accept", protocol = "udp", destination_ports = "{FIRST_PORT + n}" }}]\n'
        for n in range(SESSIONS)
    )
    sessions = "".join(
        f'[[mirrors.others.sessions]]\nname = "s{n}"\nsource = "nic"\nfilter = "f{n}"\n'
        f'destination = {{ type = "vxlan", remote = "10.99.0.2", vni = {n + 1} }}\n'
        for n in range(SESSIONS)
    )
    return filters + sessions


class Others:
    """Frames to the other sessions, and when their copies arrive at the collector, by the kernel's clock."""

    def __init__(self, client: Host, collector: Host) -> None:
        self.sent = 0  # to each session
        self._out = client.open_socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._out.bind(("eth0", 0))
        self._in = collector.open_socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._in.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 256 << 20)
        self._in.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._in.setblocking(False)
        self._in.bind(("eth0", 3))
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        frames = [frame(n) for n in range(SESSIONS)]
        while not self._end.wait(1 / RATE):
            for one in frames:
                self._out.send(one)
            self.sent += 1

    def stop(self) -> None:
        self._end.set()
        self._thread.join()
        self._out.close()

    def arrivals(self) -> dict[int, list[float]]:
        """When the copies of each session arrived, by VNI."""
        found: dict[int, list[float]] = {}
        while True:
            try:
                data, ancillary, *_ = self._in.recvmsg(200, 100)
            except BlockingIOError:
                return found
            if data[12:14] == b"\x08\x00" and data[23] == 17 and data[36:38] == (4789).to_bytes(2, "big"):
                seconds, nanoseconds = struct.unpack("@ll", ancillary[0][2])
                found.setdefault(data[46] << 16 | data[47] << 8 | data[48], []).append(seconds + nanoseconds / 1e9)

    def close(self) -> None:
        self.stop()
        self._in.close()


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host, Host]:
    client, source, collector = net.host("client"), net.host("source"), net.host("collector")
    net.link(client, "eth0", source, "nic")
    net.link(client, "eth1", source, "flood")
    net.link(source, "uplink", collector, "eth0", ("10.99.0.1/24", "10.99.0.2/24"), mtu=1600)
    net.link(source, "slow", collector, "eth1", ("10.98.0.1/24", "10.98.0.2/24"), mtu=1600)
    acquaint(source, "uplink", "10.99.0.1", collector, "eth0", "10.99.0.2")
    acquaint(source, "slow", "10.98.0.1", collector, "eth1", "10.98.0.2")
    source.run(
        "tc", "qdisc", "add", "dev", "slow", "root", "tbf", "rate", "8kbit", "burst", "2kb", "limit", "100000000"
    )
    return client, source, collector


@pytest.fixture
def mirrord(hosts: tuple[Host, Host, Host], dataplane: str, tmp_path: Path) -> Iterator[Daemon]:
    """On one processor, so with one worker."""
    captures = tmp_path / "captures"
    captures.mkdir()
    under = ("nice", "-n", "-9", "taskset", "-c", "0", "env", f"WATCHDOG_USEC={WATCHDOG_SECONDS * 1_000_000}")
    settings: dict[str, Any] = {"dataplane": dataplane, "nice": NICE, "capture_directories": [str(captures)]}
    made = Daemon(hosts[1], tmp_path, configuration(), under=under, **settings)
    yield made
    made.kill()


@pytest.fixture
def others(hosts: tuple[Host, Host, Host], mirrord: Daemon) -> Iterator[Others]:
    del mirrord  # runs first
    made = Others(hosts[0], hosts[2])
    yield made
    made.close()


@contextmanager
def flooding(client: Host, rate: int = 5000) -> Iterator[None]:
    """Frames for `flood`, faster than `slow` takes their copies by far; long ones, which fill a send buffer soon."""
    long = udp_frame(*ENDS, length=1400)
    with meanwhile(lambda: send(client, "eth1", long, rate // 10, rate=rate)):
        yield


def make(api: Api, name: str, session: dict[str, Any]) -> None:
    jam = {"name": "jam", "source": "flood", **session}
    answer = api("PUT", f"mirrors/{name}", {"enabled": True, "sessions": [jam]})
    assert answer.status in (200, 201), answer
    wait_for(lambda: api("GET", f"mirrors/{name}").body["sessions"][0]["running"][0]["state"] == "up", f"{name} up")


def timed_disable(api: Api, name: str) -> float:
    begun = time.monotonic()
    assert api("POST", f"mirrors/{name}/disable").status == 200
    return time.monotonic() - begun


def counted(metrics: Metrics, mirror: str) -> tuple[float, float, float]:
    """Captured, mirrored, and what ended otherwise."""
    captured, mirrored = (
        metrics.total(f"mirrord_{what}_frames_total", mirror=mirror) for what in ("captured", "mirrored")
    )
    lost = metrics.total("mirrord_dropped_frames_total", mirror=mirror)
    return captured, mirrored, lost


def accounted(metrics: Metrics, mirror: str) -> bool:
    captured, mirrored, lost = counted(metrics, mirror)
    return captured == mirrored + lost


def check(others: Others, mirrord: Daemon) -> None:
    """None of the others' frames is lost, nor late."""
    others.stop()
    sent = others.sent
    wait_for(lambda: sum(counted(mirrord.metrics(), "others")[1:]) >= sent * SESSIONS, "the others' frames mirrored")
    assert counted(mirrord.metrics(), "others") == (sent * SESSIONS, sent * SESSIONS, 0)
    arrivals = others.arrivals()
    assert {vni: len(times) for vni, times in arrivals.items()} == dict.fromkeys(range(1, SESSIONS + 1), sent)
    gap = max(after - before for times in arrivals.values() for before, after in pairwise(times))
    assert gap < LONGEST_GAP


def terminate(mirrord: Daemon) -> None:
    begun = time.monotonic()
    status, said = mirrord.stop(15)
    assert (status, time.monotonic() - begun < ANSWER) == (0, True), said


@pytest.mark.alone
def test_a_way_out_that_takes_nothing_stalls_no_other_session(
    hosts: tuple[Host, Host, Host], mirrord: Daemon, others: Others
) -> None:
    """Tunnels and a device, one after the other under a flood; then all at once, and SIGTERM."""
    client, api, taken = hosts[0], Api(mirrord.socket), dict[str, float]()
    for name, session in JAMS.items():
        make(api, name, session)
        with flooding(client):
            wait_for(lambda: counted(mirrord.metrics(), name)[2] > 100, f"{name} jammed", 20)  # noqa: B023
            taken[name] = timed_disable(api, name)
        assert api("POST", f"mirrors/{name}/enable").status == 200  # what was counted is shown again
        wait_for(lambda: accounted(mirrord.metrics(), name), f"{name}'s frames accounted for")  # noqa: B023
        timed_disable(api, name)
    check(others, mirrord)
    assert max(taken.values()) < ANSWER, taken
    for name in JAMS:
        assert api("POST", f"mirrors/{name}/enable").status == 200
    lost = counted(mirrord.metrics(), "ring")[2]
    with flooding(client):
        wait_for(lambda: counted(mirrord.metrics(), "ring")[2] > lost, "jammed again", 20)
        terminate(mirrord)


@contextmanager
def unread(mirrord: Daemon, session: str) -> Iterator[None]:
    """A live capture that nobody reads."""
    command = [*COMMAND, "--socket", str(mirrord.socket), "capture", session, "-w", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            yield
        finally:
            process.kill()


@pytest.mark.alone
def test_a_disk_that_does_not_answer_stalls_no_other_session(
    hosts: tuple[Host, Host, Host], mirrord: Daemon, others: Others, tmp_path: Path
) -> None:
    """Nor does who reads a live capture no more. The thread that writes is held, as a disk that hangs would hold it."""
    client, api, file = hosts[0], Api(mirrord.socket), tmp_path / "captures" / "jam.pcapng"
    before = niced(mirrord.pid, NICE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, unread(mirrord, "others/s0"):
        manager.bind(str(tmp_path / "notify.sock"))
        make(api, "disk", {"destination": {"type": "file", "path": str(file)}})
        (writer,) = niced(mirrord.pid, NICE) - before
        with unread(mirrord, "disk/jam"), flooding(client, 1000), stopped(writer):
            wait_for(lambda: state(api, "disk") == f"failed: {file}: the disk does not answer", "that it hangs, told")
            assert mirrord.metrics().total("mirrord_worker_stalled") == 1
            assert any(one["code"] == "worker_stalled" for one in api("GET", "doctor").body["doctor"])
            wait_for(lambda: manager.recv(100) == b"WATCHDOG=1", "the watchdog fed all the same")
            assert timed_disable(api, "disk") < ANSWER
            assert api("POST", "mirrors/disk/enable").status == 200
            wait_for(lambda: state(api, "disk").startswith("failed: "), "that the file is still held, told")
        with flooding(client, 1000):
            wait_for(lambda: state(api, "disk") == "up: ", "it writes again, by another thread", 15)
            wait_for(lambda: counted(mirrord.metrics(), "disk")[2] > 0, "frames in the file")
        wait_for(lambda: accounted(mirrord.metrics(), "disk"), "its frames accounted for")
        check(others, mirrord)
        (writer,) = niced(mirrord.pid, NICE) - before
        with flooding(client, 1000), stopped(writer):
            begun = time.monotonic()
            os.kill(mirrord.pid, signal.SIGTERM)
            wait_for(lambda: ended(writer), "the end", 15)
            assert (mirrord.stop(5)[0], time.monotonic() - begun < ANSWER) == (0, True), mirrord.output()


def state(api: Api, mirror: str) -> str:
    one = api("GET", f"mirrors/{mirror}").body["sessions"][0]["running"][0]
    return f"{one['state']}: {one['reason']}"
