"""Hypothesis strategies: frames and selections drawn from the same few addresses and ports, so that rules do hit."""

from __future__ import annotations

import struct
from dataclasses import replace
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any

from hypothesis import strategies as st

from mirrord.dataplane.filter.rules import Direction, Rule, Selection
from mirrord.dataplane.forward.own_copies import Guard, Guards, Word

IPV4 = [IPv4Address(text) for text in ("10.0.0.1", "10.0.1.2", "192.168.0.161")]
IPV6 = [IPv6Address(text) for text in ("2001:db8::1", "2001:db8:0:1::2", "ff02::1")]
PORTS = [80, 1234, 4789, 65535]
PROTOCOLS = [17, 6, 6, 17, 6, 132, 47, 0, 58, 1, 58]
VLANS = [0, 1, 5, 111, 4095]
ETHERTYPES = [0, 0x0800, 0x86DD, 0x0806, 0x8100, 0x88A8, 0x6558]
EXTENSIONS = [0, 44, 44, 44, 43, 51, 60, 135, 139, 140]
MACS = [bytes.fromhex(text) for text in ("020000000001", "020000000002", "ffffffffffff", "ffffffff0001")]
FLAGS = [0x02, 0x12, 0x10, 0x11, 0x04, 0xC2, 0]
DSCPS = [0, 46, 63, 1]
ICMP_NUMBERS = [0, 4, 18, 80, 210, 255]  # the bytes of PORTS: an ICMP header is where ports are
MARK = 0x10000000


def _tag(draw: st.DrawFn) -> bytes:
    tpid = draw(st.sampled_from([0x8100, 0x88A8, 0x8100, 0x9100, 0x9200, 0x9300]))
    return struct.pack("!HH", tpid, draw(st.sampled_from(VLANS)) | draw(st.sampled_from([0, 0x1000, 0xE000])))


def _ipv4(draw: st.DrawFn) -> bytes:
    options = draw(st.sampled_from([0, 0, 0, 4, 40]))
    fragment = draw(st.sampled_from([0, 0, 0x4000, 0x2000, 0x2001, 0x0001, 0x1000, 0x8000]))
    first = draw(st.sampled_from([0x40] * 8 + [0x60])) | (20 + options) // 4
    traffic_class = draw(st.sampled_from(DSCPS)) << 2 | draw(st.sampled_from([0, 3]))
    ends = [draw(st.sampled_from(IPV4)).packed for _ in range(2)]
    header = struct.pack("!BBHHHBBH", first, traffic_class, 60, 1, fragment, 64, draw(st.sampled_from(PROTOCOLS)), 0)
    return header + b"".join(ends) + bytes([1]) * options


def _ipv6(draw: st.DrawFn) -> bytes:
    some = st.lists(st.sampled_from(EXTENSIONS), max_size=8)
    kinds = draw(st.sampled_from([[], [44], [0, 44], [44, 60], [60] * 6, [60] * 7]) | some)
    following = [*kinds, draw(st.sampled_from(PROTOCOLS))]
    ends = b"".join(draw(st.sampled_from(IPV6)).packed for _ in range(2))
    first = 6 << 28 | draw(st.sampled_from(DSCPS)) << 22 | draw(st.sampled_from([0, 3 << 20, 0xFFFFF]))
    header = struct.pack("!IHBB", first, 8, following[0], 64) + ends
    for kind, after in zip(kinds, following[1:], strict=True):
        if kind == 44:
            header += struct.pack("!BBHI", after, 9, draw(st.sampled_from([0, 1, 6, 8, 0x101, 0xFFF8])), 1)
        else:
            units = draw(st.sampled_from([0, 0, 1, 2]))
            length = (units + 2) * 4 if kind == 51 else (units + 1) * 8
            header += bytes([after, units]).ljust(length, b"\x06")
    return header


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Ethernet frames: whole ones, and some cut or with a byte changed."""
    data = draw(st.sampled_from(MACS)) + draw(st.sampled_from(MACS))
    data += b"".join(_tag(draw) for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2, 3]))))
    kind = draw(st.sampled_from([4, 4, 4, 6, 6, 6, 0]))
    if kind == 4:
        data += struct.pack("!H", 0x0800) + _ipv4(draw)
    elif kind == 6:
        data += struct.pack("!H", 0x86DD) + _ipv6(draw)
    else:
        data += struct.pack("!H", draw(st.sampled_from(ETHERTYPES)))
    data += struct.pack("!HHII", draw(st.sampled_from(PORTS)), draw(st.sampled_from(PORTS)), 8, 0)
    data += bytes([0x50, draw(st.sampled_from(FLAGS))])
    if draw(st.sampled_from(range(5))) == 4:
        at = draw(st.integers(0, len(data) - 1))
        data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
    if draw(st.sampled_from(range(5))) == 4:
        data = data[: draw(st.integers(0, len(data)))]
    return data


def _networks(addresses: list[IPv4Address] | list[IPv6Address]) -> st.SearchStrategy[IPv4Network | IPv6Network]:
    bits = addresses[0].max_prefixlen
    lengths = st.sampled_from([length for length in (0, 1, 8, 24, 31, 32, 33, 63, 64, 65, 127, 128) if length <= bits])
    return st.builds(
        lambda ip, length: ip_network((ip.packed, length), strict=False), st.sampled_from(addresses), lengths
    )


def _ranges() -> st.SearchStrategy[tuple[tuple[int, int], ...]]:
    pair = st.tuples(st.sampled_from(PORTS), st.sampled_from(PORTS)).map(lambda ends: (min(ends), max(ends)))
    return st.lists(pair, min_size=1, max_size=3).map(tuple)


def _flag_tests() -> st.SearchStrategy[tuple[tuple[int, int], ...]]:
    test = st.tuples(st.sampled_from([0x02, 0x12, 0x17, 0x04, 0xC0]), st.sampled_from(FLAGS))
    return st.lists(test.map(lambda one: (one[0], one[0] & one[1])), min_size=1, max_size=2).map(tuple)


def _some(values: list[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True).map(tuple)


_LENGTHS = st.lists(
    st.tuples(st.sampled_from([0, 14, 44, 52]), st.sampled_from([13, 52, 72, 1 << 31])).filter(
        lambda one: one[0] <= one[1]
    ),
    min_size=1,
    max_size=2,
).map(tuple)

# Making a strategy takes longer than drawing from it: each is made once.
_NETWORKS = st.lists(_networks(IPV4) | _networks(IPV6), min_size=1, max_size=3).map(tuple)
_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "sources": _NETWORKS,
    "destination_ports": _ranges(),
    "destinations": _NETWORKS,
    "source_ports": _ranges(),
    "protocol": st.sampled_from(PROTOCOLS),
    "family": st.sampled_from([4, 6]),
    "direction": st.sampled_from([Direction.INGRESS, Direction.EGRESS]),
    "vlan": st.sampled_from(VLANS),
    "ethertype": st.sampled_from(ETHERTYPES),
    "source_macs": _some(MACS),
    "destination_macs": _some(MACS),
    "lengths": _LENGTHS,
    "dscps": _some(DSCPS),
    "tcp_flags": _flag_tests(),
    "icmp_types": _some(ICMP_NUMBERS),
    "icmp_codes": _some(ICMP_NUMBERS),
}
_NAMES = st.lists(st.sampled_from(list(_FIELDS)), min_size=1, max_size=3, unique=True)
_PRIORITIES = st.integers(1, 65535)
_NONE, _SOME_VLANS = st.none(), st.frozensets(st.sampled_from(VLANS))


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """One rule; at most three of its fields ask anything, so that many frames match."""
    asked = {name: draw(_FIELDS[name]) for name in draw(_NAMES)}
    return Rule(priority=draw(_PRIORITIES), accept=draw(st.booleans()), **asked)


@cache
def guards() -> st.SearchStrategy[Guards]:
    """Guards against mirroring a copy again, some for any address, with or without words in the packet."""
    addresses = st.sampled_from([*IPV4, *IPV6, IPv4Address(0), IPv6Address(0)])
    word = st.builds(
        Word, st.sampled_from([0, 4, 8, 12]), st.sampled_from([0, 0xFF, 0xFFFF0000, 0xFFFFFFFF]), st.just(0)
    )
    words = st.lists(word, max_size=2).map(tuple)
    udp = st.builds(Guard, addresses, st.just(17), st.none() | st.sampled_from(PORTS), words)
    return st.lists(udp | st.builds(Guard, addresses, st.just(47), st.none(), words), max_size=4).map(Guards)


@cache
def selections() -> st.SearchStrategy[Selection]:
    """A whole selection, sometimes with others before it; the mark, when there is one, is MARK."""
    before = st.one_of(st.just(()), st.just(()), st.tuples(_alone()), st.tuples(_alone(), _alone()))
    return st.builds(lambda one, others: replace(one, before=others), _alone(), before)


@cache
def _alone() -> st.SearchStrategy[Selection]:
    some = st.lists(rules(), min_size=1, max_size=8, unique_by=lambda rule: rule.priority).map(tuple)
    return st.builds(
        Selection,
        direction=st.sampled_from([Direction.BOTH] * 6 + [Direction.INGRESS, Direction.EGRESS]),
        rules=st.sampled_from(range(6)).flatmap(lambda n: some if n else _NONE),
        vlans=st.sampled_from(range(6)).flatmap(lambda n: _NONE if n else _SOME_VLANS),
        mark=st.just(MARK),
        mark_mask=st.sampled_from([0, MARK]),
    )
