"""What the kernel left undone on an ordinary frame is done, by both data planes; scapy built the frame in full."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, in4_pseudoheader
from scapy.layers.inet6 import IPv6, in6_pseudoheader
from scapy.layers.l2 import Dot1Q
from scapy.layers.sctp import SCTP, SCTPChunkCookieAck
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet
from scapy.utils import checksum

from mirrord.dataplane.counters import Slot
from mirrord.dataplane.forward import encap
from mirrord.dataplane.frame.headers import Tag
from mirrord.dataplane.frame.wire import Frame, Vnet
from mirrord.plans import ForwardPlan
from tests.support.packets import LINK, V4
from tests.support.planes import Result, step

V6 = IPv6(src="2001:db8::1", dst="2001:db8::2")
TUNNEL = IP(src="172.16.0.1", dst="172.16.0.2") / UDP(sport=50000, chksum=0) / VXLAN(vni=9)
NEEDS_CSUM, DATA_VALID = 1, 2  # linux/virtio_net.h
FIELD = {TCP: 16, UDP: 6}
FRAMES = {
    "TCP over IPv4": LINK / V4 / TCP() / b"even",
    "UDP over IPv4, odd": LINK / V4 / UDP(sport=1, dport=2) / b"odd",
    "TCP over IPv6": LINK / V6 / TCP(options=[("MSS", 1440)]) / b"odd",
    "UDP over IPv6": LINK / V6 / UDP(sport=1, dport=2) / bytes(1400),
    "in a VLAN": LINK / Dot1Q(vlan=5) / V4 / TCP() / b"tagged",
    "in VXLAN": LINK / TUNNEL / LINK / V4 / TCP() / b"inner",
    # Data chosen so that the checksum is zero, which UDP sends as ffff (RFC 768).
    "zero": LINK / V4 / UDP(sport=0, dport=0) / (0xFFFF - 0x1400 - 3 - 17 - 20).to_bytes(2, "big"),
}


def unfinished(packet: Packet) -> Frame:
    """The frame as the kernel holds it: the pseudo-header's sum where the checksum goes."""
    kind, protocol = (TCP, 6) if TCP in packet else (UDP, 17)
    transport = packet[kind]
    network, length = transport.underlayer, len(bytes(transport))
    pseudo_header = in4_pseudoheader if isinstance(network, IP) else in6_pseudoheader
    pseudo = bytes(pseudo_header(protocol, network, length))
    data = bytes(packet)
    start, offset = len(data) - length, FIELD[kind]
    at = start + offset
    data = data[:at] + (checksum(pseudo) ^ 0xFFFF).to_bytes(2, "big") + data[at + 2 :]
    return Frame(data, len(data), vnet=Vnet(NEEDS_CSUM, 0, 0, 0, start, offset))


def forward(frame: Frame, dataplane: str) -> Result:
    return step(ForwardPlan(encap.bare()), dataplane)(frame)


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("tag", [None, Tag(0x8100, 5), Tag(0x88A8, 0x6007)], ids=["plain", "802.1Q", "802.1ad"])
def test_checksum_and_tag_are_put_in(name: str, tag: Tag | None, dataplane: str) -> None:
    whole = bytes(FRAMES[name])
    frame = unfinished(FRAMES[name])
    assert frame.data != whole
    between = b"" if tag is None else tag.tpid.to_bytes(2, "big") + tag.tci.to_bytes(2, "big")
    assert forward(frame._replace(tag=tag), dataplane).copies == [whole[:12] + between + whole[12:]]


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("tag", [None, Tag(0x8100, 5)], ids=["plain", "802.1Q"])
def test_a_device_that_was_quicker(name: str, tag: Tag | None, dataplane: str) -> None:
    """It has written the checksum, or zeros to begin with, where the sum of the pseudo-header was."""
    whole = bytes(FRAMES[name])
    vnet = unfinished(FRAMES[name]).vnet
    at = vnet.csum_start + vnet.csum_offset
    between = b"" if tag is None else tag.tpid.to_bytes(2, "big") + tag.tci.to_bytes(2, "big")
    for data in (whole, whole[:at] + bytes(2) + whole[at + 2 :]):
        frame = Frame(data, len(data), vnet=vnet, tag=tag)
        assert forward(frame, dataplane).copies == [whole[:12] + between + whole[12:]]


def test_padding_is_not_of_the_pseudo_header(dataplane: str) -> None:
    """A driver pads short frames after the sum was written."""
    whole = bytes(LINK / V4 / UDP(sport=1, dport=2) / b"short").ljust(60, b"\0")
    frame = unfinished(LINK / V4 / UDP(sport=1, dport=2) / b"short")
    for data in (frame.data.ljust(60, b"\0"), whole):
        assert forward(Frame(data, 60, vnet=frame.vnet), dataplane).copies == [whole]


def test_a_checksum_that_the_sender_began_wrongly_stays_wrong(dataplane: str) -> None:
    """What a device adds up, it adds up from there: the wire carries the error."""
    frame = unfinished(LINK / V4 / TCP() / b"even")
    began = int.from_bytes(frame.data[50:52], "big") + 1
    data = frame.data[:50] + began.to_bytes(2, "big") + frame.data[52:]
    right = int.from_bytes(bytes(LINK / V4 / TCP() / b"even")[50:52], "big")
    (copy,) = forward(frame._replace(data=data), dataplane).copies
    assert copy == data[:50] + (right - 1).to_bytes(2, "big") + data[52:]


@pytest.mark.parametrize("flags", [0, DATA_VALID])
def test_a_checksum_that_nobody_left_open_is_not_touched(flags: int, dataplane: str) -> None:
    data = bytes(LINK / V4 / TCP(chksum=0xBAD) / b"as it came")
    assert forward(Frame(data, len(data), vnet=Vnet(flags)), dataplane).copies == [data]


def test_a_checksum_outside_of_the_frame_is_malformed(dataplane: str) -> None:
    data = bytes(LINK / V4 / ICMP())
    for start, offset in ((len(data), 0), (34, len(data) - 35), (65535, 65535)):
        frame = Frame(data, len(data), vnet=Vnet(NEEDS_CSUM, 0, 0, 0, start, offset))
        assert forward(frame, dataplane).reason is Slot.dropped_malformed


@pytest.mark.parametrize("length", [0, 1, 13])
def test_a_runt_is_malformed(length: int, dataplane: str) -> None:
    assert forward(Frame(bytes(length), length), dataplane).reason is Slot.dropped_malformed


def test_what_the_capture_cut_is_counted_as_truncated(dataplane: str) -> None:
    data = bytes(LINK / V4 / ICMP() / bytes(100))
    assert forward(Frame(data, len(data) + 1000), dataplane)[2:6] == (None, 1, 0, 0)


@pytest.mark.parametrize(
    "vnet",
    [
        Vnet(NEEDS_CSUM, 2, 54, 100, 34, 16),  # a type that no kernel has
        Vnet(NEEDS_CSUM, 3, 54, 100, 34, 16),  # VIRTIO_NET_HDR_GSO_UDP, which sockets are not given
        Vnet(0, 1, 54, 100, 0, 0),  # TCP, and the frame has none
    ],
)
def test_a_super_frame_of_no_known_kind_is_malformed(vnet: Vnet, dataplane: str) -> None:
    data = bytes(LINK / Dot1Q(vlan=1) / bytes(300)) if not vnet.flags else bytes(LINK / V4 / TCP() / bytes(300))
    assert forward(Frame(data, len(data), vnet=vnet), dataplane).reason is Slot.dropped_malformed


def test_a_super_frame_that_the_capture_cut_is_malformed(dataplane: str) -> None:
    data = bytes(LINK / V4 / TCP() / bytes(300))
    for vnet in (Vnet(NEEDS_CSUM, 1, 54, 100, 34, 16), Vnet(NEEDS_CSUM, 0, 0, 0, 34, 16)):
        assert forward(Frame(data, len(data) + 1, vnet=vnet), dataplane).reason is Slot.dropped_malformed


def test_segments_of_a_super_frame_are_what_the_wire_carries(dataplane: str) -> None:
    """Also of one whose headers tell where TCP begins, since nobody left a checksum open."""
    data = bytes(LINK / V4 / TCP(flags="A") / bytes(250))
    for flags, start in ((NEEDS_CSUM, 34), (0, 0)):
        result = forward(Frame(data, len(data), vnet=Vnet(flags, 1, 54, 100, start, 16 if flags else 0)), dataplane)
        assert [len(copy) - 54 for copy in result.copies] == [100, 100, 50]


def test_the_checksum_of_sctp_is_a_crc(dataplane: str) -> None:
    """RFC 9260 6.8: CRC32c, which scapy makes too. Its field is known by its offset."""
    whole = bytes(LINK / V4 / SCTP(sport=1, dport=2) / SCTPChunkCookieAck())
    left_out = whole[:42] + bytes(4) + whole[46:]
    assert forward(Frame(left_out, len(left_out), vnet=Vnet(NEEDS_CSUM, 0, 0, 0, 34, 8)), dataplane).copies == [whole]
