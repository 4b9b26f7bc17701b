"""`payload = "zero"`: what scapy builds with zeros for its payload is what the copies are, checksums included."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    fragment6,
)
from scapy.layers.l2 import ARP, GRE, Dot1AD, Dot1Q, Ether
from scapy.layers.ppp import PPP, PPPoE
from scapy.layers.sctp import SCTP
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from mirrord.dataplane.forward import encap
from mirrord.dataplane.frame.headers import Tag
from mirrord.dataplane.frame.wire import Frame, Vnet
from mirrord.plans import ForwardPlan, Payload
from tests.support.packets import LINK, V4
from tests.support.planes import Result, step

V6 = IPv6(src="2001:db8::1", dst="2001:db8::2")
ROUTED = V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting(addresses=["2001:db8::9"], segleft=1) / IPv6ExtHdrDestOpt()
OPTIONS = [("Timestamp", (1, 2))] * 4
SECRET = b"attack at dawn! " * 20
ZERO = ForwardPlan(encap.bare(), payload=Payload.zero)
SESSION = 0xDEADBEEF
HEADERS = [
    LINK / V4 / TCP(options=OPTIONS),
    LINK / Dot1AD(vlan=7) / Dot1Q(vlan=5) / V6 / TCP(),
    LINK / ROUTED / TCP(options=OPTIONS),  # whose checksum is of the last address of the route
    LINK / V4 / UDP(sport=1, dport=2),
    LINK / V6 / UDP(sport=1, dport=2),
    LINK / V4 / SCTP(sport=7, dport=8, tag=SESSION),
    LINK / V6 / SCTP(sport=7, dport=8, tag=SESSION),
    LINK / V4 / ICMP(id=9, seq=1),
    LINK / V6 / ICMPv6EchoRequest(id=9, seq=1),
]


def forward(data: bytes, dataplane: str, plan: ForwardPlan = ZERO, **more: object) -> Result:
    return step(plan, dataplane)(Frame(data, len(data))._replace(**more))  # type: ignore[arg-type]


def only(done: Result) -> bytes:
    (copy,) = done.copies
    return copy


@pytest.mark.parametrize("packet", HEADERS, ids=lambda packet: packet.summary())
@pytest.mark.parametrize("secret", [SECRET, SECRET[:-1], b"\xff\xff", b"x"], ids=["even", "odd", "ones", "one"])
def test_a_whole_packet_is_the_one_with_zeros(packet: Packet, secret: bytes, dataplane: str) -> None:
    done = forward(bytes(packet / Raw(secret)), dataplane)
    assert (only(done), done.zeroed, done.truncated) == (bytes(packet / Raw(bytes(len(secret)))), 1, 0)
    assert forward(bytes(packet), dataplane) == forward(bytes(packet), dataplane, replace(ZERO, payload=Payload.keep))


@pytest.mark.parametrize("packet", HEADERS[:5], ids=lambda packet: packet.summary())
def test_zeros_that_were_zeros_have_the_checksum_they_had(packet: Packet, dataplane: str) -> None:
    for length in range(1, 5):
        assert only(forward(bytes(packet / Raw(bytes(length))), dataplane)) == bytes(packet / Raw(bytes(length)))


def test_padding_is_hidden_and_not_part_of_the_checksum(dataplane: str) -> None:
    packet = LINK / V4 / UDP(sport=1, dport=2)
    done = forward(bytes(packet / Raw(b"abc")) + b"leaked from memory", dataplane)
    assert only(done) == bytes(packet / Raw(bytes(3))) + bytes(18)


def test_a_udp_checksum_of_zero_stays(dataplane: str) -> None:
    packet = LINK / V4 / UDP(sport=1, dport=2, chksum=0)
    assert only(forward(bytes(packet / Raw(SECRET)), dataplane)) == bytes(packet / Raw(bytes(len(SECRET))))


def test_a_udp_checksum_that_becomes_zero_is_written_as_ones(dataplane: str) -> None:
    empty = LINK / V4 / UDP(sport=0, dport=0) / Raw(bytes(2))
    empty[UDP].sport = int.from_bytes(bytes(empty)[40:42], "big")  # what is missing from the sum ffff
    assert bytes(empty)[40:42] == b"\xff\xff"
    secret = empty.copy()
    secret[Raw].load = b"\x12\x34"
    assert only(forward(bytes(secret), dataplane)) == bytes(empty)


def test_a_wrong_checksum_is_not_made_right(dataplane: str) -> None:
    right = LINK / V4 / TCP() / Raw(bytes(320))
    value = int.from_bytes(bytes(right)[50:52], "big")
    sent = bytearray(bytes(LINK / V4 / TCP() / Raw(SECRET)))
    sent[51] ^= 1
    copy = only(forward(bytes(sent), dataplane))
    assert copy[54:] == bytes(320)
    assert int.from_bytes(copy[50:52], "big") in ((value + 1), (value - 1))


@pytest.mark.parametrize(
    "packet",
    [
        LINK / V4 / GRE() / V4 / TCP() / Raw(SECRET),
        LINK / IP(src="10.0.0.1", dst="10.0.0.2", proto=50) / Raw(SECRET),
        LINK / V4 / UDP(dport=4789, chksum=0) / VXLAN() / LINK / V4 / TCP() / Raw(SECRET),
    ],
    ids=["GRE", "ESP", "VXLAN"],
)
def test_of_another_protocol_the_ip_header_stays_and_of_a_tunnel_the_outer_ones(packet: Packet, dataplane: str) -> None:
    data = bytes(packet)
    end = 42 if UDP in packet else 34
    assert only(forward(data, dataplane)) == data[:end] + bytes(len(data) - end)


def test_all_of_a_later_fragment_is_hidden_and_checksums_stay(dataplane: str) -> None:
    pieces = fragment(V4 / UDP(sport=1, dport=2) / Raw(SECRET * 8), 1480)
    pieces += fragment6(V6 / IPv6ExtHdrFragment(id=3) / UDP(sport=1, dport=2) / Raw(SECRET * 8), 1480)
    for packet, end in zip(pieces, (42, 34, 14 + 48 + 8, 14 + 48), strict=True):
        data = bytes(LINK / packet)
        assert only(forward(data, dataplane)) == data[:end] + bytes(len(data) - end)


def test_an_icmp_error_quotes_nothing(dataplane: str) -> None:
    quoted = bytes(V4 / TCP() / Raw(SECRET))[:64]
    packet = LINK / V4 / ICMP(type=3, code=1)
    assert only(forward(bytes(packet / Raw(quoted)), dataplane)) == bytes(packet / Raw(bytes(64)))


@pytest.mark.parametrize("packet", [LINK / ARP(psrc="10.0.0.1"), Ether(type=0x88CC) / Raw(SECRET)], ids=["ARP", "LLDP"])
def test_what_is_not_ip_stays(packet: Packet, dataplane: str) -> None:
    done = forward(bytes(packet), dataplane)
    assert (only(done), done.zeroed) == (bytes(packet), 0)


@pytest.mark.parametrize(
    "packet",
    [
        LINK / Dot1Q(vlan=1) / Dot1Q(vlan=2) / Dot1Q(vlan=3) / V4 / TCP() / Raw(SECRET),
        LINK / MPLS(label=7) / V4 / TCP() / Raw(SECRET),
        LINK / PPPoE(sessionid=1) / PPP() / V4 / TCP() / Raw(SECRET),
        LINK / IP(version=5, src="10.0.0.1", dst="10.0.0.2") / TCP() / Raw(SECRET),
        LINK / V6 / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt()
        / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / TCP() / Raw(SECRET),
    ],
    ids=["three tags", "MPLS", "PPPoE", "no IP", "seven extensions"],
)  # fmt: skip
def test_where_headers_are_not_known_nothing_leaks(packet: Packet, dataplane: str) -> None:
    data = bytes(packet)
    done = forward(data, dataplane)
    assert (len(only(done)), done.zeroed) == (len(data), 1)
    assert b"attack" not in only(done)


def test_a_tcp_header_that_cannot_be_hides_its_options(dataplane: str) -> None:
    data = bytes(LINK / V4 / TCP(dataofs=15) / Raw(SECRET[:16]))
    assert only(forward(data, dataplane))[54:] == bytes(16)


@pytest.mark.parametrize("tag", [None, Tag(0x88A8, 7)])
@pytest.mark.parametrize(("strip", "push"), [(False, 0), (True, 0), (False, 9), (True, 9)])
def test_checksums_left_to_offload_and_tags(tag: Tag | None, strip: bool, push: int, dataplane: str) -> None:
    packet = LINK / V6 / TCP(options=OPTIONS)
    whole = bytes(packet / Raw(SECRET))
    # what the kernel leaves in the field is the pseudo-header's sum, not complemented
    pseudo = sum(int.from_bytes(whole[n : n + 2], "big") for n in range(22, 54, 2)) + 6 + 60 + len(SECRET)
    folded = (pseudo & 0xFFFF) + (pseudo >> 16)
    data = whole[:70] + (folded & 0xFFFF).to_bytes(2, "big") + whole[72:]
    assert pseudo >> 16 == 0 or folded <= 0xFFFF
    plan = replace(ZERO, strip_tag=strip, push_tag=push)
    done = forward(data, dataplane, plan, tag=tag, vnet=Vnet(1, 0, 0, 0, 54, 16))
    expected = bytes(packet / Raw(bytes(len(SECRET))))
    if tag and not strip:
        expected = expected[:12] + b"\x88\xa8\x00\x07" + expected[12:]
    if push:
        expected = expected[:12] + b"\x81\x00" + push.to_bytes(2, "big") + expected[12:]
    assert only(done) == expected


@pytest.mark.parametrize("snaplen", [0, 60, 200])
def test_segments_of_a_super_frame(snaplen: int, dataplane: str) -> None:
    packet = LINK / V4 / TCP(seq=1000)
    whole = bytes(packet / Raw(SECRET * 10))
    plan = replace(ZERO, snaplen=snaplen)
    done = forward(whole, dataplane, plan, vnet=Vnet(1, 1, 54, 1400, 34, 16))
    expected = []
    for n, length in enumerate((1400, 1400, 400)):
        one = packet.copy()
        one[IP].id, one[TCP].seq = packet[IP].id + n, 1000 + n * 1400
        expected.append(bytes(one / Raw(bytes(length)))[: snaplen or None])
    assert (done.copies, done.zeroed, done.truncated) == (expected, 3, 3 if snaplen else 0)


def test_the_segments_of_a_tunnel_have_the_outer_headers_alone(dataplane: str) -> None:
    outer = LINK / V4 / UDP(sport=50000, dport=4789, chksum=0) / VXLAN(vni=9)
    whole = bytes(outer / LINK / V4 / TCP(seq=1) / Raw(SECRET * 10))
    done = forward(whole, dataplane, vnet=Vnet(1, 1, 104, 1400, 84, 16))
    assert [len(copy) for copy in done.copies] == [1504, 1504, 504]
    assert all(copy[42:] == bytes(len(copy) - 42) for copy in done.copies)
