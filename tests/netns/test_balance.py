"""Sources that go on with another worker, or half of them with another socket: each frame is mirrored once, in order.

client eth0 ---- nic [source] uplink ---- eth0 [collector]
client more0 ---- also0 [source] out0 ---- out0 [collector]
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from mirrord.control.running import balance
from mirrord.control.running.balance import Levels
from mirrord.control.running.gathering import captured_by
from mirrord.control.running.workers import Workers
from mirrord.dataplane import divisible
from mirrord.dataplane.capture import load
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.filter.by_device import Wanted
from mirrord.dataplane.filter.rules import Selection
from mirrord.dataplane.forward import encap
from mirrord.dataplane.memory import Memory
from mirrord.dataplane.netns import find
from mirrord.dataplane.parting import open_aside
from mirrord.dataplane.pipeline import Pipeline
from mirrord.dataplane.tap import Tap
from mirrord.dataplane.worker import Worker
from mirrord.plans import CapturePlan, DevicePlan, ForwardPlan, PipelinePlan
from tests.support.meanwhile import meanwhile
from tests.support.receiver import Receiver
from tests.support.send import udp_frame
from tests.support.source import linked
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

MARK = 0x10000000
ENDS = ("02:00:00:00:00:01", "10.0.0.1", 9), ("02:00:00:00:00:02", "10.0.0.2", 80)
PACE = {"python": 400, "native": 4000}  # frames a second
TURNS = 50


class Sent:
    count = 0


@contextmanager
def stream(host: Host, device: str, pace: float) -> Iterator[Sent]:
    """Numbered datagrams, at a pace, until this ends."""
    sent, began = Sent(), time.monotonic()
    frame = udp_frame(*ENDS, bytes(4))[:-4]
    with host.open_socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((device, 0))

        def send_what_is_due() -> None:
            while sent.count < (time.monotonic() - began) * pace:
                out.send(frame + struct.pack("!I", sent.count))
                sent.count += 1

        with meanwhile(send_what_is_due, 0.001):
            yield sent


def pipeline(
    source: Host, name: str, way: str, dataplane: str, *, together: bool = False, ring_size: int = 8 << 20
) -> Pipeline:
    netns = find(source.name)
    selection = Selection(mark=MARK, mark_mask=MARK)
    index = source.index(name)
    capture = CapturePlan(name, index, selection, mode="auto", ring_size=ring_size, netns=netns, together=together)
    to = DevicePlan(way, source.index(way), MARK, netns)
    return Pipeline(PipelinePlan(capture, ForwardPlan(encap.bare()), to), native=dataplane == "native")


def numbers(receiver: Receiver) -> list[int]:
    return [struct.unpack_from("!I", frame, 42)[0] for frame in receiver.frames(0x0800)]


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host, Host]:
    client, source, collector = linked(net)
    net.link(client, "more0", source, "also0")
    net.link(source, "out0", collector, "out0")
    return client, source, collector


def test_a_source_goes_from_worker_to_worker_and_back_while_frames_come(
    hosts: tuple[Host, Host, Host], dataplane: str
) -> None:
    client, source, collector = hosts
    one = pipeline(source, "nic", "uplink", dataplane)
    tap, workers = Tap([one], native=dataplane == "native"), [Worker("here"), Worker("there")]
    for worker in workers:
        worker.start()
    workers[0].add(tap)

    def read_beyond(frames: int) -> bool:
        return tap.seen.read > frames

    wait_for(lambda: tap in workers[0].taps, "it runs")
    with Receiver(collector, "eth0") as receiver:
        with stream(client, "eth0", PACE[dataplane]) as sent:
            for turn in range(TURNS):
                here, there = workers[turn % 2], workers[1 - turn % 2]
                wait_for(partial(here.hand_over, tap, there), "it goes on there")
                assert (here.taps, there.taps) == ([], [tap])
                read = tap.seen.read
                wait_for(partial(read_beyond, read), "it is read there")
        workers[TURNS % 2].remove(one)
        for worker in workers:
            worker.stop()
        assert numbers(receiver) == list(range(sent.count))
    assert one.counters[Slot.captured] == one.counters[Slot.mirrored] == sent.count


@pytest.mark.parametrize("gathered", [False, True], ids=["two sockets", "one socket"])
def test_a_busy_worker_gives_a_source_to_another(
    hosts: tuple[Host, Host, Host], dataplane: str, monkeypatch: pytest.MonkeyPatch, *, gathered: bool
) -> None:
    """Where it has one socket of two sources, one of them gets a second one first."""
    monkeypatch.setattr(balance, "FULL", 0.0)
    monkeypatch.setattr(balance, "ROOM", 1e-6)
    monkeypatch.setattr(balance, "GAIN", 1e-6)
    client, source, collector = hosts
    both = [
        pipeline(source, name, way, dataplane, together=gathered)
        for name, way in (("nic", "uplink"), ("also0", "out0"))
    ]
    native, workers, levels = dataplane == "native", Workers(0), Levels()
    worker = workers.another()
    for members in (both,) if gathered else ([both[0]], [both[1]]):
        worker.add(Tap(members, native=native))
    moved: dict[Tap, Worker] = {}

    def levelled() -> bool:
        moved.update(levels.look(workers, time.monotonic()))
        return bool(moved)

    with Receiver(collector, "eth0") as first, Receiver(collector, "out0") as second:
        pace = PACE[dataplane] / 2
        with stream(client, "eth0", pace) as by_nic, stream(client, "more0", pace) as by_other:
            wait_for(levelled, "one of them has moved")
            ((tap, there),) = moved.items()
            assert there is not worker
            assert (len(worker.taps), there.taps) == (1, [tap])
            assert len(tap.pipelines) == 1
            read = [one.read for one in both]
            wait_for(lambda: all(one.read > before for one, before in zip(both, read, strict=True)), "both are read")
        for one in both:
            (there if one in tap.pipelines else worker).remove(one)
        workers.stop()
        assert numbers(first) == list(range(by_nic.count))
        assert numbers(second) == list(range(by_other.count))
    for one, sent in zip(both, (by_nic, by_other), strict=True):
        assert one.counters[Slot.captured] == one.counters[Slot.mirrored] == sent.count


@pytest.mark.parametrize(("ring_size", "memory", "mode"), [(1, 0, "socket"), (8, 2, "socket"), (8, 0, "ring")])
def test_what_parts_is_kept_until_its_turn_also_where_a_ring_would_be_short(
    hosts: tuple[Host, Host, Host], ring_size: int, memory: int, mode: str
) -> None:
    """A short ring is full of a few frames: a block waits 8 ms for company, and goes."""
    client, source, _ = hosts
    one = pipeline(source, "nic", "uplink", "native", ring_size=ring_size << 20)
    capture = one.plan.capture
    assert isinstance(capture, CapturePlan)
    aside = open_aside(capture, [one], (Wanted(capture.index, capture.selection),), Memory(memory << 20), busy=True)
    try:
        assert aside.capture.mode == mode
        with stream(client, "eth0", PACE["native"]) as sent:
            wait_for(lambda: mode == "ring" or sent.count > PACE["native"] // 10, "nobody reads it for a while")
        assert aside.capture.statistics().ring_full == 0
    finally:
        aside.capture.close()
        one.close()


def test_sources_that_cannot_part_stay_together_and_are_not_tried_again_and_again(
    hosts: tuple[Host, Host, Host], dataplane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def refuse(plan: CapturePlan, *_: object, **__: object) -> None:
        tried.append(plan.device)
        raise OSError(errno.EMFILE, "no descriptor")

    monkeypatch.setattr(divisible, "open_aside", refuse)
    monkeypatch.setattr(load, "BUSY", 10)  # so that it would part in any case
    client, source, collector = hosts
    members = [
        pipeline(source, name, way, dataplane, together=True)
        for name, way in (("nic", "uplink"), ("nic", "out0"), ("also0", "out0"))
    ]
    tap, worker = Tap(members, native=dataplane == "native"), Worker("worker")
    worker.start()
    worker.add(tap)
    (group,) = captured_by([tap]).together.values()
    assert (group.program.devices, group.members) == ({source.index("nic"), source.index("also0")}, 3)
    with Receiver(collector, "eth0") as receiver:
        with stream(client, "eth0", PACE[dataplane]) as sent:
            worker.spread(tap)
            wait_for(lambda: tried, "a socket of its own is tried")
            read = tap.seen.read
            wait_for(lambda: tap.seen.read > read + PACE[dataplane] // 4, "it goes on")
            assert "of several devices, cannot part: no descriptor" in tap.captures_by
        worker.remove(*members)
        worker.stop()
        assert tried == ["nic"]
        assert numbers(receiver) == list(range(sent.count))
