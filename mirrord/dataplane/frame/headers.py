"""What a frame's headers say: VLAN tags, addresses, protocol, ports; and the flow they belong to.

One parse serves the filter, the flow hash and the repair of offloaded frames, so that all three agree on what a frame
is. It never fails: a header that is cut short, or whose lengths lie, ends the parse there, and what would have followed
is absent. Offsets count from the first byte of the captured data; numbers are in host order.

Ethernet: IEEE 802.3; tags: IEEE 802.1Q-2022 9.5; IPv4: RFC 791 3.1; IPv6: RFC 8200 3, 4; DSCP: RFC 2474 3; ports and
flags: RFC 9293 3.1, RFC 768, RFC 9260 3.1; ICMP: RFC 792, RFC 4443 2.1.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from mirrord.protocols import (
    ETH_HEADER,
    ETH_P_IP,
    ETH_P_IPV6,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_SCTP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    TPIDS,
)

MAX_TAGS = 2

PORT_PROTOCOLS = (IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP)
ICMP_PROTOCOLS = (IPPROTO_ICMP, IPPROTO_ICMPV6)
TCP_FLAGS = 13  # offset of the byte with the flags in the TCP header

IPV6_FRAGMENT = 44
IPV6_AUTHENTICATION = 51
# Hop-by-hop, routing, destination options, mobility, HIP, shim6: next header, then the length in 8-byte units less one.
IPV6_OPTIONS = (0, 43, 60, 135, 139, 140)
MAX_EXTENSIONS = 6


class Tag(NamedTuple):
    """A VLAN tag: one of TPIDS, and priority, DEI and id in 16 bits."""

    tpid: int
    tci: int

    @property
    def vid(self) -> int:
        return self.tci & 0xFFF


class Headers(NamedTuple):
    """A parsed frame. `family` is 4, 6, or 0 for what is not (whole) IP; then addresses are the MAC addresses."""

    tags: tuple[Tag, ...] = ()  # outermost first, the kernel's metadata before the frame's own
    ethertype: int = 0  # behind the tags; 0 in a frame shorter than an Ethernet header
    network: int = 0  # offset of what the ethertype announces
    family: int = 0
    protocol: int | None = None  # None: not IP, or hidden behind more than six extension headers or a cut
    source: bytes = b""
    destination: bytes = b""
    fragment: bool = False  # any fragment, the first one too
    divided: int | None = None  # what a datagram's fragments all say that they are parts of; in IPv6, perhaps an option
    transport: int | None = None  # offset of the transport header; None in a later fragment
    source_port: int | None = None
    destination_port: int | None = None
    identification: int = 0  # of a fragment
    behind: int = 0  # offset of what follows the IP header and those extension headers that were looked through
    source_mac: bytes = b""  # like what follows for rules alone, which the native core runs as a program
    destination_mac: bytes = b""
    length: int = 0  # of what was captured, with the tag that the kernel took off
    dscp: int | None = None  # of IP
    tcp_flags: int | None = None  # FIN is 1, CWR 128
    icmp_type: int | None = None  # ICMP's or ICMPv6's
    icmp_code: int | None = None


@lru_cache(maxsize=4)
def parse(data: bytes, metadata: Tag | None = None) -> Headers:
    """Read the headers of an Ethernet frame; `metadata` is the tag that the kernel took off it.

    The last few answers are kept: the sessions of one source ask for the same frame, one after the other.
    """
    tags: tuple[Tag, ...] = () if metadata is None else (metadata,)
    length = len(data) + 4 * len(tags)
    if len(data) < ETH_HEADER:
        return Headers(tags=tags, length=length)
    ethertype, network = int.from_bytes(data[12:14], "big"), ETH_HEADER
    while ethertype in TPIDS and len(tags) < MAX_TAGS and len(data) >= network + 4:
        tags += (Tag(ethertype, int.from_bytes(data[network : network + 2], "big")),)
        ethertype, network = int.from_bytes(data[network + 2 : network + 4], "big"), network + 4
    source, destination = data[6:12], data[0:6]
    link = Headers(
        tags,
        ethertype,
        network,
        source=source,
        destination=destination,
        source_mac=source,
        destination_mac=destination,
        length=length,
    )
    if ethertype == ETH_P_IP:
        return _ipv4(data, link)
    if ethertype == ETH_P_IPV6:
        return _ipv6(data, link)
    return link


def _ipv4(data: bytes, link: Headers) -> Headers:
    at = link.network
    if len(data) < at + 20 or data[at] >> 4 != 4:
        return link
    length = (data[at] & 15) * 4
    if length < 20 or len(data) < at + length:
        return link
    offset = int.from_bytes(data[at + 6 : at + 8], "big")
    fragment = offset & 0x3FFF != 0  # more fragments, or an offset
    headers = link._replace(
        family=4,
        protocol=data[at + 9],
        source=data[at + 12 : at + 16],
        destination=data[at + 16 : at + 20],
        fragment=fragment,
        divided=data[at + 9] if fragment else None,
        identification=int.from_bytes(data[at + 4 : at + 6], "big") if fragment else 0,
        behind=at + length,
        dscp=data[at + 1] >> 2,
    )
    return headers if offset & 0x1FFF else _transport(data, headers, at + length)


def _ipv6(data: bytes, link: Headers) -> Headers:
    at = link.network
    if len(data) < at + 40 or data[at] >> 4 != 6:
        return link
    headers = link._replace(
        family=6,
        source=data[at + 8 : at + 24],
        destination=data[at + 24 : at + 40],
        dscp=int.from_bytes(data[at : at + 2], "big") >> 6 & 0x3F,
    )
    following, at, later = data[at + 6], at + 40, False
    for _ in range(MAX_EXTENSIONS):
        if following not in IPV6_OPTIONS and following not in (IPV6_FRAGMENT, IPV6_AUTHENTICATION):
            break
        if later or len(data) < at + 8:  # a later fragment starts in the middle of something
            return headers._replace(behind=at)
        if following == IPV6_FRAGMENT:
            offset = int.from_bytes(data[at + 2 : at + 4], "big")
            if offset & 0xFFF9:
                identification = int.from_bytes(data[at + 4 : at + 8], "big")
                headers = headers._replace(fragment=True, divided=data[at], identification=identification)
            later = offset & 0xFFF8 != 0
            length = 8
        elif following == IPV6_AUTHENTICATION:
            length = (data[at + 1] + 2) * 4
        else:
            length = (data[at + 1] + 1) * 8
        following, at = data[at], at + length
    else:
        if following in IPV6_OPTIONS or following in (IPV6_FRAGMENT, IPV6_AUTHENTICATION):
            return headers._replace(behind=at)
    headers = headers._replace(protocol=following, behind=at)
    return headers if later else _transport(data, headers, at)


def _transport(data: bytes, headers: Headers, at: int) -> Headers:
    headers = headers._replace(transport=at)
    if headers.protocol in ICMP_PROTOCOLS:
        kind, code = (data[n] if n < len(data) else None for n in (at, at + 1))
        return headers._replace(icmp_type=kind, icmp_code=code)
    if headers.protocol not in PORT_PROTOCOLS or len(data) < at + 4:
        return headers
    flagged = headers.protocol == IPPROTO_TCP and len(data) > at + TCP_FLAGS
    return headers._replace(
        source_port=int.from_bytes(data[at : at + 2], "big"),
        destination_port=int.from_bytes(data[at + 2 : at + 4], "big"),
        tcp_flags=data[at + TCP_FLAGS] if flagged else None,
    )


_MASK = (1 << 64) - 1
_UNKNOWN = 0x10000  # no protocol


def mix(value: int) -> int:
    """Spread 64 bits over 64 bits (the finalizer of MurmurHash3, Austin Appleby, public domain)."""
    value ^= value >> 33
    value = value * 0xFF51AFD7ED558CCD & _MASK
    value ^= value >> 33
    value = value * 0xC4CEB9FE1A85EC53 & _MASK
    return value ^ value >> 33


def _endpoint(address: bytes, port: int) -> int:
    number = int.from_bytes(address, "big")
    return (number >> 64) * 0x9E3779B97F4A7C15 + (number & _MASK) + (port << 48) & _MASK


def _kind(headers: Headers) -> int:
    if headers.divided is not None:
        return headers.divided
    if headers.family == 0:
        return headers.ethertype
    return _UNKNOWN if headers.protocol is None else headers.protocol


def pair_hash(headers: Headers, *, ported: bool) -> int:
    """A 64-bit hash of addresses, what they exchange, and the ports, if wanted; the same for both directions."""
    source = _endpoint(headers.source, headers.source_port or 0 if ported else 0)
    destination = _endpoint(headers.destination, headers.destination_port or 0 if ported else 0)
    less, more = sorted((source, destination))
    return mix(less * 0xC2B2AE3D27D4EB4F + more + (_kind(headers) << 32) & _MASK)


def flow_hash(headers: Headers) -> int:
    """The 64-bit hash of a frame's flow, the same for both directions.

    Over addresses, protocol and ports; without ports for fragments (the first one too, so that a datagram's pieces stay
    together); over MAC addresses and ethertype for what is not IP. The outer source port takes the high half; the low
    one is for sampling, of a conversation's hash (forward/conversation.py), so that neither thins out the other.
    """
    return pair_hash(headers, ported=not headers.fragment)
