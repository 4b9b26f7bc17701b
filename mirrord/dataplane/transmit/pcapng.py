"""Blocks of a pcapng file: bytes, and nothing of files. Numbers are little-endian.

A file of ours is one section with one interface and a packet block for each copy. Everything in its headers is
constant, so that what wrote a file can tell one without packets from its bytes alone.

draft-ietf-opsawg-pcapng: 3.1 blocks, 3.5 options, 4.1 section header, 4.2 interface, 4.3 enhanced packet,
4.6 interface statistics.
"""

from __future__ import annotations

import struct

SECTION = 0x0A0D0D0A
INTERFACE = 1
STATISTICS = 5
PACKET = 6

BYTE_ORDER = 0x1A2B3C4D
LINKTYPE_ETHERNET, LINKTYPE_RAW = 1, 101  # https://www.tcpdump.org/linktypes.html; raw: IPv4 or IPv6

OPTION_END = 0
OPTION_COMMENT = 1
SECTION_PROGRAM = 4  # shb_userappl
INTERFACE_NAME = 2  # if_name
INTERFACE_RESOLUTION = 9  # if_tsresol
PACKET_FLAGS = 2  # epb_flags
STATISTICS_DROPPED = 5  # isb_ifdrop
NANOSECONDS = 9  # 10 to the power of -9 seconds
INBOUND, OUTBOUND = 1, 2

_PACKET_HEADER = struct.Struct("<IIIIIII")  # type, length, interface, time (high, low), captured, original length
_PACKET_OPTIONS = struct.Struct("<HHIHHI")  # epb_flags, the end of the options; and the block's length once more

PACKET_HEADER_LENGTH = _PACKET_HEADER.size


def section(program: str, comment: str) -> bytes:
    """A section header of version 1.0 and unknown length."""
    body = struct.pack("<IHHq", BYTE_ORDER, 1, 0, -1)
    options = _option(OPTION_COMMENT, comment.encode()) + _option(SECTION_PROGRAM, program.encode())
    return _block(SECTION, body + options + _option(OPTION_END))


def interface(name: str, snaplen: int, comment: str, *, raw: bool = False) -> bytes:
    """An interface whose packets are stamped in nanoseconds; `snaplen` 0: packets are whole.

    Its packets are Ethernet frames, or `raw`, IP packets.
    """
    body = struct.pack("<HxxI", LINKTYPE_RAW if raw else LINKTYPE_ETHERNET, snaplen)
    options = _option(OPTION_COMMENT, comment.encode()) + _option(INTERFACE_NAME, name.encode())
    return _block(INTERFACE, body + options + _option(INTERFACE_RESOLUTION, bytes([NANOSECONDS])) + _option(OPTION_END))


def packet_header(captured: int, original: int, time: int) -> bytes:
    """What a packet block has before the packet; `time` in nanoseconds since 1970."""
    length = PACKET_HEADER_LENGTH + captured + _padding(captured) + _PACKET_OPTIONS.size
    return _PACKET_HEADER.pack(PACKET, length, 0, time >> 32 & 0xFFFFFFFF, time & 0xFFFFFFFF, captured, original)


def packet_trailer(captured: int, *, egress: bool) -> bytes:
    """What a packet block has behind the packet: padding, its direction at the interface, the block's length."""
    padding = _padding(captured)
    length = PACKET_HEADER_LENGTH + captured + padding + _PACKET_OPTIONS.size
    flags = OUTBOUND if egress else INBOUND
    return bytes(padding) + _PACKET_OPTIONS.pack(PACKET_FLAGS, 4, flags, OPTION_END, 0, length)


def statistics(time: int, dropped: int) -> bytes:
    """That so many packets are missing so far; `time` as above."""
    body = struct.pack("<III", 0, time >> 32 & 0xFFFFFFFF, time & 0xFFFFFFFF)
    return _block(STATISTICS, body + _option(STATISTICS_DROPPED, struct.pack("<Q", dropped)) + _option(OPTION_END))


def since(packets: bytes, time: int) -> bytes:
    """Whole packet blocks from the first one on that is no older than this."""
    at = 0
    while at < len(packets):
        _, length, _, high, low, _, _ = _PACKET_HEADER.unpack_from(packets, at)
        if high << 32 | low >= time:
            break
        at += length
    return packets[at:]


def _block(kind: int, body: bytes) -> bytes:
    length = 12 + len(body)
    return struct.pack("<II", kind, length) + body + struct.pack("<I", length)


def _option(code: int, value: bytes = b"") -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(_padding(len(value)))


def _padding(length: int) -> int:
    return -length % 4
