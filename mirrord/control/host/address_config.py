"""What it is to take an address, and to give it back, in rtnetlink: the address, the rule that records it, the routes.

rtnetlink(7), linux/if_addr.h, linux/fib_rules.h
"""

from __future__ import annotations

import errno
import struct
from contextlib import suppress
from ipaddress import ip_address
from typing import NamedTuple

from mirrord.control.host.leases_in_kernel import (
    FRA_PRIORITY,
    FRA_PROTOCOL,
    FRA_SRC,
    FRA_TABLE,
    Held,
)
from mirrord.control.host.obstacles import ROUTE_PROTOCOL
from mirrord.control.host.rtnetlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Rtnetlink,
    attribute,
    attributes,
)
from mirrord.values import Address, Network

# linux/rtnetlink.h
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWRULE, RTM_DELRULE = 32, 33
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_TABLE = 1, 4, 5, 15
RTN_UNICAST, RTN_UNREACHABLE = 1, 7
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
FR_ACT_TO_TBL = 1  # linux/fib_rules.h
# linux/if_addr.h
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_DADFAILED, IFA_F_TENTATIVE, IFA_F_NOPREFIXROUTE = 0x08, 0x40, 0x200

_ADDRESS = struct.Struct("=4BI")  # family, prefix length, flags, scope, device (struct ifaddrmsg)
_ROUTE = struct.Struct("=8BI")  # family, lengths of destination and source, tos, table, protocol, scope, type, flags
_RULE = struct.Struct("=8BI")  # the same but for action in type's place (struct fib_rule_hdr)
_NUMBER = struct.Struct("=I")


class Placed(NamedTuple):
    """How an address is on this host."""

    device_index: int
    prefix_length: int
    flags: int

    @property
    def ready(self) -> bool:
        """Whether it may be used: the kernel probes an IPv6 address first (RFC 4862 5.4)."""
        return not self.flags & IFA_F_TENTATIVE

    @property
    def duplicate(self) -> bool:
        """Whether the kernel has found that another host has it."""
        return bool(self.flags & IFA_F_DADFAILED)


class _Route(NamedTuple):
    destination: bytes  # b"": the default route
    length: int
    gateway: bytes
    kind: int


class Taking:
    """Orders to the kernel, by one thread and in its network namespace. OSError with the kernel's errno."""

    def __init__(self) -> None:
        self._netlink = Rtnetlink()

    def close(self) -> None:
        self._netlink.close()

    def addresses(self, device_index: int = 0) -> dict[Address, Placed]:
        """Every address of this host, or of one device; link-local ones may be on several, and count once."""
        found = {}
        for body in self._netlink.dump(RTM_GETADDR, _ADDRESS.pack(0, 0, 0, 0, device_index)):
            _, prefix_length, flags, _, index = _ADDRESS.unpack_from(body)
            facts = attributes(body, _ADDRESS.size)
            found[ip_address(facts.get(IFA_LOCAL) or facts[IFA_ADDRESS])] = Placed(index, prefix_length, flags)
        return found

    def add_address(self, held: Held, prefix_length: int) -> None:
        """Without the route that it would bring. PermissionError, in words, where IPv6 is turned off."""
        try:
            self._ask(RTM_NEWADDR, self._address(held, prefix_length), NLM_F_CREATE | NLM_F_EXCL)
        except PermissionError as error:
            if error.errno == errno.EACCES:
                raise PermissionError(errno.EACCES, "IPv6 is turned off there (disable_ipv6)") from error
            raise

    def remove_address(self, held: Held) -> None:
        """Take it off its device, where it still is there."""
        with suppress(OSError):  # gone by itself, or with the device
            if placed := self.addresses(held.device_index).get(held.address):
                self._ask(RTM_DELADDR, self._address(held, placed.prefix_length))

    def _address(self, held: Held, prefix_length: int) -> bytes:
        packed, flags = held.address.packed, _NUMBER.pack(IFA_F_NOPREFIXROUTE)
        body = _ADDRESS.pack(held.family, prefix_length, 0, RT_SCOPE_UNIVERSE, held.device_index)
        return body + attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed) + attribute(IFA_FLAGS, flags)

    def add_rule(self, held: Held) -> None:
        """Have what comes from the address look at its table."""
        self._ask(RTM_NEWRULE, _rule(held), NLM_F_CREATE | NLM_F_EXCL)

    def remove_rule(self, held: Held) -> None:
        """Have it do so no more."""
        with suppress(OSError):
            self._ask(RTM_DELRULE, _rule(held))

    def put_routes(self, held: Held, network: Network, gateway: Address | None) -> None:
        """Have the table hold the network, the gateway or the word that there is none, and nothing else."""
        far = _Route(b"", 0, gateway.packed, RTN_UNICAST) if gateway else _Route(b"", 0, b"", RTN_UNREACHABLE)
        near = _Route(network.network_address.packed, network.prefixlen, b"", RTN_UNICAST)
        if {near, far} == {_route(body) for body in self._routes(held)}:
            return
        self.flush_routes(held)
        for route in (near, far):  # the gateway is found by the first
            body = _ROUTE.pack(
                held.family, route.length, 0, 0, 0, ROUTE_PROTOCOL,
                RT_SCOPE_LINK if route == near else RT_SCOPE_UNIVERSE, route.kind, 0,
            ) + attribute(RTA_TABLE, _NUMBER.pack(held.table))  # fmt: skip
            if route.destination:
                body += attribute(RTA_DST, route.destination)
            if route.gateway:
                body += attribute(RTA_GATEWAY, route.gateway)
            if route.kind == RTN_UNICAST:
                body += attribute(RTA_OIF, _NUMBER.pack(held.device_index))
            with suppress(FileExistsError):
                self._ask(RTM_NEWROUTE, body, NLM_F_CREATE | NLM_F_EXCL)

    def flush_routes(self, held: Held) -> None:
        """Empty the table of the address's family."""
        for body in self._routes(held):
            with suppress(OSError):
                self._ask(RTM_DELROUTE, body)

    def _routes(self, held: Held) -> list[bytes]:
        question = _ROUTE.pack(held.family, *bytes(7), 0) + attribute(RTA_TABLE, _NUMBER.pack(held.table))
        try:
            return self._netlink.dump(RTM_GETROUTE, question)
        except FileNotFoundError:  # there is no such table
            return []

    def _ask(self, kind: int, body: bytes, flags: int = 0) -> None:
        self._netlink.ask(kind, body, flags)


def _rule(held: Held) -> bytes:
    source = held.address.packed
    return (
        _RULE.pack(held.family, 0, 8 * len(source), 0, 0, 0, 0, FR_ACT_TO_TBL, 0)
        + attribute(FRA_SRC, source)
        + attribute(FRA_TABLE, _NUMBER.pack(held.table))
        + attribute(FRA_PRIORITY, _NUMBER.pack(held.priority))
        + attribute(FRA_PROTOCOL, bytes([ROUTE_PROTOCOL]))
    )


def _route(body: bytes) -> _Route:
    facts = attributes(body, _ROUTE.size)
    _, length, _, _, _, _, _, kind, _ = _ROUTE.unpack_from(body)
    return _Route(facts.get(RTA_DST, b""), length, facts.get(RTA_GATEWAY, b""), kind)
