"""A captured frame, and what the wire carried in its place.

Between the NIC and a packet socket the kernel keeps three things beside a frame's bytes: the VLAN tag it took off, a
checksum that it left to the device, and the size at which the device will cut a super-frame. `rebuild` undoes all
three.

The vnet header is struct virtio_net_hdr (virtio 1.2, 5.1.6), little-endian in the packet socket's default on x86 and
every other little-endian host.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from mirrord.dataplane.frame.checksum import checksum, crc32c, pseudo_header_sum
from mirrord.dataplane.frame.segment import MAX_HEADERS, Kind, MalformedError, find_layers, split
from mirrord.dataplane.frame.told import Told
from mirrord.protocols import IPPROTO_TCP, IPPROTO_UDP

if TYPE_CHECKING:
    from mirrord.dataplane.frame.headers import Headers, Tag

ADDRESSES = 12
"""Bytes of the two MAC addresses; a VLAN tag goes behind them."""

TAG = 4

SCTP_CHECKSUM = 8
"""Where SCTP has its checksum (RFC 9260 3.1). No other protocol has one there, so it tells SCTP in tunnels too."""

VNET = struct.Struct("=BBHHHH")
VNET_NEEDS_CSUM = 1  # flags
VNET_GSO_NONE, VNET_GSO_TCPV4, VNET_GSO_TCPV6, VNET_GSO_UDP_L4 = 0, 1, 4, 5  # gso_type
VNET_GSO_ECN = 0x80  # or-ed to a TCP type: only the first segment keeps CWR


class Vnet(NamedTuple):
    """What the kernel left to the device to do."""

    flags: int = 0
    gso_type: int = VNET_GSO_NONE
    header_length: int = 0  # of the linear part only: not to be trusted as the headers' length
    gso_size: int = 0  # payload bytes of each segment
    csum_start: int = 0  # where the checksum's coverage begins, from the frame's first byte
    csum_offset: int = 0  # from csum_start to the checksum field


TRIMMED = 256
"""Bytes that a capture keeps of a frame whose flow has had its share, headers among them; no other is cut to this."""

CLOCK_STEP_NANOSECONDS = 1_000_000_000
"""Capture times go back a little where several processors stamp frames; by more, the clock was set."""


class Frame(NamedTuple):
    """One frame as a source gave it."""

    data: bytes  # from the Ethernet header on, as the kernel holds it
    length: int  # bytes that the kernel held; more than len(data) when the capture cut it
    egress: bool = False  # as the host sees it
    tag: Tag | None = None  # the VLAN tag that the kernel took off
    vnet: Vnet = Vnet()
    time: int = 0  # of capture, nanoseconds since 1970
    device: int = 0  # its index; 0: of a tunnel's end
    told: Told = Told()

    @property
    def trimmed(self) -> bool:
        """Whether the capture kept its headers alone since its flow had had its share, see trimming.py."""
        return len(self.data) == TRIMMED < self.length


def rebuild(frame: Frame, headers: Headers) -> list[bytes]:
    """What the wire carried: one frame, or the several that a super-frame became.

    `headers` are the frame's, parsed. Raises MalformedError for what cannot be put right: a checksum or a segment that
    points outside of the frame, or a frame of which the capture kept only a part.
    """
    data, vnet, shift = frame.data, frame.vnet, 0
    if frame.tag is not None and len(data) >= ADDRESSES:
        data, shift = data[:ADDRESSES] + struct.pack("!HH", *frame.tag) + data[ADDRESSES:], TAG
    if vnet.gso_type == VNET_GSO_NONE and not vnet.flags & VNET_NEEDS_CSUM:
        return [data]
    if len(frame.data) < frame.length:
        raise MalformedError
    if vnet.gso_type == VNET_GSO_NONE:
        return [_with_checksum(data, vnet.csum_start + shift, vnet.csum_offset)]
    kind = {VNET_GSO_TCPV4: Kind.TCP, VNET_GSO_TCPV6: Kind.TCP, VNET_GSO_UDP_L4: Kind.UDP}.get(
        vnet.gso_type & ~VNET_GSO_ECN
    )
    transport = vnet.csum_start if vnet.flags & VNET_NEEDS_CSUM else headers.transport
    if kind is None or transport is None:
        raise MalformedError
    return split(data, transport + shift, vnet.gso_size, kind)


def _with_checksum(data: bytes, start: int, offset: int) -> bytes:
    """Complete the checksum over what begins at `start`. Its field holds the sum of the pseudo-header already.

    Or the device was quicker: QEMU's e1000e completes it in the very memory that a socket reads later. Then the field
    has zeros for a while, which no pseudo-header has, and after that what belongs there: a checksum that is right
    stays as it is. (An unfinished one that happens to be right comes out the same.)
    """
    field, width = start + offset, 4 if offset == SCTP_CHECKSUM else 2
    if field + width > min(len(data), MAX_HEADERS):
        raise MalformedError
    before, after = data[:field], data[field + width :]
    if offset == SCTP_CHECKSUM:
        return before + crc32c(before[start:] + bytes(4) + after).to_bytes(4, "little") + after
    pseudo, blank = _pseudo_header_sum(data, start, offset), data[field : field + width] == bytes(2)
    # Never 0: the kernel's skb_checksum_help does the same for every protocol.
    value = checksum(data[start:], pseudo if blank else 0) or 0xFFFF
    if value == pseudo and not blank:  # with it, all adds up
        return data
    return before + value.to_bytes(2, "big") + after


def _pseudo_header_sum(data: bytes, start: int, offset: int) -> int:
    """Of the TCP or UDP segment that begins at `start`, from 1 to 0xFFFF; 0 where the headers do not lead there."""
    kind = {16: Kind.TCP, 6: Kind.UDP}.get(offset)
    if kind is None:
        return 0
    try:
        network = find_layers(data, start, kind)[-2]
    except MalformedError:
        return 0
    at = network.at
    if network.kind is Kind.IPV4:
        addresses, end = data[at + 12 : at + 20], at + int.from_bytes(data[at + 2 : at + 4], "big")
    else:
        addresses, end = data[at + 8 : at + 40], at + 40 + int.from_bytes(data[at + 4 : at + 6], "big")
    protocol = IPPROTO_TCP if kind is Kind.TCP else IPPROTO_UDP
    return pseudo_header_sum(addresses, protocol, max(end - start, 0))
