"""Filters and their rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from mirrord.model.base import DirectionName, Model, repeated, too_many
from mirrord.protocols import TPIDS
from mirrord.values.addresses import Networks
from mirrord.values.matches import Dscps, IcmpNumbers, Lengths, Macs, TcpFlags
from mirrord.values.names import Description
from mirrord.values.ports import Ports, Protocol, VlanId, show_protocol
from mirrord.values.written import Between

ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
MOST_RULES = 10_000  # of a filter
ETHERTYPE_FAMILIES = {0x0800: 4, 0x86DD: 6}
IPV6_EXTENSIONS = (0, 43, 44, 51, 60, 135, 139, 140)  # RFC 7045 appendix A, less ESP, which hides what follows


class Rule(Model):
    """One line of a filter; a key that is None matches anything."""

    priority: Annotated[int, Between(1, 65535)]
    """Rules are tried in ascending priority. Unique in its filter."""
    action: Literal["accept", "reject"]
    """Copy what matches, or leave it out."""
    direction: DirectionName = "both"
    """Matches frames of this direction, in the session's perspective."""
    family: Literal["ipv4", "ipv6"] | None = None
    """Matches IPv4 or IPv6."""
    protocol: Protocol | None = None
    """IP protocol, by name or number. IPv6 extension headers (hop-by-hop, routing, fragment, ah and their like) are
    looked through, so that their numbers go with `family = "ipv4"` alone."""
    source: Networks | None = None
    """A network or a list of networks that the source address is in."""
    destination: Networks | None = None
    """The same of the destination address."""
    source_ports: Ports | None = None
    """A port, a range or a list of both; with protocol tcp, udp or sctp. Never matches a later fragment."""
    destination_ports: Ports | None = None
    """The same of the destination port."""
    vlan: VlanId | None = None
    """The id of the outermost VLAN tag. TPIDs 0x8100, 0x88a8, 0x9100 and 0x9200 are tags."""
    ethertype: Annotated[int, Between(0x0600, 0xFFFF)] | None = None  # below 0x0600 it is a length, IEEE 802.3 3.2.6
    """The ethertype behind the VLAN tags, of which two are looked through. What lies behind a third one has no address,
    protocol or port."""
    source_mac: Macs | None = None
    """A MAC address or a list of them: one of them is the frame's source."""
    destination_mac: Macs | None = None
    """The same of the destination MAC address."""
    length: Lengths | None = None
    """Bytes of the frame, from the Ethernet header on, VLAN tags included and without FCS: a number, a range, or one
    that is open at an end, or a list of them. A super-frame has the length that it has before it is split."""
    dscp: Dscps | None = None
    """A number or a list of numbers, of which the DSCP in the IPv4 or IPv6 header is one."""
    tcp_flags: TcpFlags | None = None
    """The flags of a TCP header: "syn" matches where SYN is set, "syn,!ack" where besides ACK is not; a list, where one
    of its items does. They are fin, syn, rst, psh, ack, urg, ece and cwr. With protocol tcp; never matches a later
    fragment."""
    icmp_type: IcmpNumbers | None = None
    """A number or a list of numbers; with protocol icmp or icmpv6, whose numbers differ. Never matches a later
    fragment."""
    icmp_code: IcmpNumbers | None = None
    """The same of the code."""

    def _contradictions(self) -> Iterator[tuple[str, ...]]:
        for key in ("source_ports", "destination_ports"):
            if getattr(self, key) is None or self.protocol in (TCP, UDP, SCTP):
                continue
            if self.protocol is None:
                yield key, "ports need a protocol: name tcp, udp or sctp", "protocol"
            else:
                yield key, f"protocol {show_protocol(self.protocol)} has no ports; only tcp, udp and sctp have"
        yield from self._transports()
        if self.protocol in IPV6_EXTENSIONS and self.family != "ipv4":
            name = show_protocol(self.protocol)
            why = f"{name} is an extension header in IPv6, which is looked through: name the protocol behind it"
            yield "protocol", f'{why}, or add family = "ipv4" for the protocol field of IPv4'
        if self.ethertype in TPIDS:
            yield "ethertype", f"{self.ethertype:#06x} is a VLAN tag's, which is looked through: match it by vlan"
        yield from self._families()

    def _transports(self) -> Iterator[tuple[str, ...]]:
        """Keys that ask for what no header of the protocol has."""
        for key, protocols, named in (
            ("tcp_flags", (TCP,), "tcp"),
            ("icmp_type", (ICMP, ICMPV6), "icmp or icmpv6"),
            ("icmp_code", (ICMP, ICMPV6), "icmp or icmpv6"),
        ):
            if getattr(self, key) is None or self.protocol in protocols:
                continue
            if self.protocol is None:
                yield key, f"{key} needs a protocol: name {named}", "protocol"
            else:
                yield key, f"protocol {show_protocol(self.protocol)} has no {key}; only {named} has"

    def _families(self) -> Iterator[tuple[str, str]]:
        """Keys that leave no IP version for the ones before them."""
        possible, because = {4, 6}, ""
        for key, versions in self._versions():
            if not possible & versions:
                yield key, f"IPv{min(versions)} only, but {because} is IPv{min(possible)} only: no frame can match"
                return
            if not possible <= versions:
                possible, because = possible & versions, key
        keys = ("family", "protocol", "source", "destination", "dscp")
        used = next((key for key in keys if getattr(self, key) is not None), None)
        if used and self.ethertype is not None and self.ethertype not in ETHERTYPE_FAMILIES:
            yield "ethertype", f"{self.ethertype:#06x} is not IP, but {used} asks for IP: no frame can match"

    def _versions(self) -> Iterator[tuple[str, set[int]]]:
        if self.family is not None:
            yield "family", {int(self.family[-1])}
        for key, networks in (("source", self.source), ("destination", self.destination)):
            if networks is not None:
                yield key, {network.version for network in networks}
        if self.protocol in (ICMP, ICMPV6):
            yield "protocol", {4 if self.protocol == ICMP else 6}
        if self.ethertype in ETHERTYPE_FAMILIES:
            yield "ethertype", {ETHERTYPE_FAMILIES[self.ethertype]}


class Filter(Model):
    """Rules, tried in ascending priority; the first match decides."""

    description: Description = ""
    """For people."""
    rules: tuple[Rule, ...]
    """At least one, at most 10,000. The first that matches decides; a frame that none matches is not copied."""

    def _contradictions(self) -> Iterator[tuple[str, ...]]:
        if not self.rules:
            yield "rules", "expected at least one rule: a filter without rules copies nothing", "rules"
        yield from too_many("rules", self.rules, MOST_RULES)
        yield from repeated("rules", "priority", [rule.priority for rule in self.rules])
