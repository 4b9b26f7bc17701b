"""The Internet checksum (RFC 1071), over bytes in network order; and the CRC32c that SCTP has instead (RFC 9260)."""

from __future__ import annotations

from array import array

from mirrord.protocols import IPPROTO_UDP


def ones_sum(data: bytes, start: int = 0) -> int:
    """The 16-bit one's complement sum, not yet complemented. An odd last byte counts as the high half of a word."""
    if len(data) & 1:
        data += b"\0"
    # Summed in the machine's own byte order and turned round at the end, which RFC 1071 2 (B) allows.
    total = sum(array("H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    total = start + int.from_bytes(array("H", [total]).tobytes(), "big")
    return (total & 0xFFFF) + (total >> 16)


def checksum(data: bytes, start: int = 0) -> int:
    """The complement of the sum: what goes into a header's checksum field."""
    return ones_sum(data, start) ^ 0xFFFF


def pseudo_header_sum(addresses: bytes, protocol: int, length: int) -> int:
    """What the checksum of a segment of this length begins with (RFC 9293 3.1, RFC 8200 8.1), from 1 to 0xFFFF."""
    return ones_sum(addresses + protocol.to_bytes(4, "big") + length.to_bytes(4, "big"))


def transport_checksum(source: bytes, destination: bytes, protocol: int, segment: bytes) -> int:
    """The checksum of a TCP or UDP segment whose field is zero, with its pseudo-header.

    Never 0 for UDP, which keeps that for "none" (RFC 768): the equal 0xFFFF is given in its place. TCP has no such
    case, and analysers take 0xFFFF there for an error (RFC 1624 3).
    """
    value = checksum(segment, pseudo_header_sum(source + destination, protocol, len(segment)))
    return 0xFFFF if value == 0 and protocol == IPPROTO_UDP else value


def _table() -> tuple[int, ...]:
    """The CRC of each byte: RFC 9260 appendix A, by the reflected polynomial."""
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_CRC32C = _table()


def crc32c(data: bytes) -> int:
    """What goes, least significant byte first, into the checksum field of an SCTP packet that has zeros there."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
