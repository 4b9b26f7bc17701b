"""The walk-through of Huawei's document, which is also `make demo`: who talks, and what is mirrored of it."""

from __future__ import annotations

from tests.support.process import Process
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

CONFIGURATION = """\
[[filters.web_in.rules]]
priority = 1
direction = "ingress"
action = "accept"
protocol = "tcp"
source = "192.168.0.161/32"
destination = "192.168.0.230/32"
destination_ports = "1234"

[mirrors.core]
description = "what the client sends to port 1234"
enabled = true

[[mirrors.core.sessions]]
name = "source"
direction = "ingress"
source = { type = "device", device = "eth0" }
filter = "web_in"
destination = { type = "vxlan", remote = "192.168.0.164", vni = 1 }
"""


def lan(net: Topology, *, offloads: bool = True) -> tuple[Host, Host, Host]:
    """The client, the source and the collector, on one network."""
    client, source, collector = net.host("client"), net.host("source"), net.host("collector")
    addresses = {client: "192.168.0.161/24", source: "192.168.0.230/24", collector: "192.168.0.164/24"}
    net.lan(addresses, offloads=offloads)
    return client, source, collector


def connect(client: Host, source: Host, port: int) -> tuple[Process, Process]:
    """An nc on the client, and the one on the source that it talks to, which ends with the connection.

    Debian has two, and where both are installed `nc` may be the one that takes other options.
    """
    server = source.spawn("nc.openbsd", "-l", str(port))
    wait_for(lambda: f":{port} " in source.run("ss", "-ltn"), f"nc listens on {port}")
    return client.spawn("nc.openbsd", "192.168.0.230", str(port)), server
