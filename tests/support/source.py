"""A source between a client and a collector that takes VXLAN.

client eth0 ---- nic [source] uplink ---- eth0 [collector] vxlan0
"""

from __future__ import annotations

from tests.support.topology import Host, Topology, acquaint, receive_vxlan


def source_and_collector(net: Topology) -> tuple[Host, Host, Host]:
    """The client, the source and the collector, whose vxlan0 has network 1."""
    client, source, collector = net.host("client"), net.host("source"), net.host("collector")
    net.link(client, "eth0", source, "nic")
    net.link(source, "uplink", collector, "eth0", ("10.99.0.1/24", "10.99.0.2/24"), mtu=1600)
    acquaint(source, "uplink", "10.99.0.1", collector, "eth0", "10.99.0.2")
    receive_vxlan(collector, vni=1)
    return client, source, collector
