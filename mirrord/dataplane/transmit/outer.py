"""The headers of a copy that leaves by a packet socket: Ethernet, IP and, where there is one, UDP.

IPv4: RFC 791 3.1. IPv6: RFC 8200 3. UDP: RFC 768. The vnet header before them: packet(7), PACKET_VNET_HDR; the virtio
specification 5.1.6.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING

from mirrord.dataplane.frame.checksum import ones_sum
from mirrord.dataplane.frame.wire import VNET, Vnet
from mirrord.protocols import ETH_HEADER, ETH_P_IP, ETH_P_IPV6, IPPROTO_UDP, IPV4_HEADER, IPV6_HEADER

if TYPE_CHECKING:
    from mirrord.plans import TunnelPlan

UDP_CHECKSUM = 6  # its offset
DO_NOT_FRAGMENT = 0x4000
NEEDS_CSUM = 1  # VIRTIO_NET_HDR_F_NEEDS_CSUM


class Outer:
    """`header` is the constant part: lengths, identification, checksums and the source port are zero in it."""

    def __init__(self, plan: TunnelPlan) -> None:
        assert plan.hop is not None
        self._udp = plan.protocol == IPPROTO_UDP
        self._v6 = ip_address(plan.remote).version == 6
        self._id = 0
        ends = ip_address(plan.local.partition("%")[0]).packed + ip_address(plan.remote.partition("%")[0]).packed
        ethertype = ETH_P_IPV6 if self._v6 else ETH_P_IP
        header = plan.hop.destination + plan.hop.source + ethertype.to_bytes(2, "big")
        if self._v6:
            header += struct.pack("!IHBB", 6 << 28 | plan.dscp << 22, 0, plan.protocol, plan.ttl) + ends
        else:
            fixed = (0x45, plan.dscp << 2, 0, 0, DO_NOT_FRAGMENT, plan.ttl, plan.protocol, 0)
            header += struct.pack("!BBHHHBBH", *fixed) + ends
        self.header = header + (struct.pack("!HHHH", 0, plan.port, 0, 0) if self._udp else b"")

    def wrap(self, data: bytes, port: int) -> bytes:
        """One copy as the packet socket takes it: vnet header, outer headers, data. `port` is the source port.

        The UDP checksum is zero over IPv4, as RFC 7348 5 wants; over IPv6 it may not be (RFC 8200 8.1), and is left to
        the device, or to the kernel where the device computes none.
        """
        header, vnet = bytearray(self.header), Vnet()
        at = ETH_HEADER + (IPV6_HEADER if self._v6 else IPV4_HEADER)
        size = len(header) - at + len(data)
        if self._v6:
            struct.pack_into("!H", header, ETH_HEADER + 4, size)
        else:
            struct.pack_into("!HH", header, ETH_HEADER + 2, IPV4_HEADER + size, self._id)
            struct.pack_into("!H", header, ETH_HEADER + 10, 0xFFFF ^ ones_sum(bytes(header[ETH_HEADER:at])))
            self._id = (self._id + 1) & 0xFFFF
        if self._udp:
            struct.pack_into("!H", header, at, port)
            struct.pack_into("!H", header, at + 4, size)
        if self._udp and self._v6:
            pseudo = bytes(header[ETH_HEADER + 8 : at]) + struct.pack("!II", size, IPPROTO_UDP)
            struct.pack_into("!H", header, at + UDP_CHECKSUM, ones_sum(pseudo))
            vnet = Vnet(flags=NEEDS_CSUM, csum_start=at, csum_offset=UDP_CHECKSUM)
        return VNET.pack(*vnet) + header + data
