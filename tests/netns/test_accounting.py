"""Nothing is lost uncounted: captured = mirrored + skipped + dropped, and both ends are the kernel's own counts.

client eth0 ---- nic [source] uplink ---- eth0 [collector] vxlan0
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from mirrord.dataplane.counters import SLOTS, Slot
from mirrord.dataplane.filter.rules import Direction, Selection
from mirrord.dataplane.forward.encap import bare
from mirrord.dataplane.netns import find
from mirrord.dataplane.pipeline import Pipeline
from mirrord.dataplane.tap import Tap
from mirrord.dataplane.worker import Worker
from mirrord.plans import CapturePlan, DevicePlan, ForwardPlan, PipelinePlan
from tests.conftest import MakeDaemon
from tests.support.send import UNANSWERED, flood, send, udp_frame
from tests.support.source import session, source_and_collector
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

COUNT = 100_000  # into a ring that has room for a tenth of them
PACED = {"python": 25_000, "native": 100_000}  # for some seconds
RATE = {"python": 5_000, "native": 50_000}  # frames a second that each data plane carries on a busy machine
BACKLOG = 25_000  # the reference takes more than the half second that a session has to end in
RING = {"python": "64MiB", "native": "8MiB"}  # the reference may be held up by a busy machine


def configuration(direction: str, ring_size: str) -> str:
    return session(f'direction = "{direction}"\nring_size = "{ring_size}"\ncapture = "ring"')


BACKLOGGED = """
[[mirrors.m.sessions]]
name = "outer"
direction = "ingress"
source = "nic"
destination = { type = "vxlan", remote = "10.99.0.2", vni = 1 }
capture = "ring"
ring_size = "16MiB"
mirror_tunnels = true

[[mirrors.m.sessions]]
name = "inner"
source = { type = "vxlan", local = "10.1.0.1", vni = 7 }
destination = { type = "vxlan", remote = "10.99.0.2", vni = 2 }
ring_size = "16MiB"
"""


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host, Host]:
    return source_and_collector(net)


@pytest.mark.alone
def test_a_paced_stream_loses_nothing(hosts: tuple[Host, Host, Host], daemon: MakeDaemon, dataplane: str) -> None:
    client, source, collector = hosts
    mirrord = daemon(source, configuration("ingress", RING[dataplane]))

    count = PACED[dataplane]
    send(client, "eth0", UNANSWERED, count, RATE[dataplane])
    metrics = mirrord.settle(captured=count)
    mirrord.stop()

    assert source.counter("nic", "rx", "packets") == count
    assert metrics.total("mirrord_captured_frames_total") == count
    assert metrics.total("mirrord_read_frames_total", direction="ingress") == count
    assert metrics.total("mirrord_mirrored_frames_total") == count
    assert metrics.total("mirrord_dropped_frames_total") == metrics.total("mirrord_skipped_frames_total") == 0
    assert collector.counter("vxlan0", "rx", "packets") == count
    assert collector.counter("vxlan0", "rx", "bytes") == count * (len(UNANSWERED) - 14)  # it counts from layer 3


@pytest.mark.parametrize("frozen", [False, True], ids=["running", "frozen"])
def test_a_flood_into_a_tiny_ring_is_accounted_for(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon, tmp_path: Path, frozen: bool
) -> None:
    _, source, _ = hosts
    mirrord = daemon(source, configuration("egress", "1MiB"))

    if frozen:
        mirrord.freeze()
    flood(source, "nic", UNANSWERED, COUNT, tmp_path)
    if frozen:
        mirrord.thaw()
    metrics = mirrord.settle(captured=COUNT)
    mirrord.stop()

    assert metrics.total("mirrord_captured_frames_total") == COUNT  # exactly what the sender sent
    assert metrics.unaccounted() == 0
    ring_full = metrics.total("mirrord_dropped_frames_total", reason="ring_full")
    assert metrics.total("mirrord_read_frames_total", direction="egress") == COUNT - ring_full
    assert metrics.total("mirrord_mirrored_frames_total") == source.counter("uplink", "tx", "packets")
    if frozen:
        assert ring_full > 0
        assert metrics.total("mirrord_ring_fill_ratio") == 1


@pytest.mark.parametrize("native", [False, True], ids=["python", "native"])
def test_no_look_at_the_counters_finds_more_done_than_captured(hosts: tuple[Host, Host, Host], *, native: bool) -> None:
    _, source, _ = hosts
    capture = CapturePlan(
        "nic", source.index("nic"), Selection(Direction.EGRESS), mode="socket", netns=find(source.name)
    )
    way = DevicePlan("uplink", source.index("uplink"), netns=find(source.name))
    pipeline = Pipeline(PipelinePlan(capture, ForwardPlan(bare(), frame_limit=1514), way), native=native)
    worker = Worker("worker")
    worker.start()
    worker.add(Tap([pipeline], native=native))
    open_frames = []
    before: tuple[int, ...] = (0,) * SLOTS
    try:
        sender = threading.Thread(target=send, args=(source, "nic", UNANSWERED, 10_000, 10_000))
        sender.start()
        while sender.is_alive():  # at a rate that the worker keeps up with: no backlog hides what is not counted yet
            now = pipeline.counters.snapshot()
            assert all(old <= new for old, new in zip(before, now, strict=True))
            done = now[Slot.mirrored] + sum(now[Slot.skipped_sampled_out : Slot.truncated])
            open_frames.append(now[Slot.captured] - done)
            before = now
            time.sleep(0)
    finally:
        worker.stop()
    assert len(open_frames) > 100
    assert min(open_frames) >= 0


def test_what_a_session_had_no_time_for_when_it_ended_is_counted(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon, tmp_path: Path
) -> None:
    """The frames that are in VXLAN to the source, and what is in them; both sessions end with a backlog."""
    client, source, _ = hosts
    source.ip("address add 10.1.0.1/24 dev nic")
    sent = udp_frame(
        ("02:00:00:00:00:01", "10.1.0.2", 1000),
        (source.mac("nic"), "10.1.0.1", 4789),
        bytes.fromhex("0800000000000700") + UNANSWERED,  # RFC 7348, section 5
    )
    mirrord = daemon(source, BACKLOGGED)

    mirrord.freeze()
    flood(client, "eth0", sent, BACKLOG, tmp_path)
    mirrord.file.write_text(mirrord.file.read_text().replace("16MiB", "15MiB"))  # they end, and others begin
    mirrord.reload()
    mirrord.thaw()
    wait_for(lambda: "] reloaded " in mirrord.output(), "the other sessions")
    delivered = source.counter("nic", "rx", "packets")
    metrics = mirrord.settle(captured=2 * delivered)
    mirrord.stop()

    assert metrics.total("mirrord_captured_frames_total", session="outer") == delivered
    assert metrics.total("mirrord_captured_frames_total", session="inner") == delivered
    assert metrics.total("mirrord_mirrored_frames_total") == source.counter("uplink", "tx", "packets")
