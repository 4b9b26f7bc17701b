"""Decapsulation, by both planes: what scapy wraps comes out again, and hostile bytes get the same verdict from both."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scapy.contrib.erspan import ERSPAN_II, ERSPAN_III, ERSPAN_PlatformSpecific
from scapy.contrib.geneve import GENEVE, GeneveOptions
from scapy.contrib.tzsp import TZSP, TZSPTagEnd, TZSPTagPadding, TZSPTagRawRSSIByte
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, Dot1Q
from scapy.layers.vxlan import VXLAN

from mirrord.dataplane.forward.decap import decapsulate, unfinished
from mirrord.dataplane.forward.encap import bare
from mirrord.dataplane.forward.step import Forward
from mirrord.dataplane.frame.checksum import checksum
from mirrord.dataplane.frame.told import Told
from mirrord.dataplane.frame.wire import VNET, Frame, Vnet
from mirrord.dataplane.native import core
from mirrord.plans import ForwardPlan, Tunnel
from tests.support.packets import LINK

FRAME = bytes(LINK / IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=1000, dport=80) / b"inside")
LIMIT = 1514


def wrapped(*layers: Any) -> bytes:
    """The tunnel's packet from its UDP or GRE header on, as scapy builds it."""
    packet = IP(src="192.0.2.1", dst="192.0.2.2")
    for layer in layers:
        packet /= layer
    return bytes(packet)[20:]


OPTIONS = [GeneveOptions(classid=0x102, type=n, data=bytes(4 * n)) for n in range(3)]
SIX = IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(sport=1, dport=2) / b"six"
GOOD = [
    (Tunnel.VXLAN, wrapped(UDP(dport=4789), VXLAN(vni=7, flags="Instance"), FRAME)),
    (Tunnel.VXLAN, wrapped(UDP(dport=4789), VXLAN(vni=7, flags="Instance"), FRAME) + b"beyond the UDP length"),
    (Tunnel.GRE, wrapped(GRE(proto=0x6558), FRAME)),
    (Tunnel.GRE, wrapped(GRE(proto=0x6558, key_present=1, key=7), FRAME)),
    (Tunnel.GRE, wrapped(GRE(proto=0x6558, chksum_present=1, key_present=1, key=7, seqnum_present=1), FRAME)),
    (Tunnel.ERSPAN, wrapped(GRE(proto=0x88BE), FRAME)),
    (Tunnel.ERSPAN, wrapped(GRE(proto=0x88BE, seqnum_present=1), ERSPAN_II(session_id=7), FRAME)),
    (Tunnel.ERSPAN, wrapped(GRE(proto=0x22EB, seqnum_present=1), ERSPAN_III(session_id=7), FRAME)),
    (
        Tunnel.ERSPAN,
        wrapped(GRE(proto=0x22EB, seqnum_present=1), ERSPAN_III(o=1), ERSPAN_PlatformSpecific(), FRAME),
    ),
    (Tunnel.GENEVE, wrapped(UDP(dport=6081), GENEVE(vni=7, proto=0x6558), FRAME)),
    (Tunnel.GENEVE, wrapped(UDP(dport=6081), GENEVE(vni=7, proto=0x6558, options=OPTIONS), FRAME)),
    (Tunnel.TZSP, wrapped(UDP(dport=37008), TZSP(), TZSPTagEnd(), FRAME)),
    (
        Tunnel.TZSP,
        wrapped(UDP(dport=37008), TZSP(type=1), TZSPTagPadding(), TZSPTagRawRSSIByte(), TZSPTagEnd(), FRAME),
    ),
]  # fmt: skip
INNER = FRAME[14:]
BARE = [
    (wrapped(UDP(), GENEVE(proto=0x0800, options=OPTIONS), INNER), bytes(12) + b"\x08\x00" + INNER),
    (wrapped(UDP(), GENEVE(proto=0x86DD), bytes(SIX)), bytes(12) + b"\x86\xdd" + bytes(SIX)),
]
BAD = {
    "Geneve of version 1": (Tunnel.GENEVE, wrapped(UDP(), GENEVE(version=1, proto=0x6558), FRAME)),
    "Geneve of control": (Tunnel.GENEVE, wrapped(UDP(), GENEVE(oam=1, proto=0x6558), FRAME)),
    "Geneve with a critical option": (
        Tunnel.GENEVE,
        wrapped(UDP(), GENEVE(critical=1, proto=0x6558, options=[GeneveOptions(type=0x81)]), FRAME),
    ),
    "Geneve with MPLS": (Tunnel.GENEVE, wrapped(UDP(), GENEVE(proto=0x8847), FRAME)),
    "Geneve cut in its options": (Tunnel.GENEVE, wrapped(UDP(), GENEVE(optionlen=5, proto=0x6558), bytes(19))),
    "TZSP of 802.11": (Tunnel.TZSP, wrapped(UDP(), TZSP(encapsulated_protocol=0x12), TZSPTagEnd(), FRAME)),
    "TZSP that has no frame": (Tunnel.TZSP, wrapped(UDP(), TZSP(type=4))),
    "TZSP without an end": (Tunnel.TZSP, wrapped(UDP(), TZSP(), bytes(100))),
    "TZSP cut in a tag": (Tunnel.TZSP, wrapped(UDP(), TZSP(), bytes([10]))),
    "VXLAN without the I flag": (Tunnel.VXLAN, wrapped(UDP(dport=4789), VXLAN(flags=0), FRAME)),
    "VXLAN cut in its header": (Tunnel.VXLAN, wrapped(UDP(dport=4789), bytes([8, 0, 0, 0]))),
    "VXLAN with half an Ethernet header": (Tunnel.VXLAN, wrapped(UDP(), VXLAN(flags="Instance"), FRAME[:13])),
    "UDP longer than its packet": (Tunnel.VXLAN, wrapped(UDP(len=500), VXLAN(flags="Instance"), FRAME)),
    "GRE with routing": (Tunnel.GRE, wrapped(GRE(proto=0x6558, routing_present=1), FRAME)),
    "GRE version 1": (Tunnel.GRE, wrapped(GRE(proto=0x6558, version=1), FRAME)),
    "GRE with an IP packet": (Tunnel.GRE, wrapped(GRE(proto=0x0800), FRAME[14:])),
    "GRE cut in its key": (Tunnel.GRE, wrapped(GRE(proto=0x6558, key_present=1, key=7))[:6]),
    "ERSPAN II with another version": (
        Tunnel.ERSPAN,
        wrapped(GRE(proto=0x88BE, seqnum_present=1), ERSPAN_II(ver=2), FRAME),
    ),
    "ERSPAN III that carries IP": (
        Tunnel.ERSPAN,
        wrapped(GRE(proto=0x22EB, seqnum_present=1), ERSPAN_III(ft=2), FRAME[14:]),
    ),
    "ERSPAN III cut in its subheader": (
        Tunnel.ERSPAN,
        wrapped(GRE(proto=0x22EB, seqnum_present=1), ERSPAN_III(o=1), bytes(7)),
    ),
}  # fmt: skip


def both(tunnel: Tunnel, packet: bytes, limit: int = LIMIT) -> tuple[bytes, Vnet] | None:
    """What both planes make of a packet; they must agree."""
    found = decapsulate(tunnel, packet)
    python = None if found is None else (*found, unfinished(found.data, limit))
    native = core.decapsulate(tunnel=tunnel, packet=packet, limit=limit)
    assert python == (native and (native.data, native.told, Vnet._make(VNET.unpack(native.vnet))))
    return None if found is None else (found.data, unfinished(found.data, limit))


@pytest.mark.parametrize(("tunnel", "packet"), GOOD)
def test_the_frame_that_scapy_wrapped_comes_out(tunnel: Tunnel, packet: bytes) -> None:
    assert both(tunnel, packet) == (FRAME, Vnet())


@pytest.mark.parametrize(("packet", "frame"), BARE)
def test_an_ip_packet_in_geneve_gets_an_ethernet_header(packet: bytes, frame: bytes) -> None:
    assert both(Tunnel.GENEVE, packet) == (frame, Vnet())


@pytest.mark.parametrize(("tunnel", "packet"), BAD.values(), ids=BAD)
def test_a_malformed_packet_has_no_frame(tunnel: Tunnel, packet: bytes) -> None:
    assert both(tunnel, packet) is None


@pytest.mark.parametrize("network", [IP(src="10.0.0.1", dst="10.0.0.2"), IPv6(src="2001:db8::1", dst="2001:db8::2")])
@pytest.mark.parametrize("link", [LINK, LINK / Dot1Q(vlan=5)])
@pytest.mark.parametrize(("transport", "field"), [(TCP(sport=1, dport=2), 16), (UDP(sport=1, dport=2), 6)])
def test_an_unfinished_checksum_is_finished(link: Any, network: Any, transport: Any, field: int) -> None:
    whole = bytes(link / network / transport / b"payload")
    segment = bytes(network / transport / b"payload")[len(network) :]
    start = len(whole) - len(segment)
    addresses = bytes(network)[12:20] if network.version == 4 else bytes(network)[8:40]
    protocol = 6 if field == 16 else 17
    pseudo = addresses + bytes([0, protocol]) + len(segment).to_bytes(2, "big")
    partial = whole[: start + field] + (checksum(pseudo) ^ 0xFFFF).to_bytes(2, "big") + whole[start + field + 2 :]
    for frame in (whole, partial):
        packet = wrapped(UDP(dport=4789), VXLAN(flags="Instance"), frame)
        found = both(Tunnel.VXLAN, packet)
        assert found is not None
        data, vnet = found
        (copy,) = Forward(ForwardPlan(bare()))(Frame(data, len(data), vnet=vnet)).copies
        assert copy.data == whole


def merged_frame(payload: bytes) -> bytes:
    """A TCP frame as GRO leaves it: its checksum field holds the pseudo-header's sum."""
    whole = bytes(LINK / IP(src="10.0.0.1", dst="10.0.0.2", id=9) / TCP(sport=1, dport=2, seq=100, flags="A") / payload)
    pseudo = bytes([10, 0, 0, 1, 10, 0, 0, 2, 0, 6]) + (20 + len(payload)).to_bytes(2, "big")
    return whole[:50] + (checksum(pseudo) ^ 0xFFFF).to_bytes(2, "big") + whole[52:]


def test_a_merged_frame_is_split_to_fit() -> None:
    payload = bytes(range(256)) * 40
    merged = merged_frame(payload)
    found = both(Tunnel.GRE, wrapped(GRE(proto=0x6558), merged))
    assert found is not None
    data, vnet = found
    copies = Forward(ForwardPlan(bare(), frame_limit=LIMIT))(Frame(data, len(data), vnet=vnet)).copies
    assert [len(copy.data) for copy in copies] == [LIMIT] * 7 + [54 + len(payload) - 7 * 1460]
    at = 0
    for n, copy in enumerate(copies):
        part = payload[at : at + 1460]
        expected = LINK / IP(src="10.0.0.1", dst="10.0.0.2", id=9 + n)
        assert copy.data == bytes(expected / TCP(sport=1, dport=2, seq=100 + at, flags="A") / part)
        at += len(part)
    assert both(Tunnel.GRE, wrapped(GRE(proto=0x6558), merged), limit=0) == (
        merged,
        vnet._replace(gso_type=0, gso_size=0, header_length=0),
    )


def test_what_a_header_tells_is_read(dataplane: str) -> None:
    metadata = bytes.fromhex("00020001 0102030405060708 0000002a 00000009")
    options = [*OPTIONS, GeneveOptions(classid=0xFF6D, type=1, data=metadata)]
    two, three = ERSPAN_II(vlan=5, cos=3, en=3, t=1, session_id=7), ERSPAN_III(vlan=6, cos=2, d=1, session_id=9)
    for tunnel, packet, told in (
        (
            Tunnel.GENEVE,
            wrapped(UDP(), GENEVE(vni=0x123456, proto=0x6558, options=options), FRAME),
            Told(2, 0x0102030405060708, truncated=True, device=42, ident=0x123456, number=9),
        ),
        (
            Tunnel.ERSPAN,
            wrapped(GRE(proto=0x88BE, seqnum_present=1, sequence_number=8), two, FRAME),
            Told(vlan=5, cos=3, en=3, truncated=True, ident=7, number=8),
        ),
        (Tunnel.ERSPAN, wrapped(GRE(proto=0x22EB), three, FRAME), Told(2, vlan=6, cos=2)),
        (
            Tunnel.ERSPAN,
            wrapped(GRE(proto=0x22EB, key_present=1, key=3, seqnum_present=1), three, FRAME),
            Told(2, vlan=6, cos=2, ident=9, number=0),
        ),
        (Tunnel.GRE, wrapped(GRE(proto=0x6558, key_present=1, key=3), FRAME), Told()),
        (
            Tunnel.GRE,
            wrapped(GRE(proto=0x6558, chksum_present=1, seqnum_present=1, sequence_number=1 << 31), FRAME),
            Told(number=1 << 31),
        ),
        (
            Tunnel.GRE,
            wrapped(GRE(proto=0x6558, key_present=1, key=1 << 31, seqnum_present=1, sequence_number=5), FRAME),
            Told(ident=1 << 31, number=5),
        ),
    ):
        if dataplane == "python":
            found = decapsulate(tunnel, packet)
            assert found is not None
            assert found.told == told
        else:
            native = core.decapsulate(tunnel=tunnel, packet=packet, limit=0)
            assert native is not None
            assert native.told == told


MERGED = (Tunnel.GRE, wrapped(GRE(proto=0x6558), merged_frame(bytes(300))))
LOADED = wrapped(UDP(), GENEVE(proto=0x6558, options=[GeneveOptions(classid=0xFF6D, type=1, data=bytes(20))]), FRAME)
packets = st.sampled_from(
    [(Tunnel.GENEVE, LOADED), *GOOD, *BAD.values(), *((Tunnel.GENEVE, packet) for packet, _ in BARE), MERGED]
)
changes = st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=6)


@given(packets, changes, st.integers(0, 200), st.integers(0, 2000), st.sampled_from(Tunnel))
@example(GOOD[0], [], 0, 0, Tunnel.ERSPAN)
def test_both_planes_agree_on_hostile_packets(
    packet: tuple[Tunnel, bytes], changed: list[tuple[int, int]], cut: int, limit: int, tunnel: Tunnel
) -> None:
    _, good = packet
    data = bytearray(good)
    for at, value in changed:
        if at < len(data):
            data[at] = value
    both(tunnel, bytes(data[: len(data) - cut] if cut < 100 else data), limit)


@given(st.sampled_from(Tunnel), st.binary(max_size=100), st.integers(0, 2000))
def test_both_planes_agree_on_any_bytes(tunnel: Tunnel, data: bytes, limit: int) -> None:
    both(tunnel, data, limit)
