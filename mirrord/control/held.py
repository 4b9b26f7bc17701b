"""What flow networks have taken, as the kernel's own rules record it: read without loading what takes and gives back.

ip-rule(8), linux/fib_rules.h
"""

from __future__ import annotations

import socket
import struct
from contextlib import closing
from ipaddress import IPv4Address
from typing import NamedTuple

from mirrord.control.obstacles import ROUTE_PROTOCOL
from mirrord.control.rtnetlink import Rtnetlink, attributes, number

TABLES = 0x6D000000  # and the device's index: the table of its routes
RTM_GETRULE = 34
FRA_SRC, FRA_PRIORITY, FRA_TABLE, FRA_PROTOCOL = 2, 6, 15, 21
_RULE = struct.Struct("=B11x")  # family (struct fib_rule_hdr)


class Held(NamedTuple):
    """An address in use: what its rule says."""

    address: IPv4Address
    table: int
    priority: int

    @property
    def device_index(self) -> int:
        return self.table - TABLES


def all_held() -> set[Held]:
    """Every address that has been taken in this network namespace, also by a daemon that was killed."""
    with closing(Rtnetlink()) as netlink:
        try:
            bodies = netlink.dump(RTM_GETRULE, _RULE.pack(socket.AF_INET))
        except OSError:  # a kernel without policy routing: nothing can have been taken
            return set()
    rules = (attributes(body, _RULE.size) for body in bodies)
    return {
        Held(IPv4Address(rule[FRA_SRC]), number(rule.get(FRA_TABLE)), number(rule.get(FRA_PRIORITY)))
        for rule in rules
        if number(rule.get(FRA_PROTOCOL)) == ROUTE_PROTOCOL and FRA_SRC in rule
    }
