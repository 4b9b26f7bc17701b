"""`mirrorctl capture`: a live stream that tshark reads from a pipe, while the session goes on.

client eth0 ---- nic [source] up ---- eth0 collector
"""

from __future__ import annotations

import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tests.conftest import MakeDaemon
from tests.support.api import Api
from tests.support.ctl import COMMAND, ctl
from tests.support.daemon import Daemon
from tests.support.send import send, udp_frame
from tests.support.topology import Host, Topology, acquaint
from tests.support.wait import wait_for

CONFIGURATION = """
[mirrors.core]
[[mirrors.core.sessions]]
name = "vm2"
source = "nic"
snaplen = 60
destination = { type = "vxlan", remote = "10.1.0.2", vni = 7 }
"""
FRAMES = [
    udp_frame(("02:00:00:00:00:01", "10.0.0.1", 1000), ("02:00:00:00:00:02", "10.0.0.2", 2000 + n), bytes(40))
    for n in range(20)
]


@pytest.fixture
def client(net: Topology) -> Host:
    return net.host("client")


@pytest.fixture
def mirrord(net: Topology, daemon: MakeDaemon, client: Host) -> Daemon:
    source, collector = net.host("source"), net.host("collector")
    net.link(client, "eth0", source, "nic", ("10.0.0.1/24", "10.0.0.2/24"))
    net.link(source, "up", collector, "eth0", ("10.1.0.1/24", "10.1.0.2/24"), mtu=1600)
    acquaint(client, "eth0", "10.0.0.1", source, "nic", "10.0.0.2")
    acquaint(source, "up", "10.1.0.1", collector, "eth0", "10.1.0.2")
    return daemon(source, CONFIGURATION)


def begun(file: Path) -> bool:
    """The stream's headers have come: it captures."""
    return file.exists() and file.stat().st_size > 0


def test_tshark_reads_it_live_from_a_pipe(mirrord: Daemon, client: Host, tmp_path: Path) -> None:
    capture = subprocess.Popen(
        [*COMMAND, "--socket", str(mirrord.socket), "capture", "core/vm2", "-w", "-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    seen = tmp_path / "seen"
    with seen.open("w") as file:
        fields = [word for name in ("udp.dstport", "frame.len", "frame.cap_len") for word in ("-e", name)]
        tshark = subprocess.Popen(
            ["tshark", "-n", "-l", "-i", "-", "-Y", "udp", "-T", "fields", *fields],
            stdin=capture.stdout,
            stdout=file,
            stderr=subprocess.PIPE,
        )
    assert capture.stdout is not None
    capture.stdout.close()
    try:
        lines: list[str] = []

        def reads() -> bool:
            """The first frames may come before the stream does: they are sent until one is seen."""
            send(client, "eth0", FRAMES[0])
            lines[:] = seen.read_text().splitlines()
            return bool(lines)

        wait_for(reads, "tshark sees a frame")
        for frame in FRAMES[1:]:
            send(client, "eth0", frame)
        wait_for(lambda: f"{2019}\t" in seen.read_text(), "the last frame")
    finally:
        capture.send_signal(signal.SIGINT)
        _, said = capture.communicate(timeout=10)
        tshark.communicate(timeout=10)

    rows = [line.split("\t") for line in seen.read_text().splitlines()]
    later = [row for row in rows if row[0] != "2000"]
    assert later == [[str(2000 + n), str(len(FRAMES[0])), "60"] for n in range(1, 20)]
    assert capture.returncode == 0
    assert b" packets, " in said
    metrics = mirrord.settle(len(rows))
    assert metrics.total("mirrord_captured_frames_total") >= len(rows)
    assert metrics.total("mirrord_dropped_frames_total") == 0


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_is_written_to_a_file_and_leaves_nothing_behind(
    mirrord: Daemon, client: Host, tmp_path: Path, end: signal.Signals
) -> None:
    def descriptors() -> int:
        return len(list(Path(f"/proc/{mirrord.pid}/fd").iterdir()))

    for frame in FRAMES:
        send(client, "eth0", frame)
    mirrord.settle(len(FRAMES))  # the session itself has opened what it needs for them
    before, file = descriptors(), tmp_path / "live.pcapng"
    command = [
        *COMMAND,
        "--socket",
        str(mirrord.socket),
        "capture",
        "vm2",
        "-w",
        str(file),
    ]  # core's: none other has one
    command = ["env", "--ignore-signal=INT", *command]  # as a script's shell does with what it begins beside itself
    capture = subprocess.Popen(command, stderr=subprocess.PIPE)
    wait_for(lambda: begun(file), "the capture begins")

    for frame in FRAMES:
        send(client, "eth0", frame)

    def read() -> str:
        return subprocess.run(
            ["tshark", "-n", "-r", str(file), "-Y", "udp", "-T", "fields", "-e", "udp.dstport"],
            capture_output=True, text=True, check=False,
        ).stdout  # fmt: skip

    wait_for(lambda: "2019" in read(), "the last frame in the file")
    capture.send_signal(end)
    _, said = capture.communicate(timeout=10)
    assert capture.returncode == 0
    assert read().split() == [str(2000 + n) for n in range(20)]
    assert b"20 packets, " in said
    wait_for(lambda: descriptors() <= before, "the daemon has closed what it opened")


def test_what_cannot_be_captured_is_told(mirrord: Daemon) -> None:
    def refused(status: int, *arguments: str) -> str:
        return ctl(mirrord.socket, "capture", *arguments, status=status)

    assert "no such session: vm1; did you mean 'vm2'?" in refused(1, "vm1", "-w", "/dev/null")
    vm2 = {"source": "nic", "destination": {"type": "file", "path": "/var/lib/mirrord/captures/vm2.pcapng"}}
    assert (
        Api(mirrord.socket)("PUT", "mirrors/idle", {"enabled": False, "sessions": [{"name": "vm2", **vm2}]}).status
        == 201
    )
    assert "expected core/vm2 or idle/vm2" in refused(2, "vm2", "-w", "/dev/null")
    assert "no such session: vm3" in refused(1, "core/vm3", "-w", "/dev/null")
    assert "no such source: nic2" in refused(1, "core/vm2", "--source", "nic2", "-w", "/dev/null")
    assert "/nowhere/live.pcapng: No such file or directory" in refused(1, "core/vm2", "-w", "/nowhere/live.pcapng")


def test_it_ends_when_its_device_goes_under_traffic(mirrord: Daemon, client: Host, tmp_path: Path) -> None:
    """Whoever reads the socket first is told that the device went, and only once."""
    source = mirrord.host
    for n in range(4):
        wait_for(lambda: mirrord.metrics().total("mirrord_session_up") == 1, "the session up")
        file = tmp_path / f"live-{n}.pcapng"
        capture = subprocess.Popen(
            [*COMMAND, "--socket", str(mirrord.socket), "capture", "core/vm2", "-w", str(file)],
            stderr=subprocess.PIPE,
        )
        wait_for(lambda: begun(file), "the capture begins")  # noqa: B023
        sender = threading.Thread(target=send, args=(client, "eth0", FRAMES[0], 3000, 3000))
        sender.start()
        wait_for(lambda: file.stat().st_size > 20_000, "frames in the file")  # noqa: B023
        source.ip("link set nic down")
        capture.communicate(timeout=5)
        sender.join()
        source.ip("link set nic up")
