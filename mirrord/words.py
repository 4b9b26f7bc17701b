"""A frame in words, and the words in which it differs from what a rule wants."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from mirrord.dataplane.filter.rules import Direction, Rule, mismatch
from mirrord.dataplane.frame.headers import Headers
from mirrord.values.matches import show_length, show_tcp_flags
from mirrord.values.ports import show_ports, show_protocol


def why(rule: Rule, headers: Headers, *, egress: bool) -> dict[str, str]:
    """The field by which a rule does not match: what it wants, and what the packet has."""
    direction = Direction.EGRESS if egress else Direction.INGRESS
    if not rule.direction & direction:
        return {"field": "direction", "wanted": str(rule.direction.name).lower(), "found": str(direction.name).lower()}
    name = mismatch(rule, headers)
    assert name is not None  # else it would have decided
    wanted, found = _compared(name, rule, headers)
    return {"field": name, "wanted": wanted, "found": found}


def _compared(name: str, rule: Rule, headers: Headers) -> tuple[str, str]:
    match name:
        case "family":
            return f"ipv{rule.family}", _family(headers)
        case "protocol":
            return str(show_protocol(rule.protocol or 0)), _protocol(headers)
        case "vlan":
            return str(rule.vlan), str(headers.tags[0].vid) if headers.tags else "no tag"
        case "ethertype":
            return f"{rule.ethertype:#06x}", f"{headers.ethertype:#06x}"
        case "source" | "destination":
            networks = rule.sources if name == "source" else rule.destinations
            address = headers.source if name == "source" else headers.destination
            return " or ".join(map(str, networks)), _address(headers, address)
        case "source_mac" | "destination_mac" | "length" | "dscp" | "tcp_flags" | "icmp_type" | "icmp_code":
            return _detail(name, rule, headers)
        case _:
            ports = rule.source_ports if name == "source_ports" else rule.destination_ports
            port = headers.source_port if name == "source_ports" else headers.destination_port
            return " or ".join(map(show_ports, ports)), _absent(headers, "no port") if port is None else str(port)


def _detail(name: str, rule: Rule, headers: Headers) -> tuple[str, str]:
    """The same of what is asked beside addresses and ports."""
    wanted: Iterable[object]
    match name:
        case "source_mac" | "destination_mac":
            macs = rule.source_macs if name == "source_mac" else rule.destination_macs
            mac = headers.source_mac if name == "source_mac" else headers.destination_mac
            wanted, found = (one.hex(":") for one in macs), mac.hex(":") or "no Ethernet header"
        case "length":
            wanted, found = map(show_length, rule.lengths), str(headers.length)
        case "dscp":
            wanted, found = rule.dscps, _family(headers) if headers.dscp is None else str(headers.dscp)
        case "tcp_flags":
            wanted, found = map(show_tcp_flags, rule.tcp_flags), _flags(headers)
        case _:
            number = headers.icmp_type if name == "icmp_type" else headers.icmp_code
            wanted = rule.icmp_types if name == "icmp_type" else rule.icmp_codes
            found = _absent(headers, "no ICMP header") if number is None else str(number)
    return " or ".join(map(str, wanted)), found


def _flags(headers: Headers) -> str:
    flags = headers.tcp_flags
    if flags is None:
        return _absent(headers, "no TCP header")
    return show_tcp_flags((flags, flags)) or "none"


def _absent(headers: Headers, otherwise: str) -> str:
    return "a later fragment" if headers.fragment and headers.transport is None else otherwise


def _family(headers: Headers) -> str:
    return f"ipv{headers.family}" if headers.family else f"ethertype {headers.ethertype:#06x}"


def _protocol(headers: Headers) -> str:
    if headers.family == 0:
        return _family(headers)
    return "hidden" if headers.protocol is None else str(show_protocol(headers.protocol))


def _address(headers: Headers, address: bytes) -> str:
    return _family(headers) if headers.family == 0 else str(ip_address(address))


def frame(headers: Headers) -> str:
    """A frame in words: tags, protocol, the two ends."""
    tags = [f"vlan {tag.vid}" for tag in headers.tags]
    if not headers.source:
        return "no Ethernet header"
    if headers.family == 0:
        ends = [address.hex(":") for address in (headers.source, headers.destination)]
        return " ".join([*tags, _family(headers), " > ".join(ends)])
    ends = [
        str(ip_address(address))
        if port is None
        else f"[{ip_address(address)}]:{port}"
        if headers.family == 6
        else f"{ip_address(address)}:{port}"
        for address, port in (
            (headers.source, headers.source_port),
            (headers.destination, headers.destination_port),
        )
    ]
    return " ".join([*tags, _protocol(headers), " > ".join(ends), *(["fragment"] if headers.fragment else [])])
