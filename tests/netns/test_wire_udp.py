"""UDP, in one piece and by the kernel's UDP_SEGMENT: the copies are the datagrams that the wire carried."""

from __future__ import annotations

import socket

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.topology import Topology
from tests.support.wire import ADDRESSES, PORT, Wire, differences, from_client, wrong

UDP_SEGMENT = 103  # linux/udp.h
SIZES = [(1400, 40_000), (1400, 1400 * 7), (1000, 1001), (536, 535), (1, 9), (1200, 60_000)]


@pytest.mark.parametrize("overlay", ["", "udpcsum"])
@pytest.mark.parametrize("family", [4, 6])
def test_udp_segment(net: Topology, sniff: MakeSniffer, daemon: MakeDaemon, family: int, overlay: str) -> None:
    wire = Wire(net, sniff, daemon, overlay=overlay)
    own, address = ADDRESSES[family]
    kind = (socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    with wire.client.open_socket(*kind) as out, wire.server.open_socket(*kind) as into:
        into.bind((address, PORT))
        into.settimeout(10)
        out.bind((own, PORT))
        for size, length in SIZES:
            out.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
            out.sendto(bytes(n * 7 & 255 for n in range(length)), (address, PORT))
            for _ in range(-(-length // size)):
                into.recv(2000)
    truth, copies, metrics = wire.finish()

    assert metrics.total("mirrord_segmented_frames_total") == 5
    assert metrics.total("mirrord_dropped_frames_total") == 0
    assert wrong(copies) == ""
    assert differences(truth, copies, from_client(family, "udp", overlay=bool(overlay))) == []
