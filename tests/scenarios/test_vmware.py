"""Document 002: distributed port mirroring (SPAN) of t1 to t2, on one host, t2's normal I/O allowed.

t1 ens160 ---- p1 [host: br0] uplink ---- the world, with 114.114.114.114
                | mirrored
t2 ens160 ---- p2 [br0 too]
"""

from __future__ import annotations

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.topology import Topology

CONFIGURATION = """
[mirrors.span]
enabled = true

[[mirrors.span.sessions]]
name = "t1"
direction = "both"
source = { type = "device", device = "p1" }
destination = { type = "device", device = "p2", normal_io = true }
"""


def test_t2_sees_the_whole_ping_of_t1_and_keeps_its_own_network(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon
) -> None:
    host, t1, t2, world = net.host("host"), net.host("t1"), net.host("t2"), net.host("world")
    host.ip("link add name br0 type bridge")
    host.ip("link set dev br0 up")
    net.link(t1, "ens160", host, "p1", ("10.95.48.150/24", ""))
    net.link(t2, "ens160", host, "p2", ("10.95.48.151/24", ""))
    net.link(world, "eth0", host, "uplink", ("10.95.48.1/24", ""))
    for port in ("p1", "p2", "uplink"):
        host.ip(f"link set dev {port} master br0")
    world.ip("address add 114.114.114.114/32 dev lo")
    t1.ip("route add default via 10.95.48.1")
    received = sniff(t2, "ens160", "icmp and host 114.114.114.114")
    mirrord = daemon(host, CONFIGURATION)

    t1.run("ping", "-c", "2", "-i", "0.2", "114.114.114.114")
    lines = received.wait_lines(4)
    assert "2 received" in t2.run("ping", "-c", "2", "-i", "0.2", "10.95.48.1")
    mirrord.stop()

    assert received.stop().lines() == lines
    pair = ("10.95.48.150 > 114.114.114.114: ICMP echo request", "114.114.114.114 > 10.95.48.150: ICMP echo reply")
    for number, line in enumerate(lines):
        assert pair[number % 2] in line, lines
        assert line.endswith(f"seq {number // 2 + 1}, length 64"), lines
    assert len(lines) == 4
