"""The two data planes against each other: the copies of a whole batch, in the order in which they leave.

client eth0 ---- nic [source] uplink ---- eth0 [collector] vxlan0
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import NamedTuple, Self

from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import ARP

from mirrord.dataplane.counters import Slot
from mirrord.dataplane.filter.rules import Direction, Selection
from mirrord.dataplane.forward import encap
from mirrord.dataplane.frame.wire import VNET
from mirrord.dataplane.netns import find
from mirrord.kernel import PACKET_VNET_HDR, SOL_PACKET
from mirrord.plans import CapturePlan, DevicePlan, ForwardPlan, Hop, PipelinePlan, TunnelPlan
from tests.support.alone import Alone
from tests.support.packets import LINK
from tests.support.receiver import Receiver
from tests.support.source import source_and_collector
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

MARK = 0x10000000
BATCH = 512  # forward.h: copies that are handed to the kernel together
OUTER = 14 + 20 + 8 + 8  # Ethernet, IPv4, UDP, VXLAN
TCPV4, NEEDS_CSUM = 1, 1  # linux/virtio_net.h
SEGMENT = 100

# What is sent: a flow, and its payload's length; a super-frame where that is more than a frame has.
frames = st.tuples(st.integers(0, 63), st.sampled_from([0, 18, 18, 18, 19, 100, 1400, SEGMENT * 20 + 1]))
super_frames = st.tuples(st.just(64), st.just(SEGMENT * 600))  # more than a batch
sequences = st.lists(frames, min_size=1, max_size=80) | st.lists(frames | super_frames, min_size=1, max_size=5)


def made(number: int, flow: int, length: int) -> tuple[bytes, bytes]:
    """A vnet header, and a frame that is like no other."""
    ends = IP(src=f"10.0.{flow}.1", dst="10.1.0.1", id=number)
    if length == 0:
        return VNET.pack(0, 0, 0, 0, 0, 0), bytes(
            LINK / ARP(psrc=ends.src, pdst="10.1.0.1", hwsrc=f"02:00:{number.to_bytes(4, 'big').hex(':')}")
        )
    if length <= 1400:
        payload = number.to_bytes(4, "big").ljust(length, b".")
        return VNET.pack(0, 0, 0, 0, 0, 0), bytes(LINK / ends / UDP(sport=1000 + flow, dport=9) / payload)
    tcp = TCP(sport=1000 + flow, dport=80, flags="A", seq=number << 16, ack=number)
    return VNET.pack(NEEDS_CSUM, TCPV4, 54, SEGMENT, 34, 16), bytes(LINK / ends / tcp / bytes(length))


def ways(source: Host) -> dict[str, tuple[DevicePlan | TunnelPlan, bool]]:
    """By name: how copies leave, and whether the native core sends them."""
    ours, theirs = (bytes.fromhex(mac.replace(":", "")) for mac in (source.mac("uplink"), "02:00:00:00:00:99"))
    hop = Hop("uplink", source.index("uplink"), ours, theirs)
    tunnel = TunnelPlan("10.99.0.2", 4789, local="10.99.0.1", mark=MARK, netns=find(source.name))
    return {
        "reference": (tunnel, False),
        "reference, packet": (replace(tunnel, hop=hop), False),
        "socket": (tunnel, True),
        "packet": (replace(tunnel, hop=hop), True),
        "joined, socket": (replace(tunnel, gso=True), True),
        "joined, packet": (replace(tunnel, hop=hop, gso=True), True),
        "overtaking, socket": (replace(tunnel, gso=True, overtakes=True), True),
        "overtaking, packet": (replace(tunnel, hop=hop, gso=True, overtakes=True), True),
    }


@contextmanager
def pipelines(source: Host) -> Iterator[dict[str, Alone]]:
    """One of each way, all of the same source; the capture is of all frames at once."""
    capture = CapturePlan(
        "nic",
        source.index("nic"),
        Selection(Direction.INGRESS),
        mode="socket",
        ring_size=64 << 20,
        netns=find(source.name),
    )
    forward = ForwardPlan(encap.vxlan(1), overhead=42)
    with ExitStack() as stack:
        made = {}
        for name, (transmit, native) in ways(source).items():
            plan = PipelinePlan(capture, forward, transmit)
            made[name] = Alone(plan, native=native)
            stack.callback(made[name].close)
        yield made


class Copies(NamedTuple):
    """What left: the mirrored frames, and for each the first copy that had its source port."""

    frames: list[bytes]
    lanes: list[int]

    @classmethod
    def of(cls, packets: list[bytes]) -> Self:
        ports = [packet[34:36] for packet in packets]
        return cls([packet[OUTER:] for packet in packets], [ports.index(port) for port in ports])


def forwarded(one: Alone, count: int, receiver: Receiver) -> Copies:
    """What this pipeline makes of the `count` frames that its capture has now."""
    counters = one.pipeline.counters
    before = counters[Slot.mirrored]

    def all_mirrored() -> bool:
        one.tap.run()
        return counters[Slot.mirrored] == before + count

    wait_for(all_mirrored, "all frames mirrored")
    return Copies.of(receiver.frames(0x0800))


def test_a_batch_leaves_in_the_same_order(net: Topology) -> None:
    client, source, _ = source_and_collector(net)
    source.run("ethtool", "-K", "uplink", "tx-udp-segmentation", "off")  # what is joined is cut before it is looked at
    numbers = itertools.count()
    with (
        pipelines(source) as running,
        client.open_socket(socket.AF_PACKET, socket.SOCK_RAW) as out,
        Receiver(source, "uplink") as receiver,
    ):
        out.bind(("eth0", 0))
        out.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)

        @settings(deadline=None, max_examples=60)
        @given(sequences)
        def compare(sequence: list[tuple[int, int]]) -> None:
            for flow, length in sequence:
                out.send(b"".join(made(next(numbers), flow, length)))
            copies = {name: forwarded(one, len(sequence), receiver) for name, one in running.items()}
            reference = copies.pop("reference")
            for name, one in copies.items():
                if "overtaking" not in name:
                    assert one == reference, name
                    continue
                assert sorted(one.frames) == sorted(reference.frames), name
                places = {frame: n for n, frame in enumerate(reference.frames)}
                assert all(abs(n - places[frame]) < BATCH for n, frame in enumerate(one.frames)), name
                lanes = {frame: reference.lanes[n] for frame, n in places.items()}
                for lane in set(reference.lanes):
                    mine = [places[frame] for frame in one.frames if lanes[frame] == lane]
                    assert mine == sorted(mine), name

        compare()
        assert not any(one.pipeline.gso_refused() for one in running.values())
