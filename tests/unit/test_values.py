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

from mirrord import values


def read(kind: Any, written: object) -> Any:
    return TypeAdapter(kind).validate_python(written)


@pytest.mark.parametrize(
    ("kind", "written", "meant"),
    [
        (values.Size, "8MiB", 8 * 1024 * 1024),
        (values.Size, "1.5KiB", 1536),
        (values.Size, "100MB", 100_000_000),
        (values.Size, 4097, 4097),
        (values.Size, "0", 0),
        (values.Percentage, "80%", 80),
        (values.Percentage, "", 0),
        (values.Networks, "192.0.2.1", (ip_network("192.0.2.1/32"),)),
        (values.Networks, ["10.0.0.0/8", "fd00::/8"], (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))),
        (values.NetworkList, [], ()),
        (values.Ports, 80, ((80, 80),)),
        (values.Ports, ["80", "1000-2000", 65535], ((80, 80), (1000, 2000), (65535, 65535))),
        (values.VlanIds, 111, (111,)),
        (values.VlanIds, [1, 4094], (1, 4094)),
        (values.Devices, ["tap*", "eth0"], ("tap*", "eth0")),
        (values.Listen, "[::1]:9817", values.Endpoint("::1", 9817)),
        (values.Listen, "", None),
        (values.Flag, "true", True),
        (values.VlanId, "0x10", 16),
    ],
)
def test_read(kind: Any, written: object, meant: object) -> None:
    assert read(kind, written) == meant


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (values.Size, "8 parsecs"),
        (values.Size, "1.5B"),
        (values.Size, -1),
        (values.Size, True),
        (values.RingSize, "4095"),
        (values.Rate, "10%"),
        (values.Rate, "0.5bit"),
        (values.Rate, "-1mbit"),
        (values.Percentage, "101%"),
        (values.Percentage, "0%"),
        (values.Percentage, True),
        (values.Networks, "10.0.0.1/8"),
        (values.Networks, []),
        (values.Networks, 167772160),
        (values.Networks, "fe80::1%eth0"),
        (values.AnyAddress, 1),
        (values.AnyAddress, "::ffff:192.0.2.1"),
        (values.AnyAddress, "2001:db8::1%eth0"),
        (values.Ports, "65536"),
        (values.Ports, "2000-1000"),
        (values.Ports, True),
        (values.Protocol, 256),
        (values.Protocol, "tpc"),
        (values.VlanId, 0),
        (values.VlanIds, 4095),
        (values.VlanId, True),
        (values.VlanId, 1.0),
        (values.Device, "sixteen-letters0"),
        (values.Device, "a/b"),
        (values.Device, "a b"),
        (values.Device, ".."),
        (values.Device, ""),
        (values.Device, "tap*"),
        (values.Name, ""),
        (values.Name, "-a"),
        (values.Name, "a b"),
        (values.Name, "a\n"),
        (values.Name, "a" * 64),
        (values.Path, "captures"),
        (values.Path, "/var/../etc/shadow"),
        (values.Socket, ""),
        (values.OptionalSocket, "/" + "x" * 107),
        (values.Netns, "a/b"),
        (values.Listen, "9817"),
        (values.Listen, "localhost:65536"),
        (values.Flag, 1),
    ],
)
def test_refused_with_what_was_expected(kind: Any, written: object) -> None:
    with pytest.raises(ValidationError, match=r"expected .*, not "):
        read(kind, written)


def test_protocols_are_those_of_the_c_library() -> None:
    for name in ("icmp", "igmp", "tcp", "udp", "ipv6", "gre", "esp", "ah", "icmpv6", "pim", "sctp"):
        assert read(values.Protocol, name) == getattr(socket, f"IPPROTO_{name.upper()}")
    assert read(values.Protocol, "ipv6-icmp") == socket.IPPROTO_ICMPV6
    assert values.show_protocol(socket.IPPROTO_ICMPV6) == "icmpv6"


def test_a_range_of_addresses() -> None:
    found = read(values.Addresses, "192.168.29.10-192.168.29.20/24")
    assert found == (ip_address("192.168.29.10"), ip_address("192.168.29.20"), 24)
    assert found.network == ip_network("192.168.29.0/24")
    assert str(found) == "192.168.29.10-192.168.29.20/24"
    assert str(read(values.Addresses, "2001:db8::5/64")) == "2001:db8::5/64"


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
        read(values.Addresses, written)


@given(st.integers(0, 2**63 - 1))
def test_sizes_and_rates_shown_are_read_as_the_same(amount: int) -> None:
    assert values.parse_size(values.show_size(amount)) == amount
    assert values.parse_rate(values.show_rate(amount)) == amount


@pytest.mark.parametrize(
    ("kind", "written", "shown"),
    [
        (values.KeptLength, "96", 96),
        (values.KeptLength, "headers", "headers"),
        (values.KeptLength, "headers+64", "headers+64"),
        (values.PositiveSize, "1KiB", "1KiB"),
        (values.RingSize, 4096, "4KiB"),
        (values.RecorderSize, "0", "0"),
        (values.RecorderSize, "1MiB", "1MiB"),
        (values.Latency, "1000us", "1ms"),
        (values.Latency, "1500us", "1500us"),
        (values.Latency, "0", "0"),
        (values.Idle, "5m", "300s"),
        (values.Idle, "1500ms", "1500ms"),
        (values.Percentage, 80, "80%"),
        (values.Percentage, "", ""),
        (values.Protocol, "TCP", "tcp"),
        (values.Protocol, 200, 200),
        (values.Ports, ["80", "1000-2000"], ["80", "1000-2000"]),
        (values.Ports, 80, "80"),
        (values.Listen, "[::1]:9817", "[::1]:9817"),
        (values.Listen, "localhost:80", "localhost:80"),
        (values.Listen, "", ""),
        (values.AnyAddress, "fe80::1%eth0", "fe80::1%eth0"),
        (values.Addresses, "192.0.2.5/24", "192.0.2.5/24"),
        (values.NetworkList, "192.0.2.0/24", ["192.0.2.0/24"]),
        (values.Networks, "192.0.2.0/24", "192.0.2.0/24"),
        (values.OptionalSocket, "", ""),
        (values.Netns, "/run/netns/blue", "/run/netns/blue"),
        (values.Netns, "blue", "blue"),
        (values.Nic, "52:54:00:AB:00:01", "52:54:00:ab:00:01"),
        (values.Nic, 1, 1),
        (values.Nics, "*", "*"),
        (values.Guest, "web", "web"),
        (values.GuestOrGlob, "web*", "web*"),
        (values.ContainerOrGlob, "default/web-*", "default/web-*"),
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
        (values.KeptLength, "headers"),
        (values.AnyAddress, "192.0.2.1"),
        (values.Networks, "192.0.2.0/24"),
        (values.Addresses, "192.0.2.5/24"),
        (values.Ports, "1-2"),
        (values.Listen, "[::1]:80"),
    ],
)
def test_what_was_read_may_be_read_again(kind: Any, written: object) -> None:
    meant = read(kind, written)
    assert read(kind, meant) == meant


def test_a_kept_length_reads_as_it_is_written() -> None:
    assert [str(values.parse_snaplen(written)) for written in (96, "headers", "headers+9")] == [
        "96",
        "headers",
        "headers+9",
    ]


@pytest.mark.parametrize("kind", [values.Size, values.Ports, values.Flag, values.KeptLength, values.VlanId])
def test_each_has_a_schema_that_its_shown_form_is_of(kind: Any) -> None:
    schema = TypeAdapter(kind).json_schema()
    assert schema.keys() & {"type", "anyOf"}


@pytest.mark.parametrize(
    ("kind", "written", "said"),
    [
        (values.PositiveSize, 0, 'a size of at least "1B", not 0'),
        (values.RecorderSize, "1KiB", '"0", or a size of at least "1MiB", not \'1KiB\''),
        (values.Latency, "11ms", 'a time of at most 10 ms, as "500us" or "1ms", not \'11ms\''),
        (values.Latency, 1, "not 1"),
        (values.Idle, "25h", "a time of at most 24h"),
        (values.Idle, 60, "not 60"),
        (values.KeptLength, "headers+70000", "not 'headers+70000'"),
        (values.AnyAddress, "192.0.2.1:80", "not '192.0.2.1:80'; a port has a key of its own"),
        (values.AnyAddress, "collector", "not 'collector'; names are not looked up"),
        (values.AnyAddress, "192.0.2.300", "an IPv4 or IPv6 address, not '192.0.2.300'"),
        (values.AnyAddress, None, "not null"),
        (values.Networks, "192.0.2.0/33", 'or "2001:db8::/32", not'),
        (values.Networks, "192.0.2.1/24", "such as 192.0.2.0/24, not '192.0.2.1/24'"),
        (values.Ports, "80,90", "not '80,90'; several are a list"),
        (values.VlanIds, [1] * 4097, "at most 4096 values, not 4097"),
        (values.VlanIds, [], "at least one value, not []"),
        (values.Device, "a" * 16, "at most 15 bytes"),
        (values.Devices, "a*" * 33, "at most 64 bytes"),
        (values.Path, "/" + "x" * 4095, "a path of at most 4095 bytes"),
        (values.Socket, "/" + "x" * 107, "the path of a socket, at most 107 bytes"),
        (values.Socket, "", "the path of a socket, not ''"),
        (values.Nic, "*", "the index or the MAC address of one NIC, not '*'"),
        (values.Nics, 256, "the index of a NIC"),
        (values.Guest, "web*", "one name, not a pattern, not 'web*'"),
        (values.GuestOrGlob, "", "not ''"),
        (values.Flag, {"a": [True, None]}, "true or false, not { a = [true, null] }"),
        (values.Flag, {}, "not {}"),
        (values.Flag, date(2026, 1, 2), "not 2026-01-02"),
    ],
)
def test_a_refusal_shows_what_was_written_as_it_was(kind: Any, written: object, said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        read(kind, written)
