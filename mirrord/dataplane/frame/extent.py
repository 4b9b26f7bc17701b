"""How far the headers of a frame reach: the Ethernet header, tags, the IP header with its extension headers, and the
header of what that carries.

Of a tunnel's packet these are the outer headers. TCP: RFC 9293 3.1, with its options; UDP: RFC 768; SCTP's common
header: RFC 9260 3.1; ICMP, of which the first 8 bytes are its header whatever the type: RFC 792, RFC 4443.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirrord.protocols import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, TCP_HEADER

if TYPE_CHECKING:
    from mirrord.dataplane.frame.headers import Headers


_LENGTHS = {
    (4, IPPROTO_ICMP): 8,
    (6, IPPROTO_ICMPV6): 8,
    (4, IPPROTO_UDP): 8,
    (6, IPPROTO_UDP): 8,
    (4, IPPROTO_SCTP): 12,
    (6, IPPROTO_SCTP): 12,
}


def headers_end(data: bytes, headers: Headers) -> int | None:
    """The offset behind the last header, at most the frame's length; None where that is not known.

    Behind the IP header in a later fragment, and for a protocol that is none of those above. Not known of what is not
    IP, and where extension headers are left that were not looked through. `headers` are those of `data`.
    """
    if headers.family == 0:
        return None
    if headers.transport is None:
        return min(headers.behind, len(data)) if headers.fragment else None
    return min(headers.transport + _length(data, headers, headers.transport), len(data))


def _length(data: bytes, headers: Headers, transport: int) -> int:
    """Bytes of the transport header. What TCP says of that is not believed where it cannot be."""
    if headers.protocol == IPPROTO_TCP:
        told = (data[transport + 12] >> 4) * 4 if len(data) > transport + 12 else TCP_HEADER
        return told if told >= TCP_HEADER and transport + told <= len(data) else TCP_HEADER
    return _LENGTHS.get((headers.family, headers.protocol or 0), 0)
