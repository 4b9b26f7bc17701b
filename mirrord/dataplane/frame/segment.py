"""A super-frame cut into the frames that the wire carried.

The kernel hands large TCP and UDP payloads to a device in one piece (TSO, UDP GSO), and merges received segments into
one (GRO). The vnet header tells the payload size of each segment and where the innermost transport header is.
Everything before that payload is repeated in front of each piece, with what differs put right, layer by layer:
lengths, IP IDs, sequence numbers, flags, checksums. A tunnel adds layers; it does not add a case.

What the kernel does: Documentation/networking/segmentation-offloads.rst. TCP: RFC 9293 3.1; CWR: RFC 3168 6.1.2.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from mirrord.dataplane.frame.checksum import checksum, transport_checksum
from mirrord.dataplane.frame.headers import IPV6_OPTIONS
from mirrord.protocols import (
    ETH_HEADER,
    ETH_P_IP,
    ETH_P_IPV6,
    ETH_P_TEB,
    IPPROTO_GRE,
    IPPROTO_IPIP,
    IPPROTO_IPV6,
    IPPROTO_TCP,
    IPPROTO_UDP,
    TPIDS,
)

IPV6_JUMBO_OPTION = 0xC2

MAX_HEADERS = 256
"""Bytes of headers that a super-frame may have; the kernel's stacks of tunnels stay well below."""

MAX_LAYERS = 10

TCP_CWR, TCP_PSH, TCP_FIN = 0x80, 0x08, 0x01


class MalformedError(ValueError):
    """A frame whose bytes and vnet header do not fit together."""


class Kind(Enum):
    """A header whose fields depend on the segment that follows it."""

    IPV4 = 1
    IPV6 = 2
    GRE = 3
    UDP = 4
    TCP = 5


class Layer(NamedTuple):
    """One such header and its offset."""

    kind: Kind
    at: int


def split(data: bytes, transport: int, gso_size: int, kind: Kind) -> list[bytes]:
    """The frames of a super-frame, in order; `transport` is where its innermost TCP or UDP header (`kind`) begins.

    Raises MalformedError when the headers do not lead there, or the sizes cannot be.
    """
    least = 20 if kind is Kind.TCP else 8
    if gso_size == 0 or transport + least > len(data):
        raise MalformedError
    layers = find_layers(data, transport, kind)
    length = (data[transport + 12] >> 4) * 4 if kind is Kind.TCP else 8
    end = transport + length
    if length < least or end > len(data) or end > MAX_HEADERS:
        raise MalformedError
    head, layers = _without_jumbo_option(data[:end], layers)
    count = max(-(-(len(data) - end) // gso_size), 1)
    return [_segment(head, data[end + n * gso_size :][:gso_size], layers, n, count, gso_size) for n in range(count)]


def find_layers(data: bytes, target: int, kind: Kind) -> list[Layer]:
    """The headers from the outermost IP to the transport header at `target` within the frame, both included.

    Raises MalformedError when they do not lead there.
    """
    layers: list[Layer] = []

    def have(length: int) -> None:
        if at + length > target:
            raise MalformedError

    def add(kind: Kind) -> None:
        if len(layers) == MAX_LAYERS:
            raise MalformedError
        layers.append(Layer(kind, at))

    at, ethertype = 0, ETH_P_TEB
    while True:
        if ethertype == ETH_P_TEB:
            have(ETH_HEADER)
            ethertype, at = _number(data, at + 12), at + ETH_HEADER
            while ethertype in TPIDS:
                have(4)
                ethertype, at = _number(data, at + 2), at + 4
        if ethertype == ETH_P_IP:
            have(20)
            add(Kind.IPV4)
            if data[at] & 15 < 5:
                raise MalformedError
            protocol, at = data[at + 9], at + (data[at] & 15) * 4
        elif ethertype == ETH_P_IPV6:
            have(40)
            add(Kind.IPV6)
            protocol, at = data[at + 6], at + 40
            while protocol in IPV6_OPTIONS:
                have(8)
                protocol, at = data[at], at + (data[at + 1] + 1) * 8
        else:
            raise MalformedError
        if at == target:
            if protocol != (IPPROTO_TCP if kind is Kind.TCP else IPPROTO_UDP):
                raise MalformedError
            add(kind)
            return layers
        have(16)
        if protocol == IPPROTO_UDP:
            # The port does not tell which tunnel it is: overlays choose theirs. Geneve announces Ethernet where VXLAN
            # has reserved bits. RFC 7348 5, RFC 8926 3.4.
            add(Kind.UDP)
            geneve = _number(data, at + 10) == ETH_P_TEB
            ethertype, at = ETH_P_TEB, at + 16 + ((data[at + 8] & 0x3F) * 4 if geneve else 0)
        elif protocol == IPPROTO_GRE:
            add(Kind.GRE)
            ethertype, at = _number(data, at + 2), at + 4 + 4 * (data[at] & 0xB0).bit_count()  # RFC 2890 2
        elif protocol in (IPPROTO_IPIP, IPPROTO_IPV6):
            ethertype = ETH_P_IP if protocol == IPPROTO_IPIP else ETH_P_IPV6
        else:
            raise MalformedError


def _without_jumbo_option(head: bytes, layers: list[Layer]) -> tuple[bytes, list[Layer]]:
    """Take out the hop-by-hop header that BIG TCP gives an IPv6 super-frame: it never goes on a wire (RFC 2675 2)."""
    for n, (kind, at) in enumerate(layers):
        option = at + 40
        if kind is Kind.IPV6 and head[at + 6] == 0 and head[option + 1 : option + 3] == bytes([0, IPV6_JUMBO_OPTION]):
            head = head[: at + 6] + head[option : option + 1] + head[at + 7 : option] + head[option + 8 :]
            return head, layers[: n + 1] + [Layer(kind, at - 8) for kind, at in layers[n + 1 :]]
    return head, layers


def _segment(head: bytes, payload: bytes, layers: list[Layer], n: int, count: int, gso_size: int) -> bytes:
    """Segment `n` of `count`. From the inside out, since an outer checksum covers what is inside it."""
    frame = bytearray(head + payload)
    for index in range(len(layers) - 1, -1, -1):
        kind, at = layers[index]
        length = len(frame) - at
        if kind is Kind.IPV4:
            _put(frame, at + 2, length)
            _put(frame, at + 4, _number(frame, at + 4) + n)
            _put(frame, at + 10, 0)
            _put(frame, at + 10, checksum(bytes(frame[at : at + (frame[at] & 15) * 4])))
        elif kind is Kind.IPV6:
            _put(frame, at + 4, length - 40)
        elif kind is Kind.GRE:
            if frame[at] & 0x80:  # a checksum is present: RFC 2784 2.3
                _put(frame, at + 4, 0)
                _put(frame, at + 4, checksum(bytes(frame[at:])))
        else:
            innermost = index == len(layers) - 1
            field = at + 16 if kind is Kind.TCP else at + 6
            if kind is Kind.TCP:
                sequence = int.from_bytes(frame[at + 4 : at + 8], "big") + n * gso_size
                frame[at + 4 : at + 8] = (sequence & 0xFFFFFFFF).to_bytes(4, "big")
                frame[at + 13] &= 0xFF ^ (TCP_CWR if n else 0) ^ (TCP_PSH | TCP_FIN if n < count - 1 else 0)
            else:
                _put(frame, at + 4, length)
            if innermost or _number(frame, field):  # a tunnel's UDP checksum may be absent
                _put(frame, field, 0)
                _put(frame, field, _transport_checksum(frame, layers[index - 1], kind, at))
    return bytes(frame)


def _transport_checksum(frame: bytearray, network: Layer, kind: Kind, at: int) -> int:
    first, width = (12, 4) if network.kind is Kind.IPV4 else (8, 16)
    source = bytes(frame[network.at + first :][:width])
    destination = bytes(frame[network.at + first + width :][:width])
    protocol = IPPROTO_TCP if kind is Kind.TCP else IPPROTO_UDP
    return transport_checksum(source, destination, protocol, bytes(frame[at:]))


def _number(data: bytes | bytearray, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


def _put(frame: bytearray, at: int, number: int) -> None:
    frame[at : at + 2] = (number & 0xFFFF).to_bytes(2, "big")
