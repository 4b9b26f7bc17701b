"""What flow networks have taken, as the kernel's own rules record it: read without loading what takes and gives back.

ip-rule(8), linux/fib_rules.h
"""

from __future__ import annotations

import socket
from contextlib import closing, suppress
from ipaddress import ip_address
from typing import NamedTuple

from mirrord.control.host.obstacles import ROUTE_PROTOCOL
from mirrord.control.host.rtnetlink import RULE, Rtnetlink, attributes, number
from mirrord.kernel import FRA_PRIORITY, FRA_PROTOCOL, FRA_SRC, FRA_TABLE, RTM_GETRULE
from mirrord.values.addresses import Address

TABLES = 0x6D000000  # and the device's index: the table of its routes


class Held(NamedTuple):
    """An address in use: what its rule says."""

    address: Address
    table: int
    priority: int

    @property
    def family(self) -> int:
        return family(self.address)

    @property
    def device_index(self) -> int:
        return self.table - TABLES


def family(address: Address) -> int:
    """AF_INET or AF_INET6."""
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def all_held() -> set[Held]:
    """Every address that has been taken in this network namespace, also by a daemon that was killed."""
    bodies: list[bytes] = []
    with closing(Rtnetlink()) as netlink:
        for one in (socket.AF_INET, socket.AF_INET6):
            with suppress(OSError):  # a kernel without this family, or policy routing: nothing can have been taken
                bodies += netlink.dump(RTM_GETRULE, RULE.pack(one, *bytes(8)))
    rules = (attributes(body, RULE.size) for body in bodies)
    return {
        Held(ip_address(rule[FRA_SRC]), number(rule.get(FRA_TABLE)), number(rule.get(FRA_PRIORITY)))
        for rule in rules
        if number(rule.get(FRA_PROTOCOL)) == ROUTE_PROTOCOL and FRA_SRC in rule
    }
