"""Single frames by a packet socket: tags, checksums left to the device, wrong checksums, and super-frames behind tags.

The bridge hands them on to a device that does nothing in the kernel's place, and what arrives there is the truth.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from scapy.layers.inet import IP, TCP, UDP, IPOption_NOP, in4_chksum
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, in6_chksum
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP, SCTPChunkCookieAck
from scapy.packet import Packet

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.offload import GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, Offloaded, Offloader
from tests.support.topology import Topology
from tests.support.wire import ADDRESSES, MACS, PORT, Wire, differences, send_at_once, wrong

SENDER = bytes.fromhex("020000000011")
OURS = "ether src 02:00:00:00:00:11"
LINK = Ether(src="02:00:00:00:00:11", dst=MACS[1])
V4 = IP(src="10.0.0.1", dst="10.0.0.2", id=0xFFFE)
V6 = IPv6(src="2001:db8::1", dst="2001:db8::2")
CUSTOMER, PRIORITY, SERVICE = b"\x81\x00\x00\x6f", b"\x81\x00\xe0\x00", b"\x88\xa8\xb0\xde"
TAGS = [(), (CUSTOMER,), (PRIORITY,), (SERVICE,), (SERVICE, CUSTOMER), (CUSTOMER, CUSTOMER)]

ENDS = {"sport": PORT, "dport": PORT}

AS_THEY_ARE = [
    bytes(layers)
    for tags in (
        LINK,
        LINK / Dot1Q(vlan=111, prio=5, dei=1),
        LINK / Dot1AD(vlan=222),
        LINK / Dot1AD(vlan=222, prio=7) / Dot1Q(vlan=111),
        LINK / Dot1Q(vlan=1) / Dot1Q(vlan=0, prio=3),
        LINK / Dot1AD(vlan=3) / Dot1AD(vlan=2) / Dot1Q(vlan=1),
    )
    for layers in (
        tags / V4 / UDP(**ENDS, chksum=0) / b"no checksum",
        tags / V4 / UDP(**ENDS, chksum=0x1234) / b"wrong checksum",
        tags / V4 / TCP(**ENDS, chksum=0x1234) / b"wrong checksum",
        tags / IP(src="10.0.0.1", dst="10.0.0.2", chksum=0x4321) / UDP(**ENDS) / b"wrong header checksum",
        tags / V6 / UDP(**ENDS, chksum=0x1234) / b"wrong checksum",
        tags / ARP(op=2, hwsrc=MACS[0], psrc="10.0.0.1", hwdst=MACS[1], pdst="10.0.0.2"),
    )
]


def partial(layers: Packet, *, gso_type: int = 0, gso_size: int = 0) -> Offloaded:
    """The frame with the sum of its pseudo-header in the transport checksum, as the kernel leaves it to a device."""
    transport = layers[TCP] if TCP in layers else layers[UDP]
    protocol, offset = (6, 16) if TCP in layers else (17, 6)
    zeros = bytes(len(transport))  # they leave the pseudo-header alone in the sum
    value = in4_chksum(protocol, layers[IP], zeros) if IP in layers else in6_chksum(protocol, layers[IPv6], zeros)
    transport.chksum = ~value & 0xFFFF
    data = bytes(layers)
    start = len(data) - len(zeros)
    header = start + ((data[start + 12] >> 4) * 4 if protocol == 6 else 8)
    return Offloaded(data, NEEDS_CSUM, gso_type, header if gso_type else 0, gso_size, start, offset)


def tagged(frames: Iterable[Offloaded]) -> list[Offloaded]:
    return [frame.tagged(*tags, source=SENDER) for tags in TAGS for frame in frames]


SMALL = [
    partial(LINK / V4 / UDP(**ENDS) / b"odd"),
    partial(LINK / V4 / UDP(**ENDS) / b"even"),
    partial(LINK / V4 / TCP(**ENDS, flags="S", options=[("MSS", 1460), ("NOP", None)])),
    partial(LINK / V6 / UDP(**ENDS)),
    partial(LINK / V6 / IPv6ExtHdrDestOpt() / TCP(**ENDS) / b"x"),
]
PAYLOAD = bytes(n * 13 & 255 for n in range(12_001))
STAMPS = [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]
ALL_FLAGS = {**ENDS, "flags": "FPAC", "seq": 0xFFFFFF00}
SUPER = [
    partial(LINK / V4 / TCP(**ALL_FLAGS) / PAYLOAD, gso_type=GSO_TCPV4 | GSO_ECN, gso_size=1460),
    partial(LINK / V4 / TCP(**ALL_FLAGS, options=STAMPS) / PAYLOAD[:12_000], gso_type=GSO_TCPV4, gso_size=1000),
    partial(
        LINK / IP(src="10.0.0.1", dst="10.0.0.2", options=[IPOption_NOP()] * 4) / TCP(**ENDS) / PAYLOAD,
        gso_type=GSO_TCPV4, gso_size=999,
    ),
    partial(LINK / V6 / TCP(**ALL_FLAGS) / PAYLOAD, gso_type=GSO_TCPV6 | GSO_ECN, gso_size=1440),
    partial(LINK / V6 / IPv6ExtHdrDestOpt() / TCP(**ENDS) / PAYLOAD, gso_type=GSO_TCPV6, gso_size=1200),
    partial(LINK / V4 / UDP(**ENDS) / PAYLOAD, gso_type=GSO_UDP_L4, gso_size=1472),
    partial(LINK / V6 / UDP(**ENDS) / PAYLOAD, gso_type=GSO_UDP_L4, gso_size=500),
]  # fmt: skip


def zero_sum(second: Packet) -> bytes:
    """A payload that makes this, the second of three segments of 1000 bytes, come out with a checksum of zero."""
    built = IP(bytes(second / bytes(1000)))
    value: int = built[TCP].chksum if TCP in built else built[UDP].chksum
    return bytes(1000) + value.to_bytes(2, "big") + bytes(1998)


SUPER += [
    partial(LINK / V4 / TCP(**ENDS) / zero_sum(V4 / TCP(**ENDS, seq=1000)), gso_type=GSO_TCPV4, gso_size=1000),
    partial(LINK / V4 / UDP(**ENDS) / zero_sum(V4 / UDP(**ENDS)), gso_type=GSO_UDP_L4, gso_size=1000),
]


def send_all(wire: Wire, frames: Iterable[Offloaded]) -> None:
    with Offloader(wire.client, "eth0") as out:
        for frame in frames:
            out.send(frame)


@pytest.mark.parametrize("inside", [False, True], ids=["ingress", "egress"])
def test_what_was_not_left_to_the_device_is_never_touched(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon, *, inside: bool
) -> None:
    wire = Wire(net, sniff, daemon, inside=inside)
    send_all(wire, map(Offloaded, AS_THEY_ARE))
    _, copies, _ = wire.finish()

    assert sorted(copies.frames(OURS)) == sorted(AS_THEY_ARE)
    assert len(wrong(copies).splitlines()) == sum(b"wrong" in frame for frame in AS_THEY_ARE)


@pytest.mark.parametrize("inside", [False, True], ids=["ingress", "egress"])
def test_checksums_left_to_the_device_are_completed(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon, *, inside: bool
) -> None:
    wire = Wire(net, sniff, daemon, inside=inside)
    send_all(wire, tagged(SMALL))
    truth, copies, metrics = wire.finish()

    assert wrong(copies) == ""
    assert differences(truth, copies, OURS, ordered=False) == []
    assert metrics.total("mirrord_segmented_frames_total") == 0


def test_sctp_has_a_checksum_of_its_own(net: Topology, sniff: MakeSniffer, daemon: MakeDaemon) -> None:
    """The vnet header does not tell it from the Internet checksum; the expected CRC is scapy's."""
    packets = [V4 / SCTP(**ENDS) / SCTPChunkCookieAck(), V6 / SCTP(**ENDS, tag=7) / (b"odd" * 333)]
    finished = [bytes(LINK / Dot1AD(vlan=222) / packet) for packet in packets]
    unfinished = []
    for frame, network in zip(finished, (20, 40), strict=True):
        start = 18 + network
        zeroed = frame[: start + 8] + bytes(4) + frame[start + 12 :]
        unfinished.append(Offloaded(zeroed, NEEDS_CSUM, csum_start=start, csum_offset=8))
    wire = Wire(net, sniff, daemon)
    send_all(wire, unfinished)
    _, copies, _ = wire.finish()

    assert sorted(copies.frames(OURS)) == sorted(finished)


@pytest.mark.parametrize("inside", [False, True], ids=["ingress", "egress"])
def test_super_frames_behind_tags_are_split(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon, *, inside: bool
) -> None:
    wire = Wire(net, sniff, daemon, inside=inside)
    with Offloader(wire.client, "eth0") as tap:
        tap.listen("eth0")
        for family in (4, 6):
            send_at_once(wire.client, wire.server, ADDRESSES[family][1], PAYLOAD * 20)
        captured = sorted(tap.captured(), key=lambda frame: len(frame.data))[-4:]
    assert all(frame.gso_type for frame in captured)
    send_all(wire, tagged(captured + SUPER))
    truth, copies, metrics = wire.finish()

    assert metrics.total("mirrord_dropped_frames_total") == metrics.total("mirrord_truncated_frames_total") == 0
    assert copies.frames(f"{OURS} and tcp[16:2] == 0")
    assert copies.frames(f"{OURS} and udp[6:2] == 0xffff")
    assert differences(truth, copies, OURS, ordered=False) == []
