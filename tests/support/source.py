"""A source between a client and a collector that takes VXLAN; and what a session there may look like.

client eth0 ---- nic [source] uplink ---- eth0 [collector] vxlan0
"""

from __future__ import annotations

from tests.support.topology import Host, Topology, acquaint, receive_vxlan

VXLAN = '{ type = "vxlan", remote = "10.99.0.2", vni = 1 }'
SPAN = '{ type = "device", device = "uplink" }'


def source_and_collector(net: Topology) -> tuple[Host, Host, Host]:
    """The client, the source and the collector, whose vxlan0 has network 1."""
    client, source, collector = net.host("client"), net.host("source"), net.host("collector")
    net.link(client, "eth0", source, "nic")
    net.link(source, "uplink", collector, "eth0", ("10.99.0.1/24", "10.99.0.2/24"), mtu=1600)
    acquaint(source, "uplink", "10.99.0.1", collector, "eth0", "10.99.0.2")
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
