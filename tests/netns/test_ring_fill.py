"""How full a ring is, against frames that each close a block of it: alone, they wait for the reader in one each.

eth0 [other] ---- nic [source]
"""

from __future__ import annotations

from mirrord.dataplane.capture.packet_socket import BLOCK_SIZE, Capture
from mirrord.dataplane.filter.rules import Selection
from mirrord.dataplane.netns import find
from mirrord.plans import CapturePlan
from tests.support.send import send, udp_frame
from tests.support.topology import Topology
from tests.support.wait import wait_for

FRAME = udp_frame(("02:00:00:00:00:01", "10.0.0.1", 7), ("02:00:00:00:00:02", "10.0.0.2", 9), length=64)


def test_blocks_that_wait_are_told_until_they_are_read(net: Topology) -> None:
    other, source = net.host("other"), net.host("source")
    net.link(other, "eth0", source, "nic")
    plan = CapturePlan("nic", source.index("nic"), Selection(), ring_size=4 * BLOCK_SIZE, netns=find(source.name))
    capture = Capture(plan)
    try:
        assert capture.fill() == 0
        for fill in (0.25, 0.5, 0.75):
            send(other, "eth0", FRAME)
            wait_for(lambda fill=fill: capture.fill() == fill, "the kernel closed the block")  # type: ignore[misc]
        assert len(list(capture.read())) == 1
        assert capture.fill() == 0.5
    finally:
        capture.close()


def test_a_busy_sources_ring_keeps_a_block_longer(net: Topology) -> None:
    source = net.host("source")
    net.link(net.host("other"), "eth0", source, "nic")
    index, netns = source.index("nic"), find(source.name)
    for mode, milliseconds in (("ring", 4), ("auto", 8)):
        capture = Capture(CapturePlan("nic", index, Selection(), mode=mode, netns=netns), mode="ring")
        try:
            assert f"blk_nr:16,frm_size:2048,frm_nr:4096,tmo:{milliseconds}" in source.run(
                "ss", "--packet", "--extended"
            )
        finally:
            capture.close()
