"""What a tunnel's packet carries: the frame inside, and what its sender left undone in it.

A packet begins here with its UDP or GRE header. Checksums of the tunnel are not verified: RFC 7348 5 leaves that to
the receiver, and a packet whose inner checksum is unfinished, or that the kernel merged, would fail.

VXLAN: RFC 7348 5. Geneve: RFC 8926 3.4, 3.5. GRE: RFC 2784 2, RFC 2890 2. ERSPAN: draft-foschiano-erspan-03 4. TZSP,
which has no standard: Wireshark's dissector, packet-tzsp.c.
"""

from __future__ import annotations

from typing import NamedTuple

from mirrord.dataplane.forward.encap import (
    GRE_KEY,
    GRE_SEQUENCE,
    METADATA_CLASS,
    METADATA_LENGTH,
    METADATA_TYPE,
    VXLAN_FLAGS,
)
from mirrord.dataplane.frame.checksum import pseudo_header_sum
from mirrord.dataplane.frame.headers import parse
from mirrord.dataplane.frame.segment import MAX_HEADERS
from mirrord.dataplane.frame.told import EGRESS, INGRESS, Told
from mirrord.dataplane.frame.wire import VNET_GSO_TCPV4, VNET_GSO_TCPV6, VNET_NEEDS_CSUM, Vnet
from mirrord.plans import Tunnel
from mirrord.protocols import (
    ETH_HEADER,
    ETH_P_ERSPAN,
    ETH_P_ERSPAN_III,
    ETH_P_IP,
    ETH_P_IPV6,
    ETH_P_TEB,
    GRE_HEADER,
    IPPROTO_TCP,
    IPPROTO_UDP,
    UDP_HEADER,
)

VXLAN_HEADER = 8
GENEVE_HEADER = 8  # without options
GENEVE_VERSION = 0xC000  # in the first 16 bits, like what follows
GENEVE_LENGTH = 0x3F00  # of the options, in units of 4 bytes
GENEVE_REFUSED = 0x00C0  # O: control, never to be forwarded; C: an option that has to be understood, and none is

OPTION_HEADER = 4
OPTION_LENGTH = 0x1F  # in its last byte, in units of 4 bytes behind the header

TZSP_HEADER = 4
TZSP_VERSION = 1
TZSP_TO_SEND = 1  # of the types, this and the one before it have a frame
TZSP_ETHERNET = 1
TZSP_PADDING, TZSP_END = 0, 1  # tags without a length

GRE_CHECKSUM = 0x8000
GRE_DISCARD = 0x4C07
"""Bits of which one is enough to discard the packet: routing, the reserved ones of RFC 2784 2.2, the version."""

ERSPAN_II_HEADER = 8
ERSPAN_III_HEADER = 12
ERSPAN_SUBHEADER = 8
ERSPAN_SESSION = 0x03FF  # in the first 32 bits of types II and III
ERSPAN_FRAME_TYPE = 0x7C00  # in the last 16 bits of a type III header; 0: Ethernet
ERSPAN_OPTIONAL = 0x0001  # there: a subheader follows
ERSPAN_EGRESS = 0x0008  # there: D

CHECKSUM_FIELDS = {IPPROTO_TCP: 16, IPPROTO_UDP: 6}


class Unwrapped(NamedTuple):
    """The frame inside, and what is told of it."""

    data: bytes
    told: Told = Told()


def decapsulate(tunnel: Tunnel, packet: bytes) -> Unwrapped | None:
    """The frame inside, None for a malformed packet: cut short, or with bits that its RFC forbids."""
    if not tunnel.udp:
        frame = _from_gre(tunnel, packet)
    elif UDP_HEADER <= (length := _number(packet, 4)) <= len(packet):
        frame = _UDP[tunnel](packet[:length])
    else:
        return None
    return frame if frame is not None and len(frame.data) >= ETH_HEADER else None


def _from_vxlan(packet: bytes) -> Unwrapped | None:
    if len(packet) < UDP_HEADER + VXLAN_HEADER or not packet[UDP_HEADER] & VXLAN_FLAGS:
        return None
    return Unwrapped(packet[UDP_HEADER + VXLAN_HEADER :])


def _from_geneve(packet: bytes) -> Unwrapped | None:
    first, protocol = _number(packet, UDP_HEADER), _number(packet, UDP_HEADER + 2)
    start = UDP_HEADER + GENEVE_HEADER + (first & GENEVE_LENGTH) // 64
    if len(packet) < start or first & (GENEVE_VERSION | GENEVE_REFUSED):
        return None
    told = _metadata(packet[UDP_HEADER + GENEVE_HEADER : start])
    if told.number is not None:
        told = told._replace(ident=int.from_bytes(packet[UDP_HEADER + 4 : UDP_HEADER + 7], "big"))
    if protocol in (ETH_P_IP, ETH_P_IPV6):
        return Unwrapped(bytes(12) + protocol.to_bytes(2, "big") + packet[start:], told)
    return Unwrapped(packet[start:], told) if protocol == ETH_P_TEB else None


def _metadata(options: bytes) -> Told:
    """What mirrord's own option tells, see encap.geneve; others are skipped."""
    at = 0
    while at + OPTION_HEADER <= len(options):
        length = (options[at + 3] & OPTION_LENGTH) * 4
        body = options[at + OPTION_HEADER : at + OPTION_HEADER + length]
        ours = _number(options, at) == METADATA_CLASS and options[at + 2] == METADATA_TYPE
        if ours and len(body) == length >= METADATA_LENGTH:
            direction = body[1] if body[1] <= EGRESS else 0
            time, index, number = (int.from_bytes(body[a:b], "big") for a, b in ((4, 12), (12, 16), (16, 20)))
            return Told(direction, time, truncated=bool(body[3] & 1), device=index, number=number)
        at += OPTION_HEADER + length
    return Told()


def _from_tzsp(packet: bytes) -> Unwrapped | None:
    start = UDP_HEADER + TZSP_HEADER
    if len(packet) < start or packet[UDP_HEADER] != TZSP_VERSION or packet[UDP_HEADER + 1] > TZSP_TO_SEND:
        return None
    if _number(packet, UDP_HEADER + 2) != TZSP_ETHERNET:
        return None
    while start < len(packet) and packet[start] != TZSP_END:
        if packet[start] == TZSP_PADDING:
            start += 1
        elif start + 1 < len(packet):
            start += 2 + packet[start + 1]
        else:
            return None
    return Unwrapped(packet[start + 1 :])


_UDP = {Tunnel.VXLAN: _from_vxlan, Tunnel.GENEVE: _from_geneve, Tunnel.TZSP: _from_tzsp}


def _from_gre(tunnel: Tunnel, packet: bytes) -> Unwrapped | None:
    flags, protocol, at = _number(packet, 0), _number(packet, 2), GRE_HEADER
    if len(packet) < at or flags & GRE_DISCARD:
        return None
    optional = {}
    for bit in (GRE_CHECKSUM, GRE_KEY, GRE_SEQUENCE):
        if flags & bit:
            optional[bit] = int.from_bytes(packet[at : at + 4], "big")
            at += 4
    if len(packet) < at:
        return None
    number = optional.get(GRE_SEQUENCE)
    if tunnel is Tunnel.GRE:
        ident = 0 if number is None else optional.get(GRE_KEY, 0)
        return Unwrapped(packet[at:], Told(ident=ident, number=number)) if protocol == ETH_P_TEB else None
    if protocol == ETH_P_ERSPAN_III:
        return _from_erspan_iii(packet[at:], number)
    if protocol != ETH_P_ERSPAN:
        return None
    if number is None:  # type I
        return Unwrapped(packet[at:])
    if len(packet) < at + ERSPAN_II_HEADER or packet[at] >> 4 != 1:
        return None
    first = int.from_bytes(packet[at : at + 4], "big")
    return Unwrapped(packet[at + ERSPAN_II_HEADER :], _of_erspan(first, number)._replace(en=first >> 11 & 3))


def _from_erspan_iii(packet: bytes, number: int | None) -> Unwrapped | None:
    last = _number(packet, 10)
    if len(packet) < ERSPAN_III_HEADER or packet[0] >> 4 != 2 or last & ERSPAN_FRAME_TYPE:
        return None
    frame = packet[ERSPAN_III_HEADER + (ERSPAN_SUBHEADER if last & ERSPAN_OPTIONAL else 0) :]
    told = _of_erspan(int.from_bytes(packet[:4], "big"), number)
    return Unwrapped(frame, told._replace(direction=EGRESS if last & ERSPAN_EGRESS else INGRESS))


def _of_erspan(first: int, number: int | None) -> Told:
    """What the first 32 bits of types II and III tell. III's time is of 429 s, and its beginning is its sender's."""
    ident = 0 if number is None else first & ERSPAN_SESSION
    vlan, cos, truncated = first >> 16 & 0xFFF, first >> 13 & 7, bool(first & 1 << 10)
    return Told(vlan=vlan, cos=cos, truncated=truncated, ident=ident, number=number)


def unfinished(data: bytes, limit: int) -> Vnet:
    """What the sender's or this host's kernel left to a device to do in a frame that came through a tunnel.

    A socket of IP gets no vnet header. But a TCP or UDP checksum that is unfinished is the sum of its pseudo-header
    (one that is finished and happens to be the same, stays so when it is finished again), and a TCP frame longer than
    `limit` with such a checksum was merged, or never split. The size of its segments is not known: it is given as
    what makes frames of `limit` bytes. 0: leave it in one piece.
    """
    headers = parse(data)
    at, offset = headers.transport, CHECKSUM_FIELDS.get(headers.protocol or 0)
    if at is None or offset is None or headers.fragment or at + offset + 2 > min(len(data), MAX_HEADERS):
        return Vnet()
    beyond = _number(data, headers.network + (2 if headers.family == 4 else 4)) + (0 if headers.family == 4 else 40)
    if headers.network + beyond != len(data):
        return Vnet()
    addresses = headers.source + headers.destination
    if _number(data, at + offset) != pseudo_header_sum(addresses, headers.protocol or 0, len(data) - at):
        return Vnet()
    vnet = Vnet(VNET_NEEDS_CSUM, csum_start=at, csum_offset=offset)
    if headers.protocol != IPPROTO_TCP or not 0 < limit < len(data):
        return vnet
    end = at + (data[at + 12] >> 4) * 4
    if not at + 20 <= end < min(limit, MAX_HEADERS + 1):
        return vnet
    gso_type = VNET_GSO_TCPV4 if headers.family == 4 else VNET_GSO_TCPV6
    return vnet._replace(gso_type=gso_type, header_length=end, gso_size=min(limit - end, 0xFFFF))


def _number(data: bytes, at: int) -> int:
    """16 bits in network order; 0 or an accident where there are fewer, which the caller rules out by length."""
    return int.from_bytes(data[at : at + 2], "big")
