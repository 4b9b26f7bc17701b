"""A host with a way out for copies, and the socket that they arrive at.

[host] up0 192.0.2.1 ---- 192.0.2.2 up0 [collector]
"""

from __future__ import annotations

import select
import socket
from typing import Any, Self

from tests.support.topology import Host, Topology, acquaint

REMOTE = "192.0.2.2"
CORE = f"""
[filters.all]
rules = [{{ priority = 1, action = "accept" }}]

[mirrors.core]

[[mirrors.core.sessions]]
name = "a"
source = "tap0"
direction = "egress"
filter = "all"
destination = {{ type = "vxlan", remote = "{REMOTE}", vni = 1 }}
"""
"""A configuration file's mirror of what `tap0` sends."""

_VXLAN_HEADER = 8  # RFC 7348 5


def uplinked(net: Topology) -> tuple[Host, Host]:
    """A host whose `up0` leads to a collector's `up0`, and the collector; they know each other."""
    host, collector = net.host("host"), net.host("collector")
    net.link(host, "up0", collector, "up0", ("192.0.2.1/24", f"{REMOTE}/24"), mtu=1600)
    acquaint(host, "up0", "192.0.2.1", collector, "up0", REMOTE)
    return host, collector


def tapped(net: Topology) -> tuple[Host, Host]:
    """The same, and the host's `tap0` leads to a guest."""
    host, collector = uplinked(net)
    net.link(host, "tap0", net.host("guest"), "eth0")
    return host, collector


class Uplink:
    """Made: what arrives at the collector from now on can be told."""

    def __init__(self, net: Topology) -> None:
        self.host, collector = uplinked(net)
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


def mirror(source: str, vni: int, **more: Any) -> dict[str, Any]:
    """A mirror with one session, to the collector, as the API takes it."""
    destination = {"type": "vxlan", "remote": REMOTE, "vni": vni}
    return {"sessions": [{"name": "s", "source": source, "destination": destination, **more}]}


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
