"""A copy is never mirrored again: not on the NIC that it leaves by, not between two hosts that mirror each other."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import MakeDaemon
from tests.support.send import flood, send
from tests.support.topology import Topology, acquaint, receive_vxlan

# IEEE 802 Local Experimental Ethertype 2 (RFC 9542, appendix B.2): no host answers it.
FRAME = bytes.fromhex("020000000002 020000000001 88b6").ljust(64, b"\0")


def configuration(remote: str) -> str:
    return f"""
[mirrors.uplink]
enabled = true

[[mirrors.uplink.sessions]]
name = "all"
direction = "both"
source = {{ type = "device", device = "eth0" }}
destination = {{ type = "vxlan", remote = "{remote}", vni = 1 }}
ring_size = "64MiB"
"""


def test_a_flood_on_the_nic_that_copies_leave_by_makes_as_many_copies(
    net: Topology, daemon: MakeDaemon, tmp_path: Path
) -> None:
    count = 100_000
    source, collector = net.host("source"), net.host("collector")
    net.link(source, "eth0", collector, "eth0", ("10.99.0.1/24", "10.99.0.2/24"))
    acquaint(source, "eth0", "10.99.0.1", collector, "eth0", "10.99.0.2")
    receive_vxlan(collector)
    mirrord = daemon(source, configuration("10.99.0.2"))
    before = source.transmitted("eth0")

    flood(source, "eth0", FRAME, count, tmp_path)
    metrics = mirrord.settle(captured=count, seconds=60)
    mirrord.stop()

    assert metrics.total("mirrord_captured_frames_total") == count
    assert metrics.total("mirrord_sent_packets_total") == count
    assert source.transmitted("eth0") - before == 2 * count  # the kernel's count: the flood, and a copy of each


def test_two_hosts_that_mirror_their_uplinks_to_each_other_do_not_amplify(net: Topology, daemon: MakeDaemon) -> None:
    count = 10_000
    a, b = net.host("a"), net.host("b")
    net.link(a, "eth0", b, "eth0", ("10.99.0.1/24", "10.99.0.2/24"))
    acquaint(a, "eth0", "10.99.0.1", b, "eth0", "10.99.0.2")
    for host in (a, b):
        receive_vxlan(host)
    on_a, on_b = daemon(a, configuration("10.99.0.2")), daemon(b, configuration("10.99.0.1"))
    before_a, before_b = a.transmitted("eth0"), b.transmitted("eth0")

    send(a, "eth0", FRAME, count, rate=2_500)
    for mirrord in (on_a, on_b):
        metrics = mirrord.settle(captured=count)
        mirrord.stop()
        assert metrics.total("mirrord_captured_frames_total") == count
        assert metrics.total("mirrord_mirrored_frames_total") == count

    # a sent its frames and a copy of each; b received both, and sent a copy of the frames alone.
    assert a.transmitted("eth0") - before_a == 2 * count
    assert b.transmitted("eth0") - before_b == count
