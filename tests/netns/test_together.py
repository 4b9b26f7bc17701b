"""Copies of several sources that leave in one system call: each session's are in order, and what is refused is its own.
Where all of their ways change at once, frames go on.

client out0 ... out7 ---- nic0 ... nic7 [source] uplink ---- eth0 [collector]
"""

from __future__ import annotations

import socket
import struct
import time
from collections import UserDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from scapy.layers.inet import IP, UDP

from mirrord.dataplane.counters import Slot
from mirrord.dataplane.filter.rules import Selection
from mirrord.dataplane.forward import encap
from mirrord.dataplane.netns import find
from mirrord.dataplane.pipeline import Pipeline
from mirrord.dataplane.tap import Tap
from mirrord.dataplane.transmit import sockets, tunnel_socket
from mirrord.dataplane.worker import Worker
from mirrord.plans import CapturePlan, ForwardPlan, Hop, PipelinePlan, TunnelPlan
from tests.conftest import MakeSniffer
from tests.support.packets import LINK
from tests.support.receiver import Receiver
from tests.support.send import send_each
from tests.support.source import linked
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

SOURCES = 8
FRAMES = 12  # of each source: more than a plain socket gives at first
LONG = {3: {0, 5, 6}, 5: {11}}  # by source: which of its frames the way out is too narrow for
OUTER = 14 + 20 + 8  # bytes of Ethernet, IPv4 and UDP before the VXLAN header
INNER = OUTER + 8 + 14 + 20 + 8  # bytes before the payload of the frame inside


def _frame(source: int, number: int, port: int) -> bytes:
    length = 1000 if number in LONG.get(source, ()) else 20
    payload = struct.pack("!BB", source, number).ljust(length, b"\0")
    return bytes(LINK / IP(src="10.1.0.1", dst="10.1.0.2") / UDP(sport=port, dport=9) / payload)


def _pipeline(source: Host, number: int, collector: str, *, native: bool, gso: bool) -> Pipeline:
    return Pipeline(_pipeline_plan(source, number, collector, gso=native and gso), native=native)


def _pipeline_plan(source: Host, number: int, collector: str, *, gso: bool) -> PipelinePlan:
    """To a VNI of its own, by a packet socket of its own."""
    netns = find(source.name)
    ours, theirs = (bytes.fromhex(mac.replace(":", "")) for mac in (source.mac("uplink"), collector))
    hop = Hop("uplink", source.index("uplink"), ours, theirs)
    capture = CapturePlan(f"nic{number}", source.index(f"nic{number}"), Selection(), mode="socket", netns=netns)
    tunnel = TunnelPlan("10.99.0.2", 4789, local="10.99.0.1", netns=netns, hop=hop, gso=gso)
    return PipelinePlan(capture, ForwardPlan(encap.vxlan(number + 1), overhead=42), tunnel)


def test_what_leaves_together_is_in_order_and_what_is_refused_is_its_sessions_own(
    net: Topology, dataplane: str
) -> None:
    client, source, collector = linked(net)
    source.run("ethtool", "-K", "uplink", "tx-udp-segmentation", "off")  # what is joined is cut before it is looked at
    source.ip("link set uplink mtu 500")
    for number in range(SOURCES):
        net.link(client, f"out{number}", source, f"nic{number}")
    nobody, native = "02:00:00:00:00:99", dataplane == "native"
    pipelines = [_pipeline(source, n, nobody, native=native, gso=n % 2 == 1) for n in range(SOURCES)]
    taps = [Tap([pipeline], native=native) for pipeline in pipelines]
    for number in range(SOURCES):
        send_each(client, f"out{number}", [_frame(number, n, 1000 + n) for n in range(FRAMES)])
    worker = Worker("worker")
    with Receiver(collector, "eth0") as receiver:
        for tap in taps:
            worker.add(tap)
        worker.start()  # its first round finds all of them ready
        wait_for(lambda: all(one.counters[Slot.captured] >= FRAMES for one in pipelines), "all frames are read")
        worker.stop()
        arrived: dict[int, list[int]] = {}
        for packet in receiver.frames(0x0800):
            vni, (number, frame) = int.from_bytes(packet[OUTER + 4 : OUTER + 7], "big"), packet[INNER : INNER + 2]
            assert vni == number + 1
            arrived.setdefault(number, []).append(frame)

    assert arrived == {number: [n for n in range(FRAMES) if n not in LONG.get(number, ())] for number in range(SOURCES)}
    for number, pipeline in enumerate(pipelines):
        refused, counters = len(LONG.get(number, ())), pipeline.counters
        assert counters[Slot.captured] == FRAMES
        assert counters[Slot.dropped_mtu_exceeded] == refused
        assert counters[Slot.mirrored] == counters[Slot.sent_packets] == FRAMES - refused


def test_copies_of_several_sessions_share_messages_and_each_arrives_in_its_vni(
    net: Topology, dataplane: str, sniff: MakeSniffer
) -> None:
    client, source, collector = linked(net)
    native = dataplane == "native"
    for number in range(SOURCES):
        net.link(client, f"out{number}", source, f"nic{number}")
        collector.ip(f"link add vx{number} type vxlan id {number + 1} dstport 4789 local 10.99.0.2 dev eth0")
        collector.ip(f"link set vx{number} up")
    sniffers = [sniff(collector, f"vx{number}", "udp port 9") for number in range(SOURCES)]
    pipelines = [_pipeline(source, n, collector.mac("eth0"), native=native, gso=True) for n in range(SOURCES)]
    taps = [Tap([pipeline], native=native) for pipeline in pipelines]
    frames = {number: [_frame(number, n, 1000) for n in range(FRAMES)] for number in range(SOURCES)}
    for number in range(SOURCES):
        send_each(client, f"out{number}", frames[number])
    worker = Worker("worker")
    with Receiver(source, "uplink") as sent:  # a tap there sees a message whole: the veth takes it as it is
        for tap in taps:
            worker.add(tap)
        worker.start()
        for sniffer, own in zip(sniffers, frames.values(), strict=True):
            sniffer.wait_lines(len(own))
        worker.stop()
        messages = sent.frames(0x0800)

    assert [sniffer.stop().frames() for sniffer in sniffers] == list(frames.values())
    for pipeline in pipelines:
        assert pipeline.counters[Slot.mirrored] == pipeline.counters[Slot.sent_packets] == FRAMES
    assert len(messages) == SOURCES * FRAMES if dataplane == "python" else len(messages) <= SOURCES * FRAMES / 4


MANY = 100


def _seconds_to_close() -> float:
    """How long the kernel takes to close a packet socket."""
    sockets = [socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) for _ in range(10)]
    begun = time.monotonic()
    for one in sockets:
        one.close()
    return (time.monotonic() - begun) / len(sockets)


def _of_one_source(source: Host, collector: Host, count: int, *, native: bool) -> list[Pipeline]:
    """Sessions of nic0, to a VNI each."""
    plan = _pipeline_plan(source, 0, collector.mac("eth0"), gso=False)
    forward = [replace(plan.forward, template=encap.vxlan(number + 1)) for number in range(count)]
    return [Pipeline(replace(plan, forward=one), native=native) for one in forward]


def test_frames_go_on_while_the_ways_of_many_sessions_change(net: Topology, dataplane: str) -> None:
    client, source, collector = linked(net)
    net.link(client, "out0", source, "nic0")
    native = dataplane == "native"
    pipelines = _of_one_source(source, collector, MANY, native=native)
    own = pipelines[0].plan.transmit
    assert isinstance(own, TunnelPlan)
    assert own.hop is not None
    elsewhere = replace(own, hop=replace(own.hop, destination=bytes.fromhex("020000000099")))
    one_by_one = MANY * _seconds_to_close()
    worker = Worker("worker")
    worker.add(Tap(pipelines, native=native))
    worker.start()

    def seconds(way: TunnelPlan, frame: int) -> float:
        """How long it takes until this frame's copies leave by another way."""
        begun = time.monotonic()
        worker.replace({one: replace(one.plan, transmit=way) for one in pipelines})
        send_each(client, "out0", [_frame(0, frame, 1000)])
        wait_for(lambda: sum(one.counters[Slot.mirrored] for one in pipelines) == frame * MANY, "a frame's copies")
        return time.monotonic() - begun

    try:
        ways = elsewhere, replace(own, hop=None), own  # another next hop; the kernel's headers; ours again
        for number, way in enumerate(ways, 1):
            assert seconds(way, number) < one_by_one / 2
    finally:
        worker.stop()
    assert collector.counter("eth0", "rx", "packets") == len(ways) * MANY


class _Watched(UserDict[Pipeline, PipelinePlan]):
    """Plans that note, whenever one is taken out, how many frames the first pipeline has mirrored."""

    def __init__(self, plans: Mapping[Pipeline, PipelinePlan]) -> None:
        super().__init__(plans)
        self.seen: list[int] = []

    def __getitem__(self, pipeline: Pipeline) -> PipelinePlan:
        self.seen.append(next(iter(self)).counters[Slot.mirrored])
        return super().__getitem__(pipeline)


def test_frames_have_their_turn_while_plans_change(net: Topology, dataplane: str) -> None:
    client, source, collector = linked(net)
    net.link(client, "out0", source, "nic0")
    pipelines = _of_one_source(source, collector, 20, native=dataplane == "native")
    plans, worker = _Watched({one: one.plan for one in pipelines}), Worker("worker")

    def tell() -> None:
        """By the worker's thread, so that a frame waits for it when it comes to the plans."""
        send_each(client, "out0", [_frame(0, 1, 1000)])
        worker.replace(plans)

    worker.add(Tap(pipelines, native=dataplane == "native"))
    worker.order(tell)
    worker.start()
    try:
        wait_for(lambda: len(plans.seen) == 2 * len(pipelines), "all plans were taken: made ready, and followed")
    finally:
        worker.stop()
    assert (plans.seen[len(pipelines)], plans.seen[-1]) == (0, 1)


def test_a_device_that_takes_nothing_is_waited_for_once(
    net: Topology, dataplane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, source, collector = linked(net)
    net.link(client, "out0", source, "nic0")
    queue = "tc qdisc add dev uplink root tbf rate 8kbit burst 1600 limit 100000000"
    source.run(*queue.split())
    monkeypatch.setattr(tunnel_socket, "SEND_BUFFER", 0)  # the least that the kernel has
    pipelines = _of_one_source(source, collector, MANY, native=dataplane == "native")
    tap = Tap(pipelines, native=dataplane == "native")
    send_each(client, "out0", [_frame(0, number, 1000) for number in range(FRAMES)])

    turns: list[float] = []

    def read() -> bool:
        begun = time.monotonic()
        tap.run()
        turns.append(time.monotonic() - begun)
        return pipelines[-1].counters[Slot.captured] == FRAMES

    wait_for(read, "all frames are read")
    with ThreadPoolExecutor(MANY) as pool:
        for close in (tap.close, *(one.close for one in pipelines)):
            pool.submit(close)
    lost = [one.counters[Slot.dropped_send_error] for one in pipelines]
    assert [one.counters[Slot.mirrored] for one in pipelines] == [FRAMES - frames for frames in lost]
    assert sum(map(bool, lost)) > MANY / 2
    assert max(turns) < MANY * sockets.PATIENCE_MILLISECONDS / 1000 / 2


def test_a_device_that_takes_nothing_takes_no_room_of_others(
    net: Topology, dataplane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where copies for both leave by one socket, that of a capture on all devices."""
    client, source, collector = linked(net)
    net.link(source, "jammed", collector, "eth1", ("10.98.0.1/24", "10.98.0.2/24"))
    queue = "tc qdisc add dev jammed root tbf rate 8kbit burst 1600 limit 100000000"
    source.run(*queue.split())
    monkeypatch.setattr(tunnel_socket, "SEND_BUFFER", 0)  # the least that the kernel has
    native, pipelines = dataplane == "native", []
    for number, device in enumerate(("uplink", "jammed")):
        net.link(client, f"out{number}", source, f"nic{number}")
        plan = _pipeline_plan(source, number, collector.mac("eth0"), gso=False)
        assert isinstance(plan.capture, CapturePlan)
        assert isinstance(plan.transmit, TunnelPlan)
        assert plan.transmit.hop is not None
        hop = replace(plan.transmit.hop, device=device, index=source.index(device))
        capture, way = replace(plan.capture, together=True), replace(plan.transmit, hop=hop)
        pipelines.append(Pipeline(replace(plan, capture=capture, transmit=way), native=native))
    free, held = pipelines
    tap = Tap(pipelines, native=native)

    def forwarded(pipeline: Pipeline, device: str, frames: list[bytes]) -> None:
        send_each(client, device, frames)
        captured = pipeline.counters[Slot.captured] + len(frames)

        def read() -> bool:
            tap.run()
            return pipeline.counters[Slot.captured] == captured

        wait_for(read, "all frames are read")

    while not held.counters[Slot.dropped_send_error]:
        forwarded(held, "out1", [_frame(3, 0, 1000)])  # a long one: the queue gives one a second
    forwarded(free, "out0", [_frame(0, number, 1000) for number in range(FRAMES)])
    assert (free.counters[Slot.mirrored], free.counters[Slot.dropped_send_error]) == (FRAMES, 0)
    with ThreadPoolExecutor() as pool:
        for close in (tap.close, *(one.close for one in pipelines)):
            pool.submit(close)
