"""A source between a client and a collector, and what a session there may look like.

client eth0 ---- nic [source] uplink ---- eth0 [collector] vxlan0
"""

from __future__ import annotations

from typing import NamedTuple

from tests.support.topology import Host, Topology, acquaint, receive_vxlan


class Underlay(NamedTuple):
    """What copies travel over: the addresses of `uplink` and the collector."""

    source: str
    collector: str
    length: int  # of the prefix
    ip_header: int  # bytes

    @property
    def nodad(self) -> str:
        """What iproute2 needs for an IPv6 address that can be used at once."""
        return "nodad" if ":" in self.source else ""

    @property
    def addresses(self) -> tuple[str, str]:
        """As iproute2 takes them."""
        return f"{self.source}/{self.length} {self.nodad}", f"{self.collector}/{self.length} {self.nodad}"


OVER_IPV4 = Underlay("10.99.0.1", "10.99.0.2", 24, 20)
OVER_IPV6 = Underlay("2001:db8:99::1", "2001:db8:99::2", 64, 40)
VXLAN = '{ type = "vxlan", remote = "10.99.0.2", vni = 1 }'
SPAN = '{ type = "device", device = "uplink" }'


def linked(net: Topology, underlay: Underlay = OVER_IPV4, mtu: int = 1600) -> tuple[Host, Host, Host]:
    """The client, the source and the collector, where nobody takes the copies yet."""
    ipv6 = underlay is OVER_IPV6
    client, source, collector = net.host("client"), net.host("source", ipv6=ipv6), net.host("collector", ipv6=ipv6)
    net.link(client, "eth0", source, "nic")
    net.link(source, "uplink", collector, "eth0", underlay.addresses, mtu=mtu)
    acquaint(source, "uplink", underlay.source, collector, "eth0", underlay.collector)
    return client, source, collector


def source_and_collector(net: Topology) -> tuple[Host, Host, Host]:
    """The client, the source and the collector, whose vxlan0 has network 1."""
    client, source, collector = linked(net)
    receive_vxlan(collector, vni=1)
    return client, source, collector


def session(more: str = "", destination: str = VXLAN) -> str:
    """A session of what passes `nic`, to the collector; `more` is TOML."""
    return f"""
[[mirrors.m.sessions]]
name = "s"
source = "nic"
destination = {destination}
{more}
"""
