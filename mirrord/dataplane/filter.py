"""Which frames a pipeline captures. The matcher here defines the meaning; bpf.py has the kernel do the same.

A selection is all that decides it: the session's direction, the tags of its source, the guards against mirroring a copy
again, and the filter's rules. Directions are the host's; a guest's perspective is turned around before.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network


class Direction(enum.IntFlag):
    """As the host sees it: ingress is what its NIC receives, egress what it sends."""

    INGRESS = 1
    EGRESS = 2
    BOTH = 3


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; what is None or empty matches anything. Rules are tried in ascending priority."""

    priority: int
    accept: bool
    direction: Direction = Direction.BOTH
    family: int | None = None  # 4 or 6
    protocol: int | None = None
    sources: tuple[IPv4Network | IPv6Network, ...] = ()
    destinations: tuple[IPv4Network | IPv6Network, ...] = ()
    source_ports: tuple[tuple[int, int], ...] = ()  # inclusive ranges
    destination_ports: tuple[tuple[int, int], ...] = ()
    vlan: int | None = None  # the outermost tag's id
    ethertype: int | None = None  # behind the tags


@dataclass(frozen=True, slots=True)
class Guard:
    """Tunnel packets of a configured destination or listener, which are copies and not to be mirrored again.

    An IP packet of this protocol (17 UDP or 47 GRE) with `address` at either end; UDP also needs `port` as its
    destination port, except in a later fragment, which shows none. Family 0 of `address` (0.0.0.0, ::): any address
    of that family.
    """

    address: IPv4Address | IPv6Address
    protocol: int
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """What one pipeline captures from its device."""

    direction: Direction = Direction.BOTH
    rules: tuple[Rule, ...] | None = None  # None: no filter, every frame
    vlans: frozenset[int] | None = None  # the source's: only frames whose outermost tag is one of these
    mark: int = 0
    mark_mask: int = 0  # 0: no mark is tested
    guards: tuple[Guard, ...] = ()
