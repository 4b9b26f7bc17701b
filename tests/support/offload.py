"""Frames with their vnet header: what the kernel left to the device, captured, and handed to it again."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple, Self

from tests.support.topology import Host

SOL_PACKET, PACKET_VNET_HDR = 263, 15  # linux/if_packet.h
ETH_P_ALL = 3
NEEDS_CSUM, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 1, 1, 4, 5, 0x80  # linux/virtio_net.h
_VNET = struct.Struct("=BBHHHH")


class Offloaded(NamedTuple):
    """A frame and the fields of its struct virtio_net_hdr."""

    data: bytes
    flags: int = 0
    gso_type: int = 0
    header_length: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0

    def tagged(self, *tags: bytes, source: bytes) -> Self:
        """The same from another MAC address and behind VLAN tags, outermost first."""
        longer = b"".join(tags)
        return self._replace(
            data=self.data[:6] + source + longer + self.data[12:],
            header_length=self.header_length + len(longer) if self.gso_type else 0,
            csum_start=self.csum_start + len(longer) if self.flags & NEEDS_CSUM else 0,
        )


class Offloader:
    """A packet socket on a device, both ways."""

    def __init__(self, host: Host, device: str) -> None:
        self._socket = host.open_socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._socket.bind((device, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def listen(self, device: str) -> None:
        """Capture from now on."""
        self._socket.bind((device, ETH_P_ALL))

    def captured(self) -> list[Offloaded]:
        """What has been captured."""
        self._socket.setblocking(False)
        frames: list[Offloaded] = []
        while True:
            try:
                data = self._socket.recv(1 << 18)
            except BlockingIOError:
                return frames
            frames.append(Offloaded(data[_VNET.size :], *_VNET.unpack_from(data)))

    def send(self, frame: Offloaded) -> None:
        data, *vnet = frame
        self._socket.setblocking(True)
        self._socket.send(_VNET.pack(*vnet) + data)


def allow_big_tcp(host: Host, device: str, size: int) -> None:
    """Let the device have TCP super-frames of this size, IPv4 and IPv6 (BIG TCP); iproute2 6.1 cannot for IPv4."""
    rtm_newlink, request_and_ack = 16, 5  # linux/rtnetlink.h, linux/netlink.h
    gso_max_size, gso_ipv4_max_size = 41, 63  # linux/if_link.h
    attributes = b"".join(struct.pack("=HHI", 8, kind, size) for kind in (gso_max_size, gso_ipv4_max_size))
    body = struct.pack("=BxHiII", 0, 0, host.index(device), 0, 0) + attributes
    with host.open_socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.send(struct.pack("=IHHII", 16 + len(body), rtm_newlink, request_and_ack, 1, 0) + body)
        assert struct.unpack_from("=i", netlink.recv(4096), 16)[0] == 0
