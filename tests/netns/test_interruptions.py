"""Writes that the kernel breaks off: what is interrupted is written all the same, what fails tells its own reason.

client eth0 ---- nic [source], which writes
"""

from __future__ import annotations

import errno
import os
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from mirrord.dataplane.filter.rules import Selection
from mirrord.dataplane.forward.encap import packet_block
from mirrord.dataplane.netns import find
from mirrord.dataplane.pipeline import Pipeline
from mirrord.dataplane.tap import Tap
from mirrord.plans import CapturePlan, ForwardPlan, PipelinePlan, StreamPlan
from tests.conftest import MakeDaemon
from tests.support.captures import count
from tests.support.daemon import Daemon
from tests.support.send import UNANSWERED, send
from tests.support.strace import injected
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


def interrupted(daemon: Daemon, call: str, directory: Path) -> AbstractContextManager[None]:
    """Every third of these system calls on the file ends as by a signal, before it did anything."""
    file, log = str(directory / "c.pcapng"), str(directory / "strace")
    fault = f"inject={call}:error=EINTR:when=2+3"
    return injected(daemon, "-P", file, "-o", log, "-e", f"trace={call}", "-e", fault)


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
