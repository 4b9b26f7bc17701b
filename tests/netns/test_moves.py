"""A source's capture moves between a plain socket and a ring under traffic: every frame once, each flow in order.

client eth0 ---- nic [source] uplink ---- eth0 [collector]
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from pathlib import Path

import pytest

from mirrord.dataplane.capture import load
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.filter.rules import Selection
from mirrord.dataplane.forward import encap
from mirrord.dataplane.netns import find
from mirrord.dataplane.pipeline import Pipeline
from mirrord.dataplane.tap import Tap
from mirrord.dataplane.worker import Worker
from mirrord.plans import CapturePlan, DevicePlan, ForwardPlan, PipelinePlan
from tests.conftest import MakeDaemon
from tests.support.daemon import Daemon
from tests.support.receiver import Receiver
from tests.support.send import flood, send, sending, udp_frame
from tests.support.source import SPAN, session, source_and_collector
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

pytestmark = pytest.mark.alone

MARK = 0x10000000
PACES = (1000, 100)  # frames a second of each sender, in turn
TURN_SECONDS = 0.5
TURNS = 8


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host, Host]:
    return source_and_collector(net)


def _frame(port: int) -> bytes:
    """A UDP datagram up to the number that it carries."""
    whole = udp_frame(("02:00:00:00:00:01", "10.0.0.1", port), ("02:00:00:00:00:02", "10.0.0.2", 9), bytes(4))
    return whole[:-4]


def _plan(source: Host) -> PipelinePlan:
    netns = find(source.name)
    selection = Selection(mark=MARK, mark_mask=MARK)
    return PipelinePlan(
        CapturePlan("nic", source.index("nic"), selection, mode="auto", ring_size=64 << 20, netns=netns),
        ForwardPlan(encap.bare()),
        DevicePlan("uplink", source.index("uplink"), MARK, netns),
    )


class Sender(threading.Thread):
    """Numbered frames of two flows, fast and slow by turns."""

    def __init__(self, host: Host, device: str, first_port: int) -> None:
        super().__init__()
        self.sent: dict[int, list[int]] = {first_port: [], first_port + 1: []}
        self._frames = {port: _frame(port) for port in self.sent}
        self._socket = host.open_socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.bind((device, 0))

    def run(self) -> None:
        for turn in range(TURNS):
            pace, began, sent = PACES[turn % 2], time.monotonic(), 0
            while (elapsed := time.monotonic() - began) < TURN_SECONDS:
                for _ in range(int(pace * elapsed) - sent):
                    self._send_one()
                sent = int(pace * elapsed)
                time.sleep(0.001)
        self._socket.close()

    def _send_one(self) -> None:
        for port, numbers in self.sent.items():
            self._socket.send(self._frames[port] + struct.pack("!I", len(numbers)))
            numbers.append(len(numbers))


def test_each_frame_once_and_each_flow_in_order_however_often_the_capture_moves(
    hosts: tuple[Host, Host, Host], dataplane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, source, collector = hosts
    monkeypatch.setattr(load, "BUSY", 1000)
    monkeypatch.setattr(load, "QUIET", 750)
    monkeypatch.setattr(load, "QUIET_SECONDS", 0.1)
    monkeypatch.setattr(load, "LOOK_SECONDS", {"socket": 0.05, "ring": 0.05})
    native = dataplane == "native"
    pipeline = Pipeline(_plan(source), native=native)
    tap = Tap([pipeline], native=native)
    worker = Worker("worker", 0)
    worker.start()
    worker.add(tap)
    senders = [Sender(client, "eth0", 1000), Sender(source, "nic", 2000)]
    modes = [tap.captures_by]
    with Receiver(collector, "eth0") as receiver:
        for sender in senders:
            sender.start()
        while any(sender.is_alive() for sender in senders):
            if tap.captures_by != modes[-1]:
                modes.append(tap.captures_by)
            time.sleep(0.001)
        total = sum(len(numbers) for sender in senders for numbers in sender.sent.values())
        wait_for(lambda: pipeline.counters[Slot.mirrored] >= total, "the slower data plane catches up", 30)
        worker.remove(pipeline)
        worker.stop()
        arrived: dict[int, list[int]] = {}
        for frame in receiver.frames(0x0800):
            (port,), (number,) = struct.unpack_from("!H", frame, 34), struct.unpack_from("!I", frame, 42)
            arrived.setdefault(port, []).append(number)

    sent = {port: numbers for sender in senders for port, numbers in sender.sent.items()}
    assert arrived == sent
    assert modes[0] == "auto (socket)"
    assert len(modes) >= TURNS, modes
    counters = pipeline.counters
    assert counters[Slot.captured] == counters[Slot.mirrored] == total
    assert counters[Slot.read_ingress_frames] == sum(map(len, senders[0].sent.values()))


def test_what_waits_where_a_capture_was_to_move_to_is_counted_when_it_ends_before(
    hosts: tuple[Host, Host, Host], dataplane: str
) -> None:
    client, source, _ = hosts
    native = dataplane == "native"
    pipeline = Pipeline(_plan(source), native=native)
    tap = Tap([pipeline], native=native)
    try:
        assert tap.mode_switch is not None
        tap.mode_switch.expect(tap.mode_switch.prepare("ring"))
        for _ in range(10):
            send(client, "eth0", _frame(7))
        tap.leave([pipeline])
        send(client, "eth0", _frame(7))
        tap.drop([pipeline])
        assert pipeline.counters[Slot.captured] == pipeline.counters[Slot.dropped_ring_full] == tap.seen.lost == 10
    finally:
        tap.close()
        pipeline.close()


def has_ring(mirrord: Daemon) -> bool:
    """And whichever it is, the series that says what the session was told is the same one."""
    metrics = mirrord.metrics()
    assert [dict(labels)["capture"] for _, labels in metrics.select("mirrord_session_info")] == ["auto"]
    return bool(metrics.select("mirrord_ring_fill_ratio"))


def test_a_daemon_takes_a_ring_for_a_busy_source_and_gives_it_back(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon, dataplane: str, tmp_path: Path
) -> None:
    _, source, _ = hosts
    count = {"python": 30_000, "native": 100_000}[dataplane]
    mirrord = daemon(source, session('sampling_rate = 1000000\nring_size = "64MiB"', SPAN))
    frame = udp_frame(("02:00:00:00:00:01", "10.0.0.1", 7), ("02:00:00:00:00:02", "10.0.0.2", 9), length=64)
    assert not has_ring(mirrord)
    flood(source, "nic", frame, count, tmp_path)
    wait_for(lambda: has_ring(mirrord), "a ring")
    wait_for(lambda: not has_ring(mirrord), "a plain socket again", 20)
    flood(source, "nic", frame, count, tmp_path)
    metrics = mirrord.settle(2 * count)
    assert metrics.total("mirrord_captured_frames_total") == 2 * count
    assert metrics.total("mirrord_dropped_frames_total", reason="ring_full") == 0


def test_a_source_that_is_busy_already_begins_with_a_ring(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon, tmp_path: Path
) -> None:
    client, source, _ = hosts
    frame = udp_frame(("02:00:00:00:00:01", "10.0.0.1", 7), ("02:00:00:00:00:02", "10.0.0.2", 9), length=64)
    with sending(client, "eth0", frame, tmp_path):
        wait_for(lambda: source.counter("nic", "rx", "packets") > load.BUSY, "a busy source")
        each = """
[[mirrors.m.sessions]]
name = "{name}"
source = "{name}"
direction = "egress"  # of which there is nothing: none of them ever moves to a ring
destination = {{ type = "device", device = "lo" }}
"""
        mirrord = daemon(source, "".join(each.format(name=name) for name in ("nic", "uplink")))
        rings = [dict(labels)["session"] for _, labels in mirrord.metrics().select("mirrord_ring_fill_ratio")]
        assert rings == ["nic"]
