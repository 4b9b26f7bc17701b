"""The frame inside a tunnel's packet that passes by, with what is left to a device to do in it.

VXLAN (RFC 7348 5), Geneve (RFC 8926 3.4; options are skipped), GRE (RFC 2784 2, RFC 2890 2). An IP packet inside, as in
GRE and Geneve, gets an Ethernet header of zero addresses, so that all that is inside is a frame.

A packet's end is where its IP header says, not the frame's, which may be padded; a super-frame's is the frame's, since
the kernel does not always say. Of a packet that comes in IP fragments only the first one tells what it is, and has but
a part of the frame inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mirrord.dataplane.forward.decap import GRE_CHECKSUM, GRE_DISCARD
from mirrord.dataplane.forward.encap import GRE_KEY, VXLAN_FLAGS
from mirrord.dataplane.frame.wire import ADDRESSES, VNET_GSO_NONE, VNET_NEEDS_CSUM, Frame, Vnet
from mirrord.protocols import (
    ETH_HEADER,
    ETH_P_IP,
    ETH_P_IPV6,
    ETH_P_TEB,
    GRE_HEADER,
    IPPROTO_GRE,
    IPPROTO_UDP,
    UDP_HEADER,
)

if TYPE_CHECKING:
    from mirrord.dataplane.frame.headers import Headers
    from mirrord.plans import Inside

TUNNEL_HEADER = 8  # VXLAN's, and Geneve's without options
GENEVE_CONTROL = 0x80
"""No packet for whom it may concern, but one between the tunnel's ends (RFC 8926 3.4)."""

GRE_OPTIONAL = 0xB000  # checksum, key, sequence number: four bytes each


class _Found(NamedTuple):
    start: int  # of what is inside
    end: int  # by the tunnel's own header; what the packet has may be less
    ethertype: int  # of what is inside
    ident: int | None  # VNI or key


def frame_inside(plan: Inside, frame: Frame, headers: Headers) -> Frame | None:
    """The frame inside; None for what is no packet of such a tunnel, or of one with another VNI or key.

    Whoever puts several tunnel packets into one UDP super-frame has them in one no more: they are not looked into.
    """
    at = headers.transport
    if at is None:
        return None
    super_frame = frame.vnet.gso_type != VNET_GSO_NONE
    end = frame.length if super_frame else min(_packet_end(frame, headers), frame.length)
    if headers.protocol == IPPROTO_UDP:
        found = _udp(plan, frame.data, at, headers.destination_port)
        if found is not None and not super_frame:
            end = found.end if headers.fragment else min(end, found.end)
    else:
        found = _gre(frame.data, at, end) if headers.protocol == IPPROTO_GRE and plan.gre else None
    if found is None or not (plan.any_ident or found.ident == plan.ident):
        return None
    data = frame.data[found.start : max(end, 0)]
    if found.ethertype == ETH_P_TEB:
        header = b""
        if len(data) < ETH_HEADER:
            return None
    else:
        header = bytes(ADDRESSES) + found.ethertype.to_bytes(2, "big")
        if not data or found.ethertype not in (ETH_P_IP, ETH_P_IPV6):
            return None
    shift = found.start - len(header)
    vnet = _vnet(frame.vnet, found.start, shift)
    if super_frame and vnet.flags != frame.vnet.flags:
        return None
    return Frame(header + data, end - shift, frame.egress, None, vnet, frame.time, told=frame.told)


def _packet_end(frame: Frame, headers: Headers) -> int:
    """Where the IP packet ends, from the frame's first byte; the frame's end for one that does not say."""
    at = headers.network
    if headers.family == 4:
        return at + int.from_bytes(frame.data[at + 2 : at + 4], "big")
    length = int.from_bytes(frame.data[at + 4 : at + 6], "big")
    return at + 40 + length if length else frame.length


def _udp(plan: Inside, data: bytes, at: int, port: int | None) -> _Found | None:
    header = data[at + UDP_HEADER : at + UDP_HEADER + TUNNEL_HEADER]
    if len(header) < TUNNEL_HEADER or port is None or port == 0:
        return None
    start = at + UDP_HEADER + TUNNEL_HEADER
    told = at + int.from_bytes(data[at + 4 : at + 6], "big")
    ident = int.from_bytes(header[4:7], "big")
    if port == plan.vxlan_port and header[0] & VXLAN_FLAGS:
        return _Found(start, told, ETH_P_TEB, ident)
    if port == plan.geneve_port and not (header[0] >> 6 or header[1] & GENEVE_CONTROL):
        return _Found(start + (header[0] & 0x3F) * 4, told, int.from_bytes(header[2:4], "big"), ident)
    return None


def _gre(data: bytes, at: int, end: int) -> _Found | None:
    flags = int.from_bytes(data[at : at + 2], "big")
    start = at + GRE_HEADER + 4 * (flags & GRE_OPTIONAL).bit_count()
    if len(data) < start or flags & GRE_DISCARD:
        return None
    key = at + GRE_HEADER + (4 if flags & GRE_CHECKSUM else 0)
    ident = int.from_bytes(data[key : key + 4], "big") if flags & GRE_KEY else None
    return _Found(start, end, int.from_bytes(data[at + 2 : at + 4], "big"), ident)


def _vnet(vnet: Vnet, start: int, shift: int) -> Vnet:
    """What is left to do in the frame inside: a checksum of the packet around it is not its own."""
    if not vnet.flags & VNET_NEEDS_CSUM:
        return vnet
    if vnet.csum_start < start:
        return vnet._replace(flags=vnet.flags & ~VNET_NEEDS_CSUM)
    return vnet._replace(csum_start=vnet.csum_start - shift)
