"""Writes that the kernel breaks off: what is interrupted is written all the same, what fails tells its own reason.

client eth0 ---- nic [source], which writes
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mirrord.dataplane.capture.packet_socket import CapturePlan
from mirrord.dataplane.filter.rules import Selection
from mirrord.dataplane.forward.encap import packet_block
from mirrord.dataplane.forward.step import ForwardPlan
from mirrord.dataplane.netns import find
from mirrord.dataplane.pipeline import Pipeline, PipelinePlan
from mirrord.dataplane.tap import Tap
from mirrord.dataplane.transmit.stream import StreamPlan
from tests.conftest import MakeDaemon
from tests.support.captures import count
from tests.support.daemon import Daemon
from tests.support.send import UNANSWERED, send
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

FILE = """
[[mirrors.core.sessions]]
name = "vm2"
source = "nic"
direction = "ingress"
destination = {{ type = "file", path = "{}" }}
ring_size = "64MiB"
"""


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host]:
    client, source = net.host("client"), net.host("source")
    net.link(client, "eth0", source, "nic")
    return client, source


@contextmanager
def interrupted(daemon: Daemon, call: str, directory: Path) -> Iterator[None]:
    """Every third of these system calls on the file ends as by a signal, before it did anything."""
    command = ["strace", "-f", "-p", str(daemon.pid), "-P", str(directory / "c.pcapng"), "-e", f"trace={call}"]
    command += ["-e", f"inject={call}:error=EINTR:when=2+3", "-o", str(directory / "strace")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        while "attached" not in (line := tracer.stderr.readline()):
            assert line, "strace ended"
        try:
            yield
        finally:
            tracer.terminate()


def test_an_interrupted_write_costs_no_frame(
    hosts: tuple[Host, Host], daemon: MakeDaemon, dataplane: str, tmp_path: Path
) -> None:
    client, source = hosts
    file = tmp_path / "c.pcapng"
    mirrord = daemon(source, FILE.format(file), capture_directories=[str(tmp_path)])
    with interrupted(mirrord, {"python": "write", "native": "writev"}[dataplane], tmp_path):
        send(client, "eth0", UNANSWERED, 200, 1000)
        metrics = mirrord.settle(captured=200)
    assert "(INJECTED)" in (tmp_path / "strace").read_text()
    assert metrics.total("mirrord_dropped_frames_total", reason="write_error") == 0
    assert count(file) == metrics.total("mirrord_mirrored_frames_total") == 200


def piped(source: Host, descriptor: int, *, native: bool) -> Pipeline:
    capture = CapturePlan("nic", source.index("nic"), Selection(), mode="socket", netns=find(source.name))
    forward = ForwardPlan(template=packet_block(), overhead=-len(packet_block().header))
    return Pipeline(PipelinePlan(capture, forward, StreamPlan(descriptor, "nic")), native=native)


@pytest.mark.parametrize("native", [False, True], ids=["python", "native"])
def test_a_stream_whose_reader_has_gone_says_so(hosts: tuple[Host, Host], *, native: bool) -> None:
    client, source = hosts
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pipeline = piped(source, writer, native=native)
    tap = Tap([pipeline], native=native)
    os.close(reader)

    def failed() -> str:
        send(client, "eth0", UNANSWERED)
        tap.run()
        return pipeline.transmit.failure

    try:
        assert wait_for(failed, "the failure") == os.strerror(errno.EPIPE)
        assert pipeline.counters.unaccounted() == 0
    finally:
        tap.close()
        pipeline.close()
