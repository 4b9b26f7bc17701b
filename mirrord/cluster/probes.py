"""Whether the other end of a connection is there still: a firewall may forget a connection, and tell nobody."""

from __future__ import annotations

import socket
from typing import NamedTuple

import aiohttp


class Probes(NamedTuple):
    """Of a silent connection: when the first is sent, how far apart, and how many without an answer end it. tcp(7)."""

    idle: int
    interval: int
    most: int


PROBES = Probes(10, 5, 3)


def begin(response: aiohttp.ClientResponse) -> None:
    """Have the kernel see to it, for an answer that goes on."""
    transport = response.connection.transport if response.connection is not None else None
    probed = transport.get_extra_info("socket") if transport is not None else None
    if probed is None:
        return  # it has ended
    probed.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in zip((socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT), PROBES, strict=True):
        probed.setsockopt(socket.IPPROTO_TCP, option, value)
