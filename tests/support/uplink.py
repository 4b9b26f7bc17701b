"""A host with a way out for copies, and the socket that they arrive at.

[host] up0 192.0.2.1 ---- 192.0.2.2 up0 [collector]
"""

from __future__ import annotations

import select
import socket
from typing import Self

from tests.support.topology import Host, Topology, acquaint

REMOTE = "192.0.2.2"
_VXLAN_HEADER = 8  # RFC 7348 5


def tapped(net: Topology) -> tuple[Host, Host]:
    """A host whose `up0` leads to a collector's `up0`, and whose `tap0` leads to a guest; and the collector."""
    host, collector, guest = net.host("host"), net.host("collector"), net.host("guest")
    net.link(host, "up0", collector, "up0", ("192.0.2.1/24", f"{REMOTE}/24"), mtu=1600)
    host.ip(f"neighbour replace {REMOTE} lladdr {collector.mac('up0')} dev up0")
    net.link(host, "tap0", guest, "eth0")
    return host, collector


class Uplink:
    """Made: the link is up, and both ends know each other."""

    def __init__(self, net: Topology) -> None:
        self.host, collector = net.host("host"), net.host("collector")
        net.link(self.host, "up0", collector, "up0", ("192.0.2.1/24", f"{REMOTE}/24"), mtu=1600)
        acquaint(self.host, "up0", "192.0.2.1", collector, "up0", REMOTE)
        self._socket = collector.open_socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((REMOTE, 4789))
        self._socket.setblocking(False)

    def copies(self, seconds: float = 0.0) -> list[bytes]:
        """The mirrored frames that have arrived; waits so long for the first of them."""
        found = []
        select.select([self._socket], [], [], seconds)
        while True:
            try:
                found.append(self._socket.recv(65535)[_VXLAN_HEADER:])
            except BlockingIOError:
                return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def session(name: str, source: str, vni: int, more: str = "") -> str:
    """A session, ingress, to the collector; `source` and `more` are TOML."""
    return f"""
[[mirrors.m.sessions]]
name = "{name}"
source = {source}
direction = "ingress"
destination = {{ type = "vxlan", remote = "{REMOTE}", vni = {vni} }}
{more}
"""
