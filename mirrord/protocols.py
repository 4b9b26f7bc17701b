"""The numbers of protocols, and the lengths of their headers in bytes, each once.

IANA's registries of ethertypes and IP protocols; RFC 791, 768, 8200, 9293, 2784; linux/if_ether.h.
"""

from __future__ import annotations

ETH_P_ALL = 0x0003  # any, of a packet socket
ETH_P_IP, ETH_P_ARP, ETH_P_8021Q, ETH_P_IPV6 = 0x0800, 0x0806, 0x8100, 0x86DD
ETH_P_TEB = 0x6558  # an Ethernet frame, in GRE or Geneve
ETH_P_ERSPAN, ETH_P_ERSPAN_III = 0x88BE, 0x22EB  # types I and II, type III
TPIDS = (0x8100, 0x88A8, 0x9100, 0x9200)
"""Ethertypes of a VLAN tag: IEEE 802.1Q, 802.1ad, and two that were used before there was 802.1ad."""

IPPROTO_ICMP, IPPROTO_IPIP, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_IPV6 = 1, 4, 6, 17, 41
IPPROTO_GRE, IPPROTO_ICMPV6, IPPROTO_SCTP = 47, 58, 132

ETH_ALEN, ETH_HEADER = 6, 14
IPV4_HEADER, IPV6_HEADER = 20, 40  # without options or extension headers
UDP_HEADER, TCP_HEADER, GRE_HEADER = 8, 20, 4  # without options
