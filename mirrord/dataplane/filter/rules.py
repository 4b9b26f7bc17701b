"""Which frames a pipeline captures. The matcher here defines the meaning; bpf.py has the kernel do the same.

A selection is all that decides it: the session's direction, the tags of its source, mirrord's own mark, and the
filter's rules. Directions are the host's; a guest's perspective is turned around before.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

from mirrord.dataplane.frame.headers import Headers


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
    source_macs: tuple[bytes, ...] = ()
    destination_macs: tuple[bytes, ...] = ()
    lengths: tuple[tuple[int, int], ...] = ()  # inclusive ranges
    dscps: tuple[int, ...] = ()
    tcp_flags: tuple[tuple[int, int], ...] = ()  # masks, and what is under them
    icmp_types: tuple[int, ...] = ()  # of ICMP and ICMPv6
    icmp_codes: tuple[int, ...] = ()

    @property
    def sketch(self) -> tuple[object, ...]:
        """What mostly tells it from another rule."""
        addresses, ports = (
            (self.sources[:1], self.destinations[:1]),
            (self.source_ports[:1], self.destination_ports[:1]),
        )
        return (self.protocol, self.vlan, *addresses, *ports)


@dataclass(frozen=True, slots=True)
class Selection:
    """What one pipeline captures from its device."""

    direction: Direction = Direction.BOTH
    rules: tuple[Rule, ...] | None = None  # None: no filter, every frame
    vlans: frozenset[int] | None = None  # the source's: only frames whose outermost tag is one of these
    mark: int = 0
    mark_mask: int = 0  # 0: no mark is tested
    before: tuple[Selection, ...] = ()  # what these accept, each without its own `before`, is not this one's

    def __hash__(self) -> int:
        """Of what is cheap to look at: a host has hundreds of selections, each of perhaps thousands of rules."""
        sizes = (None if self.rules is None else len(self.rules)), len(self.before)
        first = self.rules[0].sketch if self.rules else ()
        return hash((self.direction, self.vlans, self.mark, self.mark_mask, sizes, first))


class Reason(enum.StrEnum):
    """What decided about a frame, in the order in which it is asked."""

    MARKED = "marked"  # mirrord's own mark: a copy
    DIRECTION = "direction"  # not the selection's
    VLAN = "vlan"  # not one of the source's
    NO_FILTER = "no filter"  # every frame is wanted
    RULE = "rule"  # the first that matched
    UNMATCHED = "unmatched"  # no rule matched
    BEFORE = "before"  # accepted, but a selection that comes before accepts it too


class Decision(NamedTuple):
    """Whether a frame is captured, and why: `rule` is the one that decided, if one did."""

    accept: bool
    reason: Reason
    rule: Rule | None = None


def decide(selection: Selection, headers: Headers, *, egress: bool, mark: int = 0) -> Decision:
    """Whether the selection captures this frame. This is the definition; bpf.py compiles the same."""
    decision = _alone(selection, headers, egress=egress, mark=mark)
    if decision.accept and any(_alone(one, headers, egress=egress, mark=mark).accept for one in selection.before):
        return decision._replace(accept=False, reason=Reason.BEFORE)
    return decision


def _alone(selection: Selection, headers: Headers, *, egress: bool, mark: int) -> Decision:
    """What the selection decides if none comes before it."""
    direction = Direction.EGRESS if egress else Direction.INGRESS
    if selection.mark_mask and mark & selection.mark_mask == selection.mark:
        return Decision(accept=False, reason=Reason.MARKED)
    if not selection.direction & direction:
        return Decision(accept=False, reason=Reason.DIRECTION)
    if selection.vlans is not None and _vlan(headers) not in selection.vlans:
        return Decision(accept=False, reason=Reason.VLAN)
    if selection.rules is None:
        return Decision(accept=True, reason=Reason.NO_FILTER)
    for rule in sorted(selection.rules, key=lambda rule: rule.priority):
        if rule.direction & direction and mismatch(rule, headers) is None:
            return Decision(rule.accept, Reason.RULE, rule=rule)
    return Decision(accept=False, reason=Reason.UNMATCHED)


def accepts(selection: Selection, headers: Headers, *, egress: bool, mark: int = 0) -> bool:
    """Whether the selection captures this frame."""
    return decide(selection, headers, egress=egress, mark=mark).accept


def _vlan(headers: Headers) -> int | None:
    return headers.tags[0].vid if headers.tags else None


def mismatch(rule: Rule, headers: Headers) -> str | None:
    """The first field of the rule that this frame does not meet; None: it meets all. The direction is not asked."""
    if rule.family not in (None, headers.family):
        return "family"
    if rule.protocol not in (None, headers.protocol):
        return "protocol"
    if rule.vlan not in (None, _vlan(headers)):
        return "vlan"
    if rule.ethertype not in (None, headers.ethertype):
        return "ethertype"
    if not _within(rule.sources, headers.family, headers.source):
        return "source"
    if not _within(rule.destinations, headers.family, headers.destination):
        return "destination"
    if not _between(rule.source_ports, headers.source_port):
        return "source_ports"
    if not _between(rule.destination_ports, headers.destination_port):
        return "destination_ports"
    return _detail(rule, headers)


def _detail(rule: Rule, headers: Headers) -> str | None:
    """The same of what is asked beside addresses and ports."""
    if rule.source_macs and headers.source_mac not in rule.source_macs:
        return "source_mac"
    if rule.destination_macs and headers.destination_mac not in rule.destination_macs:
        return "destination_mac"
    if not _between(rule.lengths, headers.length):
        return "length"
    if rule.dscps and headers.dscp not in rule.dscps:
        return "dscp"
    if rule.icmp_types and headers.icmp_type not in rule.icmp_types:
        return "icmp_type"
    if rule.icmp_codes and headers.icmp_code not in rule.icmp_codes:
        return "icmp_code"
    flags = headers.tcp_flags
    if rule.tcp_flags and (flags is None or all(flags & mask != value for mask, value in rule.tcp_flags)):
        return "tcp_flags"
    return None


def _within(networks: tuple[IPv4Network | IPv6Network, ...], family: int, address: bytes) -> bool:
    if not networks:
        return True
    if family == 0:
        return False
    ip = IPv4Address(address) if family == 4 else IPv6Address(address)
    return any(ip in network for network in networks)


def _between(ranges: tuple[tuple[int, int], ...], number: int | None) -> bool:
    return not ranges or (number is not None and any(low <= number <= high for low, high in ranges))
