"""The TX ring of a packet socket: memory that the kernel takes packets from, as many as there are in one system call.

A packet that leaves by itself costs a quarter less this way than by sendmmsg (bench/primitives). A ring takes memory,
and time to set up: only a busy transmit has one. What does not fit a slot leaves by an ordinary packet socket.

The kernel sends from the ring's own pages. A packet that may outlive its slot (one for another stack on this host, or
one that a tap looks at) it copies first, since Linux 4.20; then a ring costs more than sendmmsg.

The native core fills it. Kernel: Documentation/networking/packet_mmap.rst, include/uapi/linux/if_packet.h.
"""

from __future__ import annotations

import fcntl
import mmap
import socket
import struct
from typing import TYPE_CHECKING

from mirrord.dataplane.capture.fanout import set_slowly
from mirrord.kernel import PACKET_TX_RING, PACKET_VERSION, SIOCGIFMTU, SOL_PACKET, TPACKET_V2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirrord.plans import DevicePlan


SLOTS = 256
"""More take the processor's cache from what else passes; fewer would wait for a slow device more often."""

HEADERS = 128
"""Bytes of a slot beside a packet as long as the MTU: the kernel's header, a vnet header, Ethernet with tags."""

SMALLEST_SLOT, LARGEST_SLOT = 2048, 16384
BLOCK_SIZE = 64 << 10


class TxRing:
    """Takes over a packet socket, bound to this device and to no protocol, which from then on sends from `memory` only.

    Raises OSError, and closes the socket: ENOMEM.
    """

    def __init__(self, sock: socket.socket, device: DevicePlan) -> None:
        self.socket = sock
        self.device = device
        try:
            self.slot_size = _slot_size(sock, device.device)
            size = SLOTS * self.slot_size
            sock.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
            set_slowly(sock, PACKET_TX_RING, struct.pack("=4I", BLOCK_SIZE, size // BLOCK_SIZE, self.slot_size, SLOTS))
            self.memory = mmap.mmap(sock.fileno(), size)
        except BaseException:
            sock.close()
            raise

    @property
    def descriptor(self) -> int:
        """The socket's: the native core reads it, `memory` and `slot_size` by their names."""
        return self.socket.fileno()

    def close(self) -> None:
        """The memory goes when nothing uses it any more."""
        self.socket.close()


class TxRings:
    """What a way out sends from: a ring for each of its ways that has a use for one, by their places."""

    def __init__(self, rings: Mapping[int, TxRing]) -> None:
        self._rings = rings

    def of(self, place: int, device: DevicePlan | None) -> TxRing | None:
        """The ring of the way at this place, if it is for this device: the route may lead elsewhere by now."""
        ring = self._rings.get(place)
        return ring if ring is not None and ring.device == device else None

    def close(self) -> None:
        for ring in self._rings.values():
            ring.close()


def _slot_size(sock: socket.socket, device: str) -> int:
    """Bytes, a power of two, that a packet of the device's MTU fits in."""
    request = struct.pack("16si12x", device.encode(), 0)
    mtu: int = struct.unpack_from("16xi", fcntl.ioctl(sock, SIOCGIFMTU, request))[0]
    size = SMALLEST_SLOT
    while size < min(mtu + HEADERS, LARGEST_SLOT):
        size *= 2
    return size
