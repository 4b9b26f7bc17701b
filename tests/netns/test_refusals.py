"""Copies that the kernel refuses: each frame is counted once, under what the refusal means, by either data plane.

client eth0 ---- nic [source] uplink ---- eth0 [collector]
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from scapy.layers.inet import IP, TCP, UDP

from mirrord.dataplane.counters import Slot
from mirrord.dataplane.filter.rules import Selection
from mirrord.dataplane.forward import encap
from mirrord.dataplane.frame.wire import VNET
from mirrord.dataplane.pipeline import Pipeline
from mirrord.dataplane.tap import Tap, tap_of
from mirrord.dataplane.transmit.sockets import LANES, Transmit
from mirrord.kernel import PACKET_VNET_HDR, SO_NO_CHECK, SOL_PACKET
from mirrord.plans import CapturePlan, DevicePlan, ForwardPlan, Hop, PipelinePlan, TunnelPlan
from tests.support.packets import LINK
from tests.support.source import linked
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

ENDS = IP(src="10.0.0.1", dst="10.0.0.2")
DATAGRAMS = [bytes(LINK / ENDS / UDP(sport=1000 + n, dport=53) / bytes(200)) for n in range(40)]  # by all sockets
SEGMENTS = 600  # more than the native core hands over at a time
SUPER_FRAME = bytes(LINK / ENDS / TCP(sport=5000, dport=80, flags="PA") / bytes(100 * SEGMENTS))
COUNT = len(DATAGRAMS) + 1
MAC = bytes.fromhex("020000000099")
TCPV4, NEEDS_CSUM = 1, 1  # linux/virtio_net.h

REFUSALS = {
    "no route": ("route del 10.99.0.0/24", Slot.dropped_no_route),
    "unreachable": ("route replace unreachable 10.99.0.2/32", Slot.dropped_no_route),
    "prohibited": ("route replace prohibit 10.99.0.2/32", Slot.dropped_no_route),
    "black hole": ("route replace blackhole 10.99.0.2/32", Slot.dropped_no_route),
    "path MTU": ("link set dev uplink mtu 120", Slot.dropped_mtu_exceeded),
    "device down": ("link set dev uplink down", Slot.dropped_no_route),
}
PACKET_REFUSALS = {name: REFUSALS[name] for name in ("path MTU", "device down")}
DEVICE_REFUSALS = {
    "MTU": ("link set dev uplink mtu 120", Slot.dropped_mtu_exceeded),
    "down": ("link set dev uplink down", Slot.dropped_link_down),
    "gone": ("link delete dev uplink", Slot.dropped_link_down),
}


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host]:
    client, source, _ = linked(net, mtu=1500)
    source.run("ethtool", "-K", "uplink", "tx-udp-segmentation", "off")  # the device counts what the kernel cut
    return client, source


@contextmanager
def pipeline(source: Host, dataplane: str, way: str) -> Iterator[Pipeline]:
    """By the `device`, a `socket` or a `packet` socket; `joined` copies are the native plane's alone."""
    hop = Hop("uplink", source.index("uplink"), bytes.fromhex(source.mac("uplink").replace(":", "")), MAC)

    def make() -> Pipeline:
        capture = CapturePlan("nic", socket.if_nametoindex("nic"), Selection(), mode="socket")  # all frames at once
        transmit: DevicePlan | TunnelPlan = DevicePlan("uplink", socket.if_nametoindex("uplink"))
        forward = ForwardPlan(encap.bare())
        if way != "device":
            packet, gso = hop if "packet" in way else None, "joined" in way and dataplane == "native"
            transmit = TunnelPlan("10.99.0.2", 4789, local="10.99.0.1", hop=packet, gso=gso)
            forward = ForwardPlan(encap.vxlan(1), overhead=42)
        native = dataplane == "native"
        return Tap([Pipeline(PipelinePlan(capture, forward, transmit), native=native)], native=native).pipelines[0]

    made = source.call(make)
    try:
        yield made
    finally:
        if (tap := tap_of(made)) is not None:
            tap.close()
        made.close()


def send_all(client: Host) -> None:
    """The datagrams, each a flow of its own, and amid them the super-frame, as a device with TSO would be given it."""
    middle = len(DATAGRAMS) // 2
    with client.open_socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind(("eth0", 0))
        out.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        for data in DATAGRAMS[:middle]:
            out.send(VNET.pack(0, 0, 0, 0, 0, 0) + data)
        out.send(VNET.pack(NEEDS_CSUM, TCPV4, 54, 100, 34, 16) + SUPER_FRAME)
        for data in DATAGRAMS[middle:]:
            out.send(VNET.pack(0, 0, 0, 0, 0, 0) + data)


def run(pipeline: Pipeline) -> None:
    tap = tap_of(pipeline)
    assert tap is not None

    def done() -> bool:
        tap.run()
        return pipeline.counters[Slot.captured] >= COUNT and tap.drained()

    wait_for(done, "every frame is accounted for")


@pytest.mark.parametrize("way", ["socket", "socket joined", "packet", "packet joined", "device"])
def test_nothing_refused(hosts: tuple[Host, Host], dataplane: str, way: str) -> None:
    client, source = hosts
    before = source.transmitted("uplink")
    with pipeline(source, dataplane, way) as running:
        send_all(client)
        run(running)
    assert source.transmitted("uplink") - before == len(DATAGRAMS) + SEGMENTS
    assert running.counters[Slot.sent_packets] == len(DATAGRAMS) + SEGMENTS
    assert running.counters[Slot.captured] == running.counters[Slot.mirrored] == COUNT
    assert running.counters[Slot.segmented] == 1


def test_joined_copies_that_the_kernel_refuses_leave_one_by_one(hosts: tuple[Host, Host]) -> None:
    client, source = hosts
    before = source.transmitted("uplink")
    with pipeline(source, "native", "socket joined") as running:
        assert isinstance(running.transmit, Transmit)
        for lane in map(running.transmit.lanes.__getitem__, range(LANES)):
            lane.socket.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)  # the kernel joins nothing then: EINVAL, udp.c
        send_all(client)
        run(running)
        assert running.gso_refused() == errno.EINVAL
    assert source.transmitted("uplink") - before == running.counters[Slot.sent_packets] == len(DATAGRAMS) + SEGMENTS
    assert running.counters[Slot.captured] == running.counters[Slot.mirrored] == COUNT


@pytest.mark.parametrize("way", ["socket", "socket joined"])
@pytest.mark.parametrize("refusal", REFUSALS)
def test_refused_by_the_network(hosts: tuple[Host, Host], dataplane: str, refusal: str, way: str) -> None:
    check(hosts, dataplane, *REFUSALS[refusal], way)


@pytest.mark.parametrize("refusal", PACKET_REFUSALS)
def test_refused_to_a_packet_socket(hosts: tuple[Host, Host], dataplane: str, refusal: str) -> None:
    check(hosts, dataplane, *REFUSALS[refusal], "packet")


@pytest.mark.parametrize("refusal", DEVICE_REFUSALS)
def test_refused_by_the_device(hosts: tuple[Host, Host], dataplane: str, refusal: str) -> None:
    check(hosts, dataplane, *DEVICE_REFUSALS[refusal], "device")


def check(hosts: tuple[Host, Host], dataplane: str, change: str, slot: Slot, way: str) -> None:
    client, source = hosts
    with pipeline(source, dataplane, way) as running:
        source.ip(change)
        send_all(client)
        run(running)
    assert {Slot(n): running.counters[n] for n in range(Slot.mirrored, Slot.truncated) if running.counters[n]} == {
        slot: COUNT
    }
    assert running.counters[Slot.captured] == COUNT
