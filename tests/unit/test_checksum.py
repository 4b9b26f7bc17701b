"""The Internet checksum against RFC 1071's example and scapy's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import in4_chksum
from scapy.layers.inet6 import IPv6, in6_chksum
from scapy.layers.sctp import crc32c as scapy_crc32c
from scapy.utils import checksum as scapy_checksum

from mirrord.dataplane.frame.checksum import checksum, crc32c, ones_sum, transport_checksum
from tests.support.packets import V4

V6 = IPv6(src="2001:db8::1", dst="2001:db8::2")


def test_the_example_of_rfc_1071() -> None:
    assert ones_sum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2


@given(st.binary(max_size=100))
def test_any_bytes(data: bytes) -> None:
    assert checksum(data) == scapy_checksum(data)


@given(st.binary(min_size=8, max_size=100))
def test_with_a_pseudo_header(segment: bytes) -> None:
    source, destination = bytes(V4)[12:16], bytes(V4)[16:20]
    assert transport_checksum(source, destination, 6, segment) == in4_chksum(6, V4, segment)
    source, destination = bytes(V6)[8:24], bytes(V6)[24:40]
    assert transport_checksum(source, destination, 17, segment) == (in6_chksum(17, V6, segment) or 0xFFFF)


def test_zero_is_sent_as_all_ones_by_udp() -> None:
    segment = bytes(6) + (0xFFFF - ones_sum(bytes(V4)[12:20] + bytes([0, 17, 0, 8]))).to_bytes(2, "big")
    assert in4_chksum(17, V4, segment) == 0
    assert transport_checksum(bytes(V4)[12:16], bytes(V4)[16:20], 17, segment) == 0xFFFF


@given(st.binary(max_size=100))
def test_the_crc_of_sctp(data: bytes) -> None:
    assert crc32c(data).to_bytes(4, "little") == scapy_crc32c(data).to_bytes(4, "big")
