"""What goes on while something else changes: 49 sessions at the reload of the 50th, and all of them after a crash.

[guest] g0 ... g49 ---- t0 ... t49 [host] up0 ---- up0 [collector]
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.conftest import MakeDaemon
from tests.support.daemon import Daemon
from tests.support.send import FRAME
from tests.support.topology import Host, Topology
from tests.support.uplink import Uplink, session
from tests.support.wait import wait_for

pytestmark = pytest.mark.alone

SESSIONS = 50
RATE = {"python": 1000, "native": 10_000}  # frames a second, over all sessions
TELL_THE_TIME = ("sh", "-c", 'cat /proc/uptime; exec "$@"', "sh")
"""Words before a command: print the seconds since the machine's start, and become the command."""


@pytest.fixture
def uplink(net: Topology) -> Iterator[Uplink]:
    with Uplink(net) as uplink:
        yield uplink


def connect(host: Host, guest: Host) -> None:
    """All the pairs at once."""
    host.run("ip", "-batch", "-", stdin="".join(
        f"link add name t{n} type veth peer name g{n} netns {guest.name}\nlink set t{n} up\n" for n in range(SESSIONS)
    ))  # fmt: skip
    guest.run("ip", "-batch", "-", stdin="".join(f"link set g{n} up\n" for n in range(SESSIONS)))


class Load:
    """Frames into the devices, in turn, at a rate over all of them, until it is told to stop; counts them."""

    def __init__(self, guest: Host, devices: Sequence[str], rate: float) -> None:
        self._rate = rate / len(devices)
        self._stack = ExitStack()
        self._sockets = []
        for device in devices:
            out = self._stack.enter_context(guest.open_socket(socket.AF_PACKET, socket.SOCK_RAW))
            out.bind((device, 0))
            self._sockets.append(out)
        self._rounds = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        begun = time.monotonic()
        while not self._stopped.wait(0.002):
            for _ in range(int((time.monotonic() - begun) * self._rate) - self._rounds):
                for out in self._sockets:
                    out.send(FRAME)
                self._rounds += 1

    def stop(self) -> int:
        """How many frames each of them was sent."""
        self._stopped.set()
        self._thread.join()
        self._stack.close()
        return self._rounds


def test_a_reload_of_one_session_of_fifty_touches_no_other(
    net: Topology, uplink: Uplink, daemon: MakeDaemon, dataplane: str
) -> None:
    guest = net.host("guest")
    connect(uplink.host, guest)
    rest = "".join(session(f"s{n}", f'"t{n}"', n) for n in range(1, SESSIONS))
    running = daemon(uplink.host, rest + session("s0", '"t0"', 0))
    before = running.file.read_text()
    load = Load(guest, [f"g{n}" for n in range(SESSIONS)], RATE[dataplane])
    changes = [
        'ring_size = "1MiB"',
        "snaplen = 64",
        "sampling_rate = 2",
        'capture = "socket"',
        "mirror_tunnels = true",
        "",
    ]
    for turn, change in enumerate(changes, 1):
        running.file.write_text(before + change + "\n")
        running.reload()
        wait_for(lambda: running.output().count("] reloaded ") == turn, "the reload taken over")  # noqa: B023
    sent = load.stop()

    metrics = running.settle(captured=sent * (SESSIONS - 1))
    for name in ("captured_frames", "mirrored_frames", "sent_packets"):
        counted = [metrics.total(f"mirrord_{name}_total", session=f"s{n}") for n in range(1, SESSIONS)]
        assert counted == [sent] * (SESSIONS - 1), name
    touched = [
        line for line in running.output().splitlines() if "] session changed " in line or "] session down " in line
    ]
    assert {word for line in touched for word in line.split() if word.startswith("session=")} == {"session=s0"}


def test_a_killed_daemon_mirrors_again_within_a_second(
    net: Topology, uplink: Uplink, daemon: MakeDaemon, dataplane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From exec to the first copy, at best of three times: what else the machine does is not mirrord's work."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # else it is the tracer's start that is measured
    guest = net.host("guest")
    net.link(uplink.host, "t0", guest, "g0")
    configuration = session("s0", '"t0"', 0)
    running = daemon(uplink.host, configuration)
    load = Load(guest, ["g0"], 500)
    assert uplink.copies(5)
    took = []
    for _ in range(3):
        running.kill()
        uplink.copies()  # those that were on their way
        with ThreadPoolExecutor(1) as thread:
            came = thread.submit(first_copy, uplink)
            running = Daemon(
                uplink.host, running.file.parent, configuration, under=TELL_THE_TIME, dataplane=dataplane
            )  # fmt: skip
            took.append(came.result() - float(running.output().split()[0]))
    load.stop()
    assert min(took) < 1, took
    metrics = running.settle(captured=1)
    assert metrics.total("mirrord_mirrored_frames_total") == metrics.total("mirrord_captured_frames_total")
    assert running.stop()[0] == 0


def first_copy(uplink: Uplink) -> float:
    """When the next copy came, in seconds since the machine's start."""
    assert uplink.copies(10)[0] == FRAME
    return time.clock_gettime(time.CLOCK_BOOTTIME)
