"""Addresses and networks."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, NamedTuple

from mirrord.values.written import TEXT, TEXT_OR_LIST, Written, one_or_more, shown_by, unexpected

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


def parse_address(value: object) -> Address:
    """Return the address that a text is; a number is none. Each has one way to be written, so that equals are seen."""
    if isinstance(value, (IPv4Address, IPv6Address)):
        return value
    try:
        address = ip_address(value) if isinstance(value, str) else None  # it would take a number, too
    except ValueError:
        address = None
    if address is None:
        raise ValueError(f"{unexpected('an IPv4 or IPv6 address', value)}{_no_address(value)}")
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        raise unexpected(f"an IPv4 address written as such, {address.ipv4_mapped}", value)
    if isinstance(address, IPv6Address) and address.scope_id and not address.is_link_local:
        raise unexpected("a zone behind a link-local address only", value)
    return address


def _no_address(value: object) -> str:
    """What to do about a text that is none, where it is known what it is."""
    if not isinstance(value, str):
        return ""
    if re.fullmatch(r"[0-9.]+:[0-9]+|\[.*\]:[0-9]+", value):
        return "; a port has a key of its own"
    return "" if re.fullmatch(r"[0-9a-fA-F.:/%]*", value) else "; names are not looked up"


def parse_network(value: object) -> Network:
    """Return the network of "192.168.0.0/24", or of one address."""
    if isinstance(value, (IPv4Network, IPv6Network)):
        return value
    if isinstance(value, str) and "%" not in value:
        try:
            network = ip_network(value, strict=False)
        except ValueError:
            pass
        else:
            if str(network.network_address) != str(ip_address(value.partition("/")[0])):
                raise unexpected(f"a network without bits behind its prefix, such as {network}", value)
            return network
    raise unexpected('a network such as "192.168.0.0/24" or "2001:db8::/32"', value)


def _network_list(value: object) -> tuple[Network, ...]:
    return () if value in ([], ()) else one_or_more(parse_network)(value)


class AddressRange(NamedTuple):
    """Addresses of one link, from `first` to `last`, inclusive."""

    first: Address
    last: Address
    prefix_length: int

    @property
    def network(self) -> Network:
        """The network of the link."""
        return ip_network(f"{self.first}/{self.prefix_length}", strict=False)

    def __str__(self) -> str:
        first = f"{self.first}" if self.first == self.last else f"{self.first}-{self.last}"
        return f"{first}/{self.prefix_length}"


def parse_address_range(value: object) -> AddressRange:
    """One address or a range, with the link's prefix length: "192.0.2.10-192.0.2.20/24"."""
    if isinstance(value, AddressRange):
        return value
    match = re.fullmatch(r"([^-/%]+)(?:-([^-/%]+))?/([0-9]{1,3})", value) if isinstance(value, str) else None
    expected = 'an address or a range with its prefix length, such as "192.0.2.10-192.0.2.20/24"'
    if match is None:
        raise unexpected(expected, value)
    try:
        found = AddressRange(ip_address(match[1]), ip_address(match[2] or match[1]), int(match[3]))
        network = found.network
    except ValueError:
        raise unexpected(expected, value) from None
    if found.last not in network or int(found.first) > int(found.last):
        raise unexpected(f"a range that ascends within {network}", value)
    # RFC 1122 3.2.1.3; RFC 4291 2.6.1, from which RFC 6164 5.1 excepts links of two.
    reserved, which = {network.network_address}, "the first"
    if network.version == 4:
        reserved, which = {*reserved, network.broadcast_address}, "the first or the last"
    if network.num_addresses > 2 and reserved & {found.first, found.last}:
        raise unexpected(f"addresses that a host may have, as {which} of {network} may not be one", value)
    if network.is_multicast or network.is_loopback:
        raise unexpected("addresses that copies may come from: neither multicast nor loopback ones", value)
    if network.version == 6 and network.is_link_local:
        raise unexpected("addresses that a collector may see copies come from, not link-local ones", value)
    return found


AnyAddress = Annotated[Address, Written(parse_address, str, TEXT)]
Remotes = Annotated[tuple[Address, ...], Written(one_or_more(parse_address), shown_by(str), TEXT_OR_LIST)]
Networks = Annotated[tuple[Network, ...], Written(one_or_more(parse_network), shown_by(str), TEXT_OR_LIST)]
NetworkList = Annotated[
    tuple[Network, ...],
    Written(_network_list, lambda networks: [str(network) for network in networks], TEXT_OR_LIST),
]
Addresses = Annotated[AddressRange, Written(parse_address_range, str, TEXT)]
