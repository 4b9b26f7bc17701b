"""What it is to take an address, and to give it back, in rtnetlink: the address, the rule that records it, the routes.

rtnetlink(7), linux/if_addr.h, linux/fib_rules.h
"""

from __future__ import annotations

import errno
from contextlib import suppress
from ipaddress import ip_address
from typing import NamedTuple

from mirrord import kernel
from mirrord.control.host.leases_in_kernel import Held
from mirrord.control.host.obstacles import ROUTE_PROTOCOL
from mirrord.control.host.rtnetlink import ADDRESS, NUMBER, ROUTE, RULE, Rtnetlink, attribute, attributes
from mirrord.values.addresses import Address, Network


class Placed(NamedTuple):
    """How an address is on this host."""

    device_index: int
    prefix_length: int
    flags: int

    @property
    def ready(self) -> bool:
        """Whether it may be used: the kernel probes an IPv6 address first (RFC 4862 5.4)."""
        return not self.flags & kernel.IFA_F_TENTATIVE

    @property
    def duplicate(self) -> bool:
        """Whether the kernel has found that another host has it."""
        return bool(self.flags & kernel.IFA_F_DADFAILED)


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
        for body in self._netlink.dump(kernel.RTM_GETADDR, ADDRESS.pack(0, 0, 0, 0, device_index)):
            _, prefix_length, flags, _, index = ADDRESS.unpack_from(body)
            facts = attributes(body, ADDRESS.size)
            found[ip_address(facts.get(kernel.IFA_LOCAL) or facts[kernel.IFA_ADDRESS])] = Placed(
                index, prefix_length, flags
            )
        return found

    def add_address(self, held: Held, prefix_length: int) -> None:
        """Without the route that it would bring. PermissionError, in words, where IPv6 is turned off."""
        try:
            self._ask(kernel.RTM_NEWADDR, self._address(held, prefix_length), kernel.NLM_F_CREATE | kernel.NLM_F_EXCL)
        except PermissionError as error:
            if error.errno == errno.EACCES:
                raise PermissionError(errno.EACCES, "IPv6 is turned off there (disable_ipv6)") from error
            raise

    def remove_address(self, held: Held) -> None:
        """Take it off its device, where it still is there."""
        with suppress(OSError):  # gone by itself, or with the device
            if placed := self.addresses(held.device_index).get(held.address):
                self._ask(kernel.RTM_DELADDR, self._address(held, placed.prefix_length))

    def _address(self, held: Held, prefix_length: int) -> bytes:
        packed, flags = held.address.packed, NUMBER.pack(kernel.IFA_F_NOPREFIXROUTE)
        body = ADDRESS.pack(held.family, prefix_length, 0, kernel.RT_SCOPE_UNIVERSE, held.device_index)
        return (
            body
            + attribute(kernel.IFA_LOCAL, packed)
            + attribute(kernel.IFA_ADDRESS, packed)
            + attribute(kernel.IFA_FLAGS, flags)
        )

    def add_rule(self, held: Held) -> None:
        """Route what comes from the address by its table."""
        self._ask(kernel.RTM_NEWRULE, _rule(held), kernel.NLM_F_CREATE | kernel.NLM_F_EXCL)

    def remove_rule(self, held: Held) -> None:
        """Route it by the other rules again."""
        with suppress(OSError):
            self._ask(kernel.RTM_DELRULE, _rule(held))

    def put_routes(self, held: Held, network: Network, gateway: Address | None) -> None:
        """Fill the table: the network, and the gateway or an unreachable default route; nothing else."""
        far = (
            _Route(b"", 0, gateway.packed, kernel.RTN_UNICAST)
            if gateway
            else _Route(b"", 0, b"", kernel.RTN_UNREACHABLE)
        )
        near = _Route(network.network_address.packed, network.prefixlen, b"", kernel.RTN_UNICAST)
        if {near, far} == {_route(body) for body in self._routes(held)}:
            return
        self.flush_routes(held)
        for route in (near, far):  # the gateway is found by the first
            body = ROUTE.pack(
                held.family, route.length, 0, 0, 0, ROUTE_PROTOCOL,
                kernel.RT_SCOPE_LINK if route == near else kernel.RT_SCOPE_UNIVERSE, route.kind, 0,
            ) + attribute(kernel.RTA_TABLE, NUMBER.pack(held.table))  # fmt: skip
            if route.destination:
                body += attribute(kernel.RTA_DST, route.destination)
            if route.gateway:
                body += attribute(kernel.RTA_GATEWAY, route.gateway)
            if route.kind == kernel.RTN_UNICAST:
                body += attribute(kernel.RTA_OIF, NUMBER.pack(held.device_index))
            with suppress(FileExistsError):
                self._ask(kernel.RTM_NEWROUTE, body, kernel.NLM_F_CREATE | kernel.NLM_F_EXCL)

    def flush_routes(self, held: Held) -> None:
        """Empty the table of the address's family."""
        for body in self._routes(held):
            with suppress(OSError):
                self._ask(kernel.RTM_DELROUTE, body)

    def _routes(self, held: Held) -> list[bytes]:
        question = ROUTE.pack(held.family, *bytes(7), 0) + attribute(kernel.RTA_TABLE, NUMBER.pack(held.table))
        try:
            return self._netlink.dump(kernel.RTM_GETROUTE, question)
        except FileNotFoundError:  # there is no such table
            return []

    def _ask(self, kind: int, body: bytes, flags: int = 0) -> None:
        self._netlink.ask(kind, body, flags)


def _rule(held: Held) -> bytes:
    source = held.address.packed
    return (
        RULE.pack(held.family, 0, 8 * len(source), 0, 0, 0, 0, kernel.FR_ACT_TO_TBL, 0)
        + attribute(kernel.FRA_SRC, source)
        + attribute(kernel.FRA_TABLE, NUMBER.pack(held.table))
        + attribute(kernel.FRA_PRIORITY, NUMBER.pack(held.priority))
        + attribute(kernel.FRA_PROTOCOL, bytes([ROUTE_PROTOCOL]))
    )


def _route(body: bytes) -> _Route:
    facts = attributes(body, ROUTE.size)
    _, length, _, _, _, _, _, kind, _ = ROUTE.unpack_from(body)
    return _Route(facts.get(kernel.RTA_DST, b""), length, facts.get(kernel.RTA_GATEWAY, b""), kind)
