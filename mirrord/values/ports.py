"""Protocols and ports, where a service listens, and VLANs."""

from __future__ import annotations

import re
from typing import Annotated, NamedTuple

from mirrord.values.addresses import parse_address
from mirrord.values.written import (
    NUMBER_OR_LIST,
    TEXT,
    TEXT_OR_LIST,
    Between,
    Written,
    one_or_more,
    same,
    shown_by,
    unexpected,
)

PROTOCOLS = {
    "icmp": 1,
    "igmp": 2,
    "ipip": 4,
    "tcp": 6,
    "udp": 17,
    "dccp": 33,
    "ipv6": 41,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "ipv6-icmp": 58,
    "icmpv6": 58,
    "ospf": 89,
    "pim": 103,
    "vrrp": 112,
    "sctp": 132,
    "udplite": 136,
}
"""Names for IP protocol numbers (IANA, Assigned Internet Protocol Numbers); the same on every host.

Of two for one number the last is shown.
"""

_NAMES = {number: name for name, number in PROTOCOLS.items()}


def parse_protocol(value: object) -> int:
    """Return the number of an IP protocol given by name or number."""
    named = PROTOCOLS.get(value.lower()) if isinstance(value, str) else None
    if named is not None:
        return named
    try:
        return Between(0, 255).parse(value)
    except ValueError:
        raise unexpected(f"a protocol: {', '.join(PROTOCOLS)} or a number from 0 to 255", value) from None


def show_protocol(number: int) -> str | int:
    """Return the protocol's name, or its number if it has none here."""
    return _NAMES.get(number, number)


def parse_ports(value: object) -> tuple[int, int]:
    """The inclusive range of "80", 80 or "1000-2000"."""
    if isinstance(value, tuple):
        low, high = value
        return low, high
    text = str(value) if type(value) is int else value
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text) if isinstance(text, str) else None
    if match:
        low, high = int(match[1]), int(match[2] or match[1])
        if low <= high <= 65535:
            return low, high
    several = "; several are a list" if isinstance(value, str) and "," in value else ""
    told = unexpected('ports such as "80" or "1000-2000", at most 65535', value)
    raise ValueError(f"{told}{several}")


def show_ports(ports: tuple[int, int]) -> str:
    """Return "80" or "1000-2000"."""
    return f"{ports[0]}" if ports[0] == ports[1] else f"{ports[0]}-{ports[1]}"


class Endpoint(NamedTuple):
    """Where a TCP service listens."""

    host: str
    port: int


_LISTEN = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9.-]+)):([0-9]{1,5})")


_LISTEN_EXPECTED = 'an address and a port such as "127.0.0.1:9817" or "[::1]:9817", or "" for none'


def _listen(value: object, expected: str = _LISTEN_EXPECTED) -> Endpoint | None:
    if value is None or isinstance(value, Endpoint):
        return value
    if value == "":
        return None
    match = _LISTEN.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 1 <= int(match[3]) <= 65535:
        raise unexpected(expected, value)
    return Endpoint(match[1] or match[2], int(match[3]))


def _stream_listen(value: object) -> Endpoint:
    """An address of this host, 0.0.0.0 and :: among them, and a port."""
    expected = 'an address and a port such as "127.0.0.1:57012" or "[::1]:57012"'
    endpoint = _listen(value, expected)
    if endpoint is None:
        raise unexpected(expected, value)
    return Endpoint(str(parse_address(endpoint.host)), endpoint.port)


def _show_listen(endpoint: Endpoint | None) -> str:
    if endpoint is None:
        return ""
    return f"[{endpoint.host}]:{endpoint.port}" if ":" in endpoint.host else f"{endpoint.host}:{endpoint.port}"


Protocol = Annotated[int, Written(parse_protocol, show_protocol, {"anyOf": [TEXT, {"type": "integer"}]})]
Ports = Annotated[tuple[tuple[int, int], ...], Written(one_or_more(parse_ports), shown_by(show_ports), TEXT_OR_LIST)]
StreamListen = Annotated[Endpoint, Written(_stream_listen, _show_listen, TEXT)]
Listen = Annotated[Endpoint | None, Written(_listen, _show_listen, TEXT)]


_LIVENESS = re.compile(r"auto|icmp|off|tcp:(?P<port>[0-9]{1,5})")


def _liveness(value: object) -> str:
    found = _LIVENESS.fullmatch(value) if isinstance(value, str) else None
    if found is None or (found["port"] and not 0 < int(found["port"]) < 65536):
        raise unexpected('"auto", "icmp", "tcp:PORT" or "off"', value)
    return found[0]


Liveness = Annotated[str, Written(_liveness, same, TEXT)]


VlanId = Annotated[int, Between(1, 4094)]
VlanIds = Annotated[tuple[int, ...], Written(one_or_more(Between(1, 4094).parse), shown_by(same), NUMBER_OR_LIST)]
