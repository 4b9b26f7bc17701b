"""What a frame carries, overwritten with zeros: its length stays, and so does what its headers say of it.

Hidden is all behind the headers (frame/extent.py), up to the frame's end. What is not IP stays, but where IP may be
inside and is not looked for: behind more than two VLAN tags, MPLS labels, PPPoE and the like. Of those, of IP whose
header is none, and of what has more extension headers than are looked through, nothing is kept that may be payload.

The checksum of TCP, UDP and ICMP is changed by what was taken out (RFC 1624 3): one that was right is right, and one
that was wrong is wrong. SCTP's CRC32c is made anew (RFC 9260 6.8). Of a fragment, or a packet that is not whole, it
stays: nobody can verify it. So does one that lies behind the first MAX_HEADERS bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirrord.dataplane.frame.checksum import crc32c, ones_sum
from mirrord.dataplane.frame.extent import headers_end
from mirrord.dataplane.frame.segment import MAX_HEADERS
from mirrord.protocols import (
    ETH_P_IP,
    ETH_P_IPV6,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_SCTP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    TPIDS,
)

if TYPE_CHECKING:
    from mirrord.dataplane.frame.headers import Headers

IP_INSIDE = (
    ETH_P_IP,
    ETH_P_IPV6,
    *TPIDS,
    0x22F3,  # TRILL
    0x6558,  # transparent Ethernet bridging
    0x876B,  # TCP/IP compression
    0x880B,  # PPP
    0x8847,  # MPLS
    0x8848,  # MPLS, multicast
    0x8864,  # PPPoE, session
    0x88E5,  # MACsec, which need not encrypt
    0x88E7,  # provider backbone bridging
    0x8903,  # FabricPath
    0x8926,  # VN-Tag
    0x893F,  # E-Tag
    0x894F,  # network service header
)
"""Ethertypes of what may hold an IP packet that the headers do not tell of (IEEE 802 Numbers, IANA)."""

_FIELDS = {
    (4, IPPROTO_TCP): 16,
    (6, IPPROTO_TCP): 16,
    (4, IPPROTO_UDP): 6,
    (6, IPPROTO_UDP): 6,
    (4, IPPROTO_ICMP): 2,
    (6, IPPROTO_ICMPV6): 2,
    (4, IPPROTO_SCTP): 8,
    (6, IPPROTO_SCTP): 8,
}
"""Where the checksum is in the transport header, by family and protocol."""


def hidden_from(data: bytes, headers: Headers) -> int | None:
    """The offset of the first byte that is hidden, where all payload is; None: nothing is. `headers` are those of
    `data`.
    """
    if headers.family == 0:
        return headers.network if headers.ethertype in IP_INSIDE else None
    end = headers_end(data, headers)
    return min(headers.behind, len(data)) if end is None else end


def hide(data: bytes, headers: Headers, kept: int = 0) -> bytes:
    """The frame without its payload but for the first `kept` bytes of it. `headers` are those of `data`."""
    start = hidden_from(data, headers)
    if start is None or start + kept >= len(data):
        return data
    start += kept
    return _mended(data, headers, start) + bytes(len(data) - start)


def _mended(data: bytes, headers: Headers, start: int) -> bytes:
    """All before `start`, with the checksum for zeros from there on."""
    before, at = data[:start], headers.transport
    offset = _FIELDS.get((headers.family, headers.protocol or 0))
    if at is None or offset is None or headers.fragment:
        return before
    field, width = at + offset, 4 if headers.protocol == IPPROTO_SCTP else 2
    end = _covered_to(data, headers, at)
    if field + width > min(start, MAX_HEADERS) or end is None or end <= start:
        return before
    if headers.protocol == IPPROTO_SCTP:
        crc = crc32c(before[at:field] + bytes(4) + before[field + 4 :] + bytes(end - start))
        return before[:field] + crc.to_bytes(4, "little") + before[field + 4 :]
    told = int.from_bytes(before[field : field + 2], "big")
    if headers.protocol == IPPROTO_UDP and told == 0:
        return before
    value = _less(told, ones_sum(data[start:end]), odd=bool(start - at & 1))
    if value in (0, 0xFFFF):  # the same number; which of the two is written, see transport_checksum
        value = 0xFFFF if headers.protocol == IPPROTO_UDP else 0
    return before[:field] + value.to_bytes(2, "big") + before[field + 2 :]


def _covered_to(data: bytes, headers: Headers, transport: int) -> int | None:
    """The offset behind what the checksum is of; None where that is not there as a whole, or not told."""
    at = headers.network
    length = int.from_bytes(data[at + 2 : at + 4] if headers.family == 4 else data[at + 4 : at + 6], "big")
    end = at + length + (40 if headers.family == 6 else 0)
    if length == 0 or end > len(data) or end < transport + 8:
        return None
    if headers.protocol == IPPROTO_UDP:
        length = int.from_bytes(data[transport + 4 : transport + 6], "big")
        return transport + length if 8 <= length <= end - transport else None
    return end


def _less(value: int, taken: int, *, odd: bool) -> int:
    """A checksum, when words of this sum have become zero. RFC 1624 3, eqn. 3; `odd`: they began amid a word."""
    if odd:
        taken = taken >> 8 | (taken & 0xFF) << 8
    total = (value ^ 0xFFFF) + (taken ^ 0xFFFF)
    return ((total & 0xFFFF) + (total >> 16)) ^ 0xFFFF
