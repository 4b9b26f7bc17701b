"""Packets of a capture file, pcap or pcapng, one after the other: Ethernet frames, or IP packets, which become some.

draft-ietf-opsawg-pcap; draft-ietf-opsawg-pcapng: 3.1 blocks, 3.5 options, 4.1-4.4 sections, interfaces, packets,
and A.1 the old packet block.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from mirrord.dataplane.frame.wire import Frame
from mirrord.dataplane.frame.without_ethernet import with_ethernet
from mirrord.dataplane.transmit.pcapng import (
    BYTE_ORDER,
    INBOUND,
    INTERFACE,
    LINKTYPE_ETHERNET,
    LINKTYPE_RAW,
    OPTION_END,
    OUTBOUND,
    PACKET,
    PACKET_FLAGS,
    SECTION,
)

OLD_PACKET, SIMPLE_PACKET = 2, 3
WITHOUT_ETHERNET = {LINKTYPE_RAW, 12, 14, 228, 229}
"""LINKTYPE_RAW, DLT_RAW of Linux and of OpenBSD, LINKTYPE_IPV4 and _IPV6: https://www.tcpdump.org/linktypes.html"""
PCAP_MAGICS = (0xA1B2C3D4, 0xA1B23C4D)  # stamps in microseconds, in nanoseconds
LONGEST = 64 << 20  # bytes of a block or packet: more is taken for damage


class Packet(NamedTuple):
    """What was captured of a frame of this length; `egress` is None where the file does not tell."""

    data: bytes
    length: int
    egress: bool | None = None


class CaptureFileError(Exception):
    """The file is no capture file of Ethernet frames or IP packets, or it is damaged; the text says where."""


def packets(file: BinaryIO) -> Iterator[Packet]:
    """Every packet of the file. Raises CaptureFileError, after the packets that could be read."""
    number = 0
    try:
        for packet in _read(file):
            number += 1
            yield packet
    except CaptureFileError as error:
        raise CaptureFileError(f"after packet {number}: {error}" if number else str(error)) from error


def _read(file: BinaryIO) -> Iterator[Packet]:
    start = file.read(4)
    for order in "<>":
        if start == struct.pack(f"{order}I", SECTION):
            return _pcapng(file)
        if start in [struct.pack(f"{order}I", magic) for magic in PCAP_MAGICS]:
            return _pcap(file, order)
    raise CaptureFileError("this is neither pcap nor pcapng")


def _pcap(file: BinaryIO, order: str) -> Iterator[Packet]:
    header = _exactly(file, 20)
    linktype = _known(struct.unpack_from(f"{order}I", header, 16)[0] & 0xFFFF)  # above it: the length of an FCS
    while head := file.read(16):
        captured, original = struct.unpack_from(f"{order}8xII", _whole(head, 16))
        yield _packet(_exactly(file, captured), original, linktype)


def _pcapng(file: BinaryIO) -> Iterator[Packet]:
    snaplens: list[int] = []
    linktypes: list[int] = []
    for kind, body, order in _blocks(file):
        if kind == SECTION:
            snaplens, linktypes = [], []
        elif kind == INTERFACE:
            linktype, snaplen = struct.unpack_from(f"{order}H2xI", _whole(body, 8))
            linktypes.append(_known(linktype))
            snaplens.append(snaplen)
        elif kind in (PACKET, OLD_PACKET):
            captured, original = struct.unpack_from(f"{order}12xII", _whole(body, 20))
            data = _whole(body[20:], captured)[:captured]
            number = struct.unpack_from(f"{order}I" if kind == PACKET else f"{order}H", body)[0]
            egress = _egress(body[20 + captured + -captured % 4 :], order)
            yield _packet(data, original, _of(linktypes, number), egress)
        elif kind == SIMPLE_PACKET:
            original = struct.unpack_from(f"{order}I", _whole(body, 4))[0]
            limit = snaplens[0] if snaplens else 0
            captured = min(original, limit) if limit else original
            yield _packet(_whole(body[4:], captured)[:captured], original, _of(linktypes, 0))


def _blocks(file: BinaryIO) -> Iterator[tuple[int, bytes, str]]:
    """Each block's type, body and byte order; the first four bytes of the file have been read."""
    order, word = "<", struct.pack("<I", SECTION)  # reads the same in both orders
    while word:
        kind = struct.unpack(f"{order}I", _whole(word, 4))[0]
        head = _exactly(file, 8 if kind == SECTION else 4)
        if kind == SECTION:
            order = {struct.pack(f"{one}I", BYTE_ORDER): one for one in "<>"}.get(head[4:], "")
            if not order:
                raise CaptureFileError("a section without a byte order")
        length = struct.unpack_from(f"{order}I", head)[0]
        rest = length - 4 - len(head)
        if length % 4 or rest < 4:
            raise CaptureFileError(f"a block of {length} bytes")
        yield kind, _exactly(file, rest)[:-4], order
        word = file.read(4)


def _egress(options: bytes, order: str) -> bool | None:
    """The direction that a packet block's flags tell, if it has them."""
    at = 0
    while at + 4 <= len(options):
        code, length = struct.unpack_from(f"{order}HH", options, at)
        if code == PACKET_FLAGS and at + 8 <= len(options):
            flags = struct.unpack_from(f"{order}I", options, at + 4)[0]
            return {INBOUND: False, OUTBOUND: True}.get(flags & 3)
        if code == OPTION_END:
            break
        at += 4 + length + -length % 4
    return None


def _known(linktype: int) -> int:
    if linktype != LINKTYPE_ETHERNET and linktype not in WITHOUT_ETHERNET:
        problem = (
            f"its packets are neither Ethernet frames nor IP packets (link type {linktype}): capture on one device"
        )
        raise CaptureFileError(problem)
    return linktype


def _of(linktypes: list[int], interface: int) -> int:
    """An interface's link type; one that was not announced has Ethernet, as it always had."""
    return linktypes[interface] if interface < len(linktypes) else LINKTYPE_ETHERNET


def _packet(data: bytes, length: int, linktype: int, egress: bool | None = None) -> Packet:
    if linktype in WITHOUT_ETHERNET:
        data, length, *_ = with_ethernet(Frame(data, length), 0)
    return Packet(data, length, egress)


def _exactly(file: BinaryIO, length: int) -> bytes:
    if length > LONGEST:
        raise CaptureFileError(f"a packet or block that claims {length} bytes")
    return _whole(file.read(length), length)


def _whole(read: bytes, length: int) -> bytes:
    if len(read) < length:
        raise CaptureFileError("the file ends in the middle of something")
    return read
