"""Hypothesis strategies: frames and selections that draw from the same few addresses and ports, so that rules do hit."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from hypothesis import strategies as st

from mirrord.dataplane.filter import Direction, Guard, Rule, Selection

IPV4 = [ip_address(text) for text in ("10.0.0.1", "10.0.0.2", "10.0.1.1", "192.168.0.161", "255.255.255.255")]
IPV6 = [ip_address(text) for text in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "fe80::1", "ff02::1")]
PORTS = [0, 53, 80, 1234, 4789, 65535]
PROTOCOLS = [0, 1, 6, 17, 47, 58, 59, 132]
VLANS = [0, 1, 5, 111, 4095]
ETHERTYPES = [0, 0x0800, 0x86DD, 0x0806, 0x8100, 0x88A8, 0x6558]
EXTENSIONS = [0, 43, 44, 51, 60, 135, 139, 140]
MARK = 0x10000000


def _tag(draw: st.DrawFn) -> bytes:
    tpid = draw(st.sampled_from([0x8100, 0x88A8, 0x8100, 0x9100]))
    return struct.pack("!HH", tpid, draw(st.sampled_from(VLANS)) | draw(st.sampled_from([0, 0x1000, 0xE000])))


def _ipv4(draw: st.DrawFn) -> bytes:
    options = draw(st.sampled_from([0, 0, 0, 4, 40]))
    fragment = draw(st.sampled_from([0, 0, 0x4000, 0x2000, 0x2001, 0x0001, 0x1000, 0x8000]))
    first = draw(st.sampled_from([0x40] * 8 + [0x60])) | (20 + options) // 4
    ends = [draw(st.sampled_from(IPV4)).packed for _ in range(2)]
    header = struct.pack("!BBHHHBBH", first, 0, 60, 1, fragment, 64, draw(st.sampled_from(PROTOCOLS)), 0)
    return header + b"".join(ends) + bytes([1]) * options


def _ipv6(draw: st.DrawFn) -> bytes:
    kinds = draw(st.lists(st.sampled_from(EXTENSIONS), max_size=8) | st.just([]))
    following = [*kinds, draw(st.sampled_from(PROTOCOLS))]
    ends = b"".join(draw(st.sampled_from(IPV6)).packed for _ in range(2))
    header = struct.pack("!IHBB", 6 << 28, 8, following[0], 64) + ends
    for kind, after in zip(kinds, following[1:], strict=True):
        if kind == 44:
            header += struct.pack("!BBHI", after, 9, draw(st.sampled_from([0, 0, 0, 1, 6, 8, 0x100])), 1)
        else:
            units = draw(st.sampled_from([0, 0, 1, 2]))
            length = (units + 2) * 4 if kind == 51 else (units + 1) * 8
            header += bytes([after, units]).ljust(length, b"\x06")
    return header


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Ethernet frames: whole ones, and some cut or with a byte changed."""
    data = bytes.fromhex("020000000002020000000001")
    data += b"".join(_tag(draw) for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2, 3]))))
    kind = draw(st.sampled_from([4, 4, 6, 6, 0]))
    if kind == 4:
        data += struct.pack("!H", 0x0800) + _ipv4(draw)
    elif kind == 6:
        data += struct.pack("!H", 0x86DD) + _ipv6(draw)
    else:
        data += struct.pack("!H", draw(st.sampled_from(ETHERTYPES)))
    data += struct.pack("!HHII", draw(st.sampled_from(PORTS)), draw(st.sampled_from(PORTS)), 8, 0)
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(data) - 1))
        data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
    if draw(st.integers(0, 2)) == 0:
        data = data[: draw(st.integers(0, len(data)))]
    return data


def _networks(addresses: list[IPv4Address | IPv6Address]) -> st.SearchStrategy[object]:
    bits = addresses[0].max_prefixlen
    lengths = st.sampled_from([0, 1, 8, 24, 31, 32, 33, 63, 64, 65, 127, 128]).map(lambda length: min(length, bits))
    return st.builds(lambda ip, length: ip_network((ip, length), strict=False), st.sampled_from(addresses), lengths)


def _ranges() -> st.SearchStrategy[tuple[tuple[int, int], ...]]:
    pair = st.tuples(st.sampled_from(PORTS), st.sampled_from(PORTS)).map(lambda ends: (min(ends), max(ends)))
    return st.lists(pair, max_size=3).map(tuple)


def _maybe(values: list[int]) -> st.SearchStrategy[int | None]:
    return st.one_of(st.none(), st.none(), st.sampled_from(values))


def rules() -> st.SearchStrategy[Rule]:
    """One rule; few fields are set at a time, so that many frames match."""
    networks = st.lists(_networks(IPV4) | _networks(IPV6), max_size=3).map(tuple)
    some = st.one_of(st.just(()), st.just(()), networks)
    return st.builds(
        Rule,
        priority=st.integers(1, 65535),
        accept=st.booleans(),
        direction=st.sampled_from([Direction.BOTH, Direction.BOTH, Direction.INGRESS, Direction.EGRESS]),
        family=_maybe([4, 6]),
        protocol=_maybe(PROTOCOLS),
        sources=some,
        destinations=some,
        source_ports=st.one_of(st.just(()), st.just(()), _ranges()),
        destination_ports=st.one_of(st.just(()), st.just(()), _ranges()),
        vlan=_maybe(VLANS),
        ethertype=st.one_of(st.none(), _maybe(ETHERTYPES)),
    )


def guards() -> st.SearchStrategy[Guard]:
    """A tunnel guard, sometimes for any address."""
    addresses = st.sampled_from([*IPV4, *IPV6, IPv4Address(0), IPv6Address(0)])
    udp = st.builds(Guard, addresses, st.just(17), _maybe(PORTS))
    return udp | st.builds(Guard, addresses, st.just(47))


def selections() -> st.SearchStrategy[Selection]:
    """A whole selection; the mark, when there is one, is MARK."""
    ordered = st.lists(rules(), max_size=8, unique_by=lambda rule: rule.priority).map(tuple)
    return st.builds(
        Selection,
        direction=st.sampled_from([Direction.BOTH, Direction.BOTH, Direction.INGRESS, Direction.EGRESS]),
        rules=st.one_of(ordered, ordered, st.none()),
        vlans=st.one_of(st.none(), st.none(), st.frozensets(st.sampled_from(VLANS))),
        mark=st.just(MARK),
        mark_mask=st.sampled_from([0, MARK]),
        guards=st.lists(guards(), max_size=2).map(tuple),
    )
