"""Packets of devices without Ethernet: what the kernel's program takes, by the matcher; and the two data planes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from mirrord.dataplane.filter.rules import Selection, accepts
from mirrord.dataplane.filter.several import attach
from mirrord.dataplane.frame.headers import Tag, parse
from mirrord.dataplane.frame.wire import VNET, Frame, Vnet
from mirrord.dataplane.frame.without_ethernet import with_ethernet
from mirrord.dataplane.native import core
from tests.support.programs import Pair
from tests.support.selections import frames, selections

PROTOCOLS = [0, 3, 0x800, 0x86DD, 0x8847, 0x8100, 0x88A8, 0x5FF, 0x600, 0xFFFF]
numbers = st.sampled_from([0, 1, 20, 65521, 65522, 65535])
vnets = st.builds(Vnet, st.sampled_from([0, 1, 2, 3]), st.sampled_from([0, 1, 4]), numbers, numbers, numbers, numbers)


@pytest.mark.parametrize("packet", [IP(dst="10.0.0.1") / UDP(), IPv6(dst="2001:db8::1") / UDP()])
def test_a_packet_becomes_what_scapy_makes_of_it(packet: IP | IPv6) -> None:
    data = bytes(packet)
    frame = with_ethernet(Frame(data, len(data) + 3, tag=Tag(0x8100, 5)), 0)
    assert frame.data == bytes(Ether(src="00:00:00:00:00:00", dst="00:00:00:00:00:00") / packet)
    assert (frame.length, frame.tag) == (len(frame.data) + 3, None)


@pytest.mark.no_cover
@given(several=st.lists(selections(), min_size=1, max_size=4), sent=st.lists(frames(), min_size=1, max_size=8))
def test_the_kernel_takes_what_the_matcher_means(pair: Pair, several: list[Selection], sent: list[bytes]) -> None:
    """A Unix socket's bytes have no protocol: the IP version tells the ethertype."""
    wanted = [replace(one, mark_mask=several[0].mark_mask) for one in several]
    exact = attach(pair.far, *wanted, raw=True)
    for data in (frame[14:] for frame in sent if len(frame) > 14):  # none of the socket's have no bytes
        headers = parse(with_ethernet(Frame(data, len(data)), 0).data)
        expected = any(accepts(one, headers, egress=False) for one in wanted)
        assert pair.passes(data) == expected or not (exact or expected), data.hex()


@given(packet=frames().map(lambda frame: frame[14:]), vnet=vnets, protocol=st.sampled_from(PROTOCOLS))
@example(packet=b"", vnet=Vnet(), protocol=0)
def test_the_planes_agree(packet: bytes, vnet: Vnet, protocol: int) -> None:
    frame = with_ethernet(Frame(packet, len(packet), vnet=vnet), protocol)
    native = core.with_ethernet(packet=packet, vnet=VNET.pack(*vnet), protocol=protocol)
    assert (native.data, native.vnet) == (frame.data, VNET.pack(*frame.vnet))
