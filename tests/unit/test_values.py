"""What values may be written as, and what they mean. Rates are held to tc itself in tests/kernel/test_rates.py."""

from __future__ import annotations

import socket
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
