"""Devices without Ethernet: their IP packets get an Ethernet header, so that all that follows knows one kind of frame.

On a tun, WireGuard, PPP or IP tunnel device what a packet socket gives begins with the network header. The header that
a packet gets has addresses of zeros, and the ethertype that the kernel has for the packet, as tcpdump finds it; where
the kernel has none, it is told by the IP version. A file takes the header off again (ForwardPlan.strip_ethernet).

Such a device knows no VLAN tags: one that the kernel has beside a packet is of no link of its own, and is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirrord.dataplane.frame.wire import VNET_NEEDS_CSUM
from mirrord.protocols import ETH_HEADER, ETH_P_IP, ETH_P_IPV6, TPIDS

if TYPE_CHECKING:
    from mirrord.dataplane.frame.wire import Frame

FIRST_ETHERTYPE = 0x600
"""Less than that is no ethertype (IEEE 802.3, 3.2.6): the kernel's own numbers for protocols."""

VERSIONS = {4: ETH_P_IP, 6: ETH_P_IPV6}

_NO_ADDRESSES = bytes(12)


def with_ethernet(frame: Frame, protocol: int) -> Frame:
    """The packet behind an Ethernet header; `protocol` is the kernel's, sll_protocol in host order."""
    header = _NO_ADDRESSES + _ethertype(frame.data, protocol).to_bytes(2, "big")
    vnet = frame.vnet
    if vnet.flags & VNET_NEEDS_CSUM:
        vnet = vnet._replace(csum_start=vnet.csum_start + ETH_HEADER & 0xFFFF)
    return frame._replace(data=header + frame.data, length=frame.length + ETH_HEADER, tag=None, vnet=vnet)


def _ethertype(packet: bytes, protocol: int) -> int:
    if protocol >= FIRST_ETHERTYPE and protocol not in TPIDS:
        return protocol
    return VERSIONS.get(packet[0] >> 4, 0) if packet else 0
