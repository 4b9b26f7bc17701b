"""`snaplen = "headers"`: a copy ends where scapy's last header does, whatever is done to its tags."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    fragment6,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet

from mirrord.dataplane.forward import encap
from mirrord.dataplane.frame.headers import Tag
from mirrord.dataplane.frame.wire import Frame, Vnet
from mirrord.plans import ForwardPlan
from tests.support.packets import LINK, V4
from tests.support.planes import step

V6 = IPv6(src="2001:db8::1", dst="2001:db8::2")
EXTENSIONS = V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting(addresses=["::1"]) / IPv6ExtHdrDestOpt()
OPTIONS = [("Timestamp", (1, 2))] * 4  # of 10 bytes each: all that fit
DATA = b"\xa5" * 300
HEADERS = [
    LINK / V4 / TCP(),
    LINK / V4 / TCP(options=OPTIONS),
    LINK / IP(src="10.0.0.1", dst="10.0.0.2", options=[IPOption_Router_Alert()]) / UDP(sport=1, dport=2),
    LINK / V6 / TCP(options=OPTIONS),
    LINK / EXTENSIONS / TCP(options=OPTIONS),
    LINK / EXTENSIONS / UDP(sport=1, dport=2),
    LINK / Dot1AD(vlan=7) / Dot1Q(vlan=5) / V6 / UDP(sport=3, dport=4),
    LINK / Dot1AD(vlan=7) / Dot1Q(vlan=5) / EXTENSIONS / TCP(options=OPTIONS),
    LINK / V4 / SCTP(sport=7, dport=8),
    LINK / V4 / ICMP(),
    LINK / V6 / ICMPv6EchoRequest(),
    LINK / V4 / UDP(sport=50000, dport=4789),  # VXLAN behind it
    LINK / IP(src="10.0.0.1", dst="10.0.0.2", proto=47),  # GRE behind it, whose header is not known here
    LINK / IP(src="10.0.0.1", dst="10.0.0.2", proto=50),
    LINK / IP(src="10.0.0.1", dst="10.0.0.2", proto=17, frag=185),  # a later fragment
]


def outcome(data: bytes, dataplane: str, behind: int, **more: object) -> tuple[list[bytes], int]:
    plan = replace(ForwardPlan(encap.bare(), past_headers=behind), **more)  # type: ignore[arg-type]
    done = step(plan, dataplane)(Frame(data, len(data)))
    return done.copies, done.truncated


@pytest.mark.parametrize("packet", HEADERS, ids=lambda packet: packet.summary())
@pytest.mark.parametrize("behind", [0, 64])
def test_a_copy_ends_behind_the_transport_header(packet: Packet, behind: int, dataplane: str) -> None:
    end = len(bytes(packet))
    whole = bytes(packet / DATA)
    assert outcome(whole, dataplane, behind) == ([whole[: end + behind]], 1)
    assert outcome(whole[: end + behind], dataplane, behind) == ([whole[: end + behind]], 0)


def test_a_later_fragment_keeps_its_ip_header(dataplane: str) -> None:
    first, second, *_ = fragment6(V6 / IPv6ExtHdrFragment() / UDP(sport=1, dport=2) / bytes(3000), 1280)
    ends = 14 + 40 + 8 + 8, 14 + 40 + 8
    for packet, end in zip((first, second), ends, strict=True):
        whole = bytes(LINK / packet)
        assert outcome(whole, dataplane, 0) == ([whole[:end]], 1)


@pytest.mark.parametrize(
    "packet",
    [
        LINK / ARP(psrc="10.0.0.1", pdst="10.0.0.2") / DATA,
        Ether(type=0x88CC) / DATA,
        LINK / Dot1AD(vlan=7) / Dot1Q(vlan=5) / Dot1Q(vlan=3) / V4 / TCP() / DATA,  # deeper than is looked
    ],
    ids=["ARP", "LLDP", "three tags"],
)
def test_what_has_no_known_header_stays_whole(packet: Packet, dataplane: str) -> None:
    assert outcome(bytes(packet), dataplane, 0) == ([bytes(packet)], 0)


def test_more_extension_headers_than_are_looked_through_stay_whole(dataplane: str) -> None:
    packet: Packet = LINK / V6
    for _ in range(7):
        packet = packet / IPv6ExtHdrDestOpt()
    whole = bytes(packet / TCP() / DATA)
    assert outcome(whole, dataplane, 0) == ([whole], 0)


def test_a_header_longer_than_the_frame_is_not_believed(dataplane: str) -> None:
    whole = bytes(LINK / V4 / TCP(dataofs=15) / b"12345678")
    assert outcome(whole, dataplane, 0) == ([whole[:54]], 1)
    whole = bytes(LINK / V4 / TCP(dataofs=2) / DATA)
    assert outcome(whole, dataplane, 0) == ([whole[:54]], 1)


@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize("push", [0, 111])
@pytest.mark.parametrize("metadata", [None, Tag(0x88A8, 7)], ids=["in the frame", "in metadata"])
def test_tags_are_counted_as_they_leave(strip: bool, push: int, metadata: Tag | None, dataplane: str) -> None:
    inner = LINK / V4 / TCP(options=OPTIONS)
    tagged = bytes(LINK / Dot1AD(vlan=7) / V4 / TCP(options=OPTIONS))
    frame = Frame(bytes(inner / DATA) if metadata else tagged + DATA, 54 + 40 + 300 + (0 if metadata else 4))
    plan = ForwardPlan(encap.bare(), past_headers=5, strip_tag=strip, push_tag=push)
    (copy,) = step(plan, dataplane)(frame._replace(tag=metadata)).copies
    layers = Ether(copy)
    assert len(copy) == 14 + 4 * (not strip) + 4 * bool(push) + 20 + 60 + 5
    assert bytes(layers[TCP])[20:] == bytes(inner[TCP])[20:] + DATA[:5]


def test_segments_of_a_super_frame_are_cut_each(dataplane: str) -> None:
    whole = bytes(LINK / V4 / TCP(options=OPTIONS, seq=1000) / bytes(3500))
    frame = Frame(whole, len(whole), vnet=Vnet(1, 1, 94, 1400, 34, 16))
    done = step(ForwardPlan(encap.bare(), past_headers=0), dataplane)(frame)
    assert [len(copy) for copy in done.copies] == [94] * 3
    assert [Ether(copy)[TCP].seq for copy in done.copies] == [1000, 2400, 3800]
    assert [Ether(copy)[IP].len for copy in done.copies] == [1480, 1480, 780]  # the original's
    assert done.truncated == 3


def test_of_a_tunnel_the_outer_headers_are_kept(dataplane: str) -> None:
    outer = LINK / V6 / UDP(sport=50000, dport=4789, chksum=0)
    inner = bytes(VXLAN(vni=9) / LINK / V4 / TCP(seq=1) / bytes(3000))
    whole = bytes(outer / inner)
    start = 62 + 8 + 34
    frame = Frame(whole, len(whole), vnet=Vnet(1, 1, start + 20, 1000, start, 16))
    assert [len(copy) for copy in step(ForwardPlan(encap.bare(), past_headers=8), dataplane)(frame).copies] == [70] * 3
