"""A guest behind a bridge: what it says passes a tap, the bridge and the uplink, all three mirrored.

guest eth0 ---- tap [host: bridge br0] uplink ---- eth0 [peer]
                [host] out ---- eth0 [collector] vxlan0
"""

from __future__ import annotations

import socket
from collections import Counter

from tests.support.source import OVER_IPV4
from tests.support.topology import Host, Topology, acquaint, receive_vxlan

BARE = "tcp and ip[2:2] - ((ip[0] & 0xf) << 2) - ((tcp[12] & 0xf0) >> 2) == 0"
"""Packets without payload: many are equal, as acknowledgements in which the other's window did not change."""


def bridged(net: Topology) -> tuple[Host, Host, Host, Host]:
    """The guest, the host, the peer and the collector. The guest's default route is the host, which forwards."""
    guest, host, peer, collector = (net.host(label) for label in ("guest", "host", "peer", "collector"))
    net.link(guest, "eth0", host, "tap", ("10.1.0.1/24", ""))
    net.link(host, "uplink", peer, "eth0", ("", "10.1.0.2/24"))
    host.add_bridge("br0", "tap", "uplink")
    net.link(host, "out", collector, "eth0", OVER_IPV4.addresses, mtu=1600)
    acquaint(host, "out", OVER_IPV4.source, collector, "eth0", OVER_IPV4.collector)
    acquaint(guest, "eth0", "10.1.0.1", peer, "eth0", "10.1.0.2")
    receive_vxlan(collector, vni=1)
    return guest, host, peer, collector


def configuration(duplicates: str = 'duplicates = "drop"', session: str = "") -> str:
    """The tap, the bridge, to which what it forwards comes as well since it is promiscuous, and the uplink; `session`
    is a line of each.

    What the hosts send of their own accord, as IGMP reports, is not counted.
    """
    return f"""
[filters.asked]
rules = [
    {{ priority = 1, action = "accept", family = "ipv4", protocol = "icmp" }},
    {{ priority = 2, action = "accept", family = "ipv4", protocol = "tcp" }},
]
[mirrors.m]
{duplicates}
[[mirrors.m.sessions]]
name = "ends"
source = {{ type = "device", device = ["tap", "uplink"] }}
destination = {{ type = "vxlan", remote = "10.99.0.2", vni = 1, shared_vni = true }}
ring_size = "64MiB"
filter = "asked"
{session}
[[mirrors.m.sessions]]
name = "bridge"
source = {{ type = "device", device = "br0", promiscuous = true }}
destination = {{ type = "vxlan", remote = "10.99.0.2", vni = 1, shared_vni = true }}
ring_size = "64MiB"
filter = "asked"
{session}
"""


def packets(frames: list[bytes]) -> Counter[bytes]:
    """IPv4 packets less what changes on the way, TTL and the header's checksum (RFC 791 3.1), and less TCP's checksum
    (RFC 9293 3.1), which is not complete on a virtual wire.
    """
    found: Counter[bytes] = Counter()
    for data in frames:
        packet = bytearray(data[14:])
        packet[8] = packet[10] = packet[11] = 0
        if packet[9] == socket.IPPROTO_TCP:
            packet[20 + 16 : 20 + 18] = bytes(2)
        found[bytes(packet)] += 1
    return found
