"""Find out whether an IPv4 address is free on a link, and announce it there. RFC 5227, in less time.

The RFC waits two seconds before the first probe, between probes and after the last. Here all of it takes
a second: on a link of servers an answer takes microseconds, and the operator has set the address aside.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable
from ipaddress import IPv4Address

from mirrord.protocols import ETH_P_ARP

PROBES = 3  # RFC 5227 1.1, PROBE_NUM
PROBE_SECONDS = 0.3  # from each probe to the next, and after the last

_ARP = struct.Struct(
    "!HHBBH6s4s6s4s"
)  # RFC 826: spaces, lengths, operation, then sender and target, hardware and address
_REQUEST = (1, 0x0800, 6, 4, 1)
_BROADCAST, _NOBODY, _NOWHERE = b"\xff" * 6, bytes(6), bytes(4)


def first_free(device: str, candidates: Iterable[IPv4Address]) -> IPv4Address | None:
    """The first of these that nobody on the device's link has; a second for it, and little for those taken.

    OSError when the device cannot send.
    """
    with _open(device) as sock:
        return next((address for address in candidates if not _taken(sock, address)), None)


def announce(device: str, address: IPv4Address) -> None:
    """Have the link's hosts forget whoever had the address before (RFC 5227 2.3). OSError as first_free."""
    with _open(device) as sock:
        _send(sock, address.packed, address)


def _open(device: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)  # no protocol yet: nothing from other devices
    try:
        sock.bind((device, ETH_P_ARP))
    except BaseException:
        sock.close()
        raise
    return sock


def _taken(sock: socket.socket, address: IPv4Address) -> bool:
    for _ in range(PROBES):
        _send(sock, _NOWHERE, address)
        until = time.monotonic() + PROBE_SECONDS
        while (left := until - time.monotonic()) > 0:
            sock.settimeout(left)
            try:
                packet, source = sock.recvfrom(_ARP.size)
            except TimeoutError:
                break
            if source[2] != socket.PACKET_OUTGOING and _claims(packet, address, _mac(sock)):
                return True
    return False


def _claims(packet: bytes, address: IPv4Address, own: bytes) -> bool:
    """Whether an ARP packet of another host says that it has the address, or is about to take it."""
    if len(packet) < _ARP.size:
        return False
    *kind, sender, sender_address, _, target_address = _ARP.unpack(packet)
    if kind[:4] != list(_REQUEST[:4]) or sender == own:
        return False
    claimed: bytes = sender_address if sender_address != _NOWHERE else target_address
    return claimed == address.packed


def _send(sock: socket.socket, sender: bytes, address: IPv4Address) -> None:
    packet = _ARP.pack(*_REQUEST, _mac(sock), sender, _NOBODY, address.packed)
    sock.sendto(packet, (sock.getsockname()[0], ETH_P_ARP, 0, 0, _BROADCAST))


def _mac(sock: socket.socket) -> bytes:
    return bytes(sock.getsockname()[4])
