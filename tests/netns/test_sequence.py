"""ERSPAN's sequence numbers: one series for a session (RFC 2890 2.2), however many devices and workers it has.

client eth0, eth1 ---- nic0, nic1 [source] uplink ---- eth0 [collector]
"""

from __future__ import annotations

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.send import send, udp_frame
from tests.support.topology import Topology, acquaint

CONFIGURATION = """
[[mirrors.m.sessions]]
name = "s"
direction = "ingress"
source = { type = "device", device = ["nic0", "nic1"] }
destination = { type = "erspan", erspan_type = "II", session_id = 5, remote = "10.99.0.2" }
workers = 2
"""
FLOWS = 8


def test_devices_and_workers_of_a_session_count_in_one_series(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon
) -> None:
    client, source, collector = net.host("client"), net.host("source"), net.host("collector")
    for n in (0, 1):
        net.link(client, f"eth{n}", source, f"nic{n}")
    net.link(source, "uplink", collector, "eth0", ("10.99.0.1/24", "10.99.0.2/24"), mtu=1600)
    acquaint(source, "uplink", "10.99.0.1", collector, "eth0", "10.99.0.2")
    arrived = sniff(collector, "eth0", "proto gre")
    mirrord = daemon(source, CONFIGURATION)

    def converse() -> None:
        for host in range(FLOWS):
            ends = ("02:00:00:00:00:01", f"10.1.0.{host}", 1000), ("02:00:00:00:00:02", "10.1.1.1", 2000)
            for n in (0, 1):
                send(client, f"eth{n}", udp_frame(*ends), count=5)

    converse()
    mirrord.settle(captured=10 * FLOWS)
    source.ip("link delete nic1")
    net.link(client, "eth1", source, "nic1")  # the same device for its session: the series goes on
    mirrord.wait_up()
    converse()
    metrics = mirrord.settle(captured=20 * FLOWS)
    mirrord.stop()

    assert metrics.total("mirrord_mirrored_frames_total") == 20 * FLOWS
    numbers = [int(number) for (number,) in arrived.stop().fields("gre.sequence_number")]
    assert sorted(numbers) == list(range(20 * FLOWS))
