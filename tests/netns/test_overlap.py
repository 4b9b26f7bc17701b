"""Sessions that share a source: each copies, or only the first one whose filter accepts.

client eth0 ---- nic [source] uplink ---- eth0 [collector]
                              span ---- span
"""

from __future__ import annotations

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.send import send, udp_frame
from tests.support.topology import Topology, receive_vxlan

CLIENT, SERVER = ("02:00:00:00:00:01", "10.1.0.1", 5000), ("02:00:00:00:00:02", "10.1.0.2")
PORTS = (53, 123, 514, 1234)

CONFIGURATION = """
[filters.names]
rules = [ {{ priority = 1, action = "accept", protocol = "udp", destination_ports = "53" }} ]
[filters.low]
rules = [ {{ priority = 1, action = "reject", protocol = "udp", destination_ports = "514" }},
          {{ priority = 2, action = "accept", protocol = "udp", destination_ports = "1-1023" }} ]

[mirrors.m]
overlap = "{overlap}"
[[mirrors.m.sessions]]
name = "rest"
priority = 30
source = "nic"
destination = {{ type = "vxlan", remote = "10.99.0.2", vni = 3 }}
[[mirrors.m.sessions]]
name = "low"
priority = 20
source = "nic"
filter = "low"
destination = {{ type = "device", device = "span" }}
[[mirrors.m.sessions]]
name = "names"
priority = 10
source = {{ type = "device", device = "nic", perspective = "guest" }}
direction = "egress"
filter = "names"
destination = {{ type = "device", device = "span" }}
"""


@pytest.mark.parametrize(
    ("overlap", "rest"), [("first", [514, 1234]), ("all", [53, 123, 514, 1234])], ids=["first", "all"]
)
def test_no_destination_gets_a_frame_twice(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon, overlap: str, rest: list[int]
) -> None:
    client, source, collector = net.host("client"), net.host("source"), net.host("collector")
    net.link(client, "eth0", source, "nic")
    net.link(source, "span", collector, "span")
    net.link(source, "uplink", collector, "eth0", ("10.99.0.1/24", "10.99.0.2/24"), mtu=1600)
    receive_vxlan(collector, vni=3)
    span, tunnel = sniff(collector, "span", "udp"), sniff(collector, "vxlan0", "udp")
    mirrord = daemon(source, CONFIGURATION.format(overlap=overlap))

    for port in PORTS:
        send(client, "eth0", udp_frame(CLIENT, (*SERVER, port)))
    metrics = mirrord.settle(captured=2 + len(rest))
    mirrord.stop()

    assert [int(port) for (port,) in span.stop().fields("udp.dstport")] == [53, 123]
    assert [int(port) for (port,) in tunnel.stop().fields("udp.dstport")] == rest
    captured = [metrics.total("mirrord_captured_frames_total", session=name) for name in ("names", "low", "rest")]
    assert captured == [1, 1, len(rest)]  # the kernel keeps the others' frames away
