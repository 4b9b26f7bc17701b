"""A captured frame, and what the wire carried in its place.

Between the NIC and a packet socket the kernel keeps three things beside a frame's bytes: the VLAN tag it took off, a
checksum that it left to the device, and the size at which the device will cut a super-frame. `rebuild` undoes all
three.

The vnet header is struct virtio_net_hdr (virtio 1.2, 5.1.6), little-endian in the packet socket's default on x86 and
every other little-endian host.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from mirrord.dataplane.headers import Tag

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


class Frame(NamedTuple):
    """One frame as a source gave it."""

    data: bytes  # from the Ethernet header on, as the kernel holds it
    length: int  # bytes that the kernel held; more than len(data) when the capture cut it
    egress: bool = False  # as the host sees it
    tag: Tag | None = None  # the VLAN tag that the kernel took off
    vnet: Vnet = Vnet()
    time: int = 0  # of capture, nanoseconds since 1970
