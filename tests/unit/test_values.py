"""What values may be written as, and what they mean. Rates are held to tc itself in tests/kernel/test_rates.py."""

from __future__ import annotations

import re
import socket
from datetime import date
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from mirrord.values import addresses, guests, names, ports, quantities
from mirrord.values.written import Flag


def read(kind: Any, written: object) -> Any:
    return TypeAdapter(kind).validate_python(written)


@pytest.mark.parametrize(
    ("kind", "written", "meant"),
    [
        (quantities.Size, "8MiB", 8 * 1024 * 1024),
        (quantities.Size, "1.5KiB", 1536),
        (quantities.Size, "100MB", 100_000_000),
        (quantities.Size, 4097, 4097),
        (quantities.Size, "0", 0),
        (quantities.Percentage, "80%", 80),
        (quantities.Percentage, "", 0),
        (addresses.Networks, "192.0.2.1", (ip_network("192.0.2.1/32"),)),
        (addresses.Networks, ["10.0.0.0/8", "fd00::/8"], (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))),
        (addresses.NetworkList, [], ()),
        (ports.Ports, 80, ((80, 80),)),
        (ports.Ports, ["80", "1000-2000", 65535], ((80, 80), (1000, 2000), (65535, 65535))),
        (ports.VlanIds, 111, (111,)),
        (ports.VlanIds, [1, 4094], (1, 4094)),
        (names.Devices, ["tap*", "eth0"], ("tap*", "eth0")),
        (ports.Listen, "[::1]:9817", ports.Endpoint("::1", 9817)),
        (ports.Listen, "", None),
        (Flag, "true", True),
        (ports.VlanId, "0x10", 16),
    ],
)
def test_read(kind: Any, written: object, meant: object) -> None:
    assert read(kind, written) == meant


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (quantities.Size, "8 parsecs"),
        (quantities.Size, "1.5B"),
        (quantities.Size, -1),
        (quantities.Size, True),
        (quantities.RingSize, "4095"),
        (quantities.Rate, "10%"),
        (quantities.Rate, "0.5bit"),
        (quantities.Rate, "-1mbit"),
        (quantities.Percentage, "101%"),
        (quantities.Percentage, "0%"),
        (quantities.Percentage, True),
        (addresses.Networks, "10.0.0.1/8"),
        (addresses.Networks, []),
        (addresses.Networks, 167772160),
        (addresses.Networks, "fe80::1%eth0"),
        (addresses.AnyAddress, 1),
        (addresses.AnyAddress, "::ffff:192.0.2.1"),
        (addresses.AnyAddress, "2001:db8::1%eth0"),
        (ports.Ports, "65536"),
        (ports.Ports, "2000-1000"),
        (ports.Ports, True),
        (ports.Protocol, 256),
        (ports.Protocol, "tpc"),
        (ports.VlanId, 0),
        (ports.VlanIds, 4095),
        (ports.VlanId, True),
        (ports.VlanId, 1.0),
        (names.Device, "sixteen-letters0"),
        (names.Device, "a/b"),
        (names.Device, "a b"),
        (names.Device, ".."),
        (names.Device, ""),
        (names.Device, "tap*"),
        (names.Name, ""),
        (names.Name, "-a"),
        (names.Name, "a b"),
        (names.Name, "a\n"),
        (names.Name, "a" * 64),
        (names.Path, "captures"),
        (names.Path, "/var/../etc/shadow"),
        (names.Socket, ""),
        (names.OptionalSocket, "/" + "x" * 107),
        (names.Netns, "a/b"),
        (ports.Listen, "9817"),
        (ports.Listen, "localhost:65536"),
        (Flag, 1),
    ],
)
def test_refused_with_what_was_expected(kind: Any, written: object) -> None:
    with pytest.raises(ValidationError, match=r"expected .*, not "):
        read(kind, written)


def test_protocols_are_those_of_the_c_library() -> None:
    for name in ("icmp", "igmp", "tcp", "udp", "ipv6", "gre", "esp", "ah", "icmpv6", "pim", "sctp"):
        assert read(ports.Protocol, name) == getattr(socket, f"IPPROTO_{name.upper()}")
    assert read(ports.Protocol, "ipv6-icmp") == socket.IPPROTO_ICMPV6
    assert ports.show_protocol(socket.IPPROTO_ICMPV6) == "icmpv6"


def test_a_range_of_addresses() -> None:
    found = read(addresses.Addresses, "192.168.29.10-192.168.29.20/24")
    assert found == (ip_address("192.168.29.10"), ip_address("192.168.29.20"), 24)
    assert found.network == ip_network("192.168.29.0/24")
    assert str(found) == "192.168.29.10-192.168.29.20/24"
    assert str(read(addresses.Addresses, "2001:db8::5/64")) == "2001:db8::5/64"


@pytest.mark.parametrize(
    "written",
    [
        "192.168.29.10",
        "192.168.29.20-192.168.29.10/24",
        "192.168.29.10-192.168.30.10/24",
        "192.168.29.10-fd00::1/24",
        "192.168.29.0/24",
        "192.168.29.10-192.168.29.255/24",
        "192.168.29.10/33",
        "2001:db8::-2001:db8::9/64",  # the routers' (RFC 4291 2.6.1)
        "fe80::5/64",
        "224.0.0.5/24",
        "127.0.0.5-127.0.0.9/8",
    ],
)
def test_a_range_that_no_link_can_have(written: str) -> None:
    with pytest.raises(ValidationError, match="expected"):
        read(addresses.Addresses, written)


@given(st.integers(0, 2**63 - 1))
def test_sizes_and_rates_shown_are_read_as_the_same(amount: int) -> None:
    assert quantities.parse_size(quantities.show_size(amount)) == amount
    assert quantities.parse_rate(quantities.show_rate(amount)) == amount


@pytest.mark.parametrize(
    ("kind", "written", "shown"),
    [
        (quantities.KeptLength, "96", 96),
        (quantities.KeptLength, "headers", "headers"),
        (quantities.KeptLength, "headers+64", "headers+64"),
        (quantities.PositiveSize, "1KiB", "1KiB"),
        (quantities.RingSize, 4096, "4KiB"),
        (quantities.RecorderSize, "0", "0"),
        (quantities.RecorderSize, "1MiB", "1MiB"),
        (quantities.Latency, "1000us", "1ms"),
        (quantities.Latency, "1500us", "1500us"),
        (quantities.Latency, "0", "0"),
        (quantities.Idle, "5m", "300s"),
        (quantities.Idle, "1500ms", "1500ms"),
        (quantities.Percentage, 80, "80%"),
        (quantities.Percentage, "", ""),
        (ports.Protocol, "TCP", "tcp"),
        (ports.Protocol, 200, 200),
        (ports.Ports, ["80", "1000-2000"], ["80", "1000-2000"]),
        (ports.Ports, 80, "80"),
        (ports.Listen, "[::1]:9817", "[::1]:9817"),
        (ports.Listen, "localhost:80", "localhost:80"),
        (ports.Listen, "", ""),
        (addresses.AnyAddress, "fe80::1%eth0", "fe80::1%eth0"),
        (addresses.Addresses, "192.0.2.5/24", "192.0.2.5/24"),
        (addresses.NetworkList, "192.0.2.0/24", ["192.0.2.0/24"]),
        (addresses.Networks, "192.0.2.0/24", "192.0.2.0/24"),
        (names.OptionalSocket, "", ""),
        (names.Netns, "/run/netns/blue", "/run/netns/blue"),
        (names.Netns, "blue", "blue"),
        (guests.Nic, "52:54:00:AB:00:01", "52:54:00:ab:00:01"),
        (guests.Nic, 1, 1),
        (guests.Nics, "*", "*"),
        (guests.Guest, "web", "web"),
        (guests.GuestOrGlob, "web*", "web*"),
        (guests.ContainerOrGlob, "default/web-*", "default/web-*"),
    ],
)
def test_shown_as_it_is_read(kind: Any, written: object, shown: object) -> None:
    """In JSON; what is shown means the same again."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    meant = adapter.validate_python(written)
    assert adapter.dump_python(meant, mode="json") == shown
    assert adapter.validate_python(shown) == meant


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (quantities.KeptLength, "headers"),
        (addresses.AnyAddress, "192.0.2.1"),
        (addresses.Networks, "192.0.2.0/24"),
        (addresses.Addresses, "192.0.2.5/24"),
        (ports.Ports, "1-2"),
        (ports.Listen, "[::1]:80"),
    ],
)
def test_what_was_read_may_be_read_again(kind: Any, written: object) -> None:
    meant = read(kind, written)
    assert read(kind, meant) == meant


def test_a_kept_length_reads_as_it_is_written() -> None:
    assert [str(quantities.parse_snaplen(written)) for written in (96, "headers", "headers+9")] == [
        "96",
        "headers",
        "headers+9",
    ]


@pytest.mark.parametrize("kind", [quantities.Size, ports.Ports, Flag, quantities.KeptLength, ports.VlanId])
def test_each_has_a_schema_that_its_shown_form_is_of(kind: Any) -> None:
    schema = TypeAdapter(kind).json_schema()
    assert schema.keys() & {"type", "anyOf"}


@pytest.mark.parametrize(
    ("kind", "written", "said"),
    [
        (quantities.PositiveSize, 0, 'a size of at least "1B", not 0'),
        (quantities.RecorderSize, "1KiB", '"0", or a size of at least "1MiB", not \'1KiB\''),
        (quantities.Latency, "11ms", 'a time of at most 10 ms, as "500us" or "1ms", not \'11ms\''),
        (quantities.Latency, 1, "not 1"),
        (quantities.Idle, "25h", "a time of at most 24h"),
        (quantities.Idle, 60, "not 60"),
        (quantities.KeptLength, "headers+70000", "not 'headers+70000'"),
        (addresses.AnyAddress, "192.0.2.1:80", "not '192.0.2.1:80'; a port has a key of its own"),
        (addresses.AnyAddress, "collector", "not 'collector'; names are not looked up"),
        (addresses.AnyAddress, "192.0.2.300", "an IPv4 or IPv6 address, not '192.0.2.300'"),
        (addresses.AnyAddress, None, "not null"),
        (addresses.Networks, "192.0.2.0/33", 'or "2001:db8::/32", not'),
        (addresses.Networks, "192.0.2.1/24", "such as 192.0.2.0/24, not '192.0.2.1/24'"),
        (ports.Ports, "80,90", "not '80,90'; several are a list"),
        (ports.VlanIds, [1] * 4097, "at most 4096 values, not 4097"),
        (ports.VlanIds, [], "at least one value, not []"),
        (names.Device, "a" * 16, "at most 15 bytes"),
        (names.Devices, "a*" * 33, "at most 64 bytes"),
        (names.Path, "/" + "x" * 4095, "a path of at most 4095 bytes"),
        (names.Socket, "/" + "x" * 107, "the path of a socket, at most 107 bytes"),
        (names.Socket, "", "the path of a socket, not ''"),
        (guests.Nic, "*", "the index or the MAC address of one NIC, not '*'"),
        (guests.Nics, 256, "the index of a NIC"),
        (guests.Guest, "web*", "one name, not a pattern, not 'web*'"),
        (guests.GuestOrGlob, "", "not ''"),
        (Flag, {"a": [True, None]}, "true or false, not { a = [true, null] }"),
        (Flag, {}, "not {}"),
        (Flag, date(2026, 1, 2), "not 2026-01-02"),
    ],
)
def test_a_refusal_shows_what_was_written_as_it_was(kind: Any, written: object, said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        read(kind, written)
