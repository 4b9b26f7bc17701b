"""Document 003: Open vSwitch's select_src_port and select_dst_port, as a device session does them.

ns1 tap1 ---- p1 [switch: br0] p2 ---- tap2 ns2
               | mirrored
ns3 tap3 ---- p3
"""

from __future__ import annotations

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.topology import Topology
from tests.support.wait import wait_for


def test_a_port_is_mirrored_to_a_gre_port_until_the_mirror_is_cleared(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon
) -> None:
    """ns1 tap1 ---- p1 [switch: br0] p2 ---- tap2 ns2, and eth0 of the switch leads to 10.95.30.43."""
    switch, ns1, ns2, world = net.host("switch"), net.host("ns1"), net.host("ns2"), net.host("world")
    net.link(ns1, "tap1", switch, "p1", ("10.10.10.11/24", ""))
    net.link(ns2, "tap2", switch, "p2", ("10.10.10.12/24", ""))
    switch.add_bridge("br0", "p1", "p2")
    net.link(switch, "eth0", world, "eth0", ("10.0.2.15/24", "10.0.2.2/24"))
    world.ip("address add 10.95.30.43/32 dev lo")
    switch.ip("route add default via 10.0.2.2")
    received = sniff(world, "eth0", "proto gre")
    m3 = """
[[mirrors.m3.sessions]]
name = "tap1"
direction = "ingress"
source = "p1"
destination = { type = "gre", remote = "10.95.30.43", key = 0x1111 }
"""
    mirrord = daemon(switch, m3)

    ns1.run("ping", "-c", "2", "-i", "0.2", "10.10.10.12")
    received.wait_lines(2, "greater 140")
    metrics = mirrord.settle(captured=2)
    mirrord.file.write_text(mirrord.file.read_text().replace(m3, ""))
    mirrord.reload()
    wait_for(lambda: not mirrord.metrics().select("mirrord_session_up"), "the mirror cleared")
    ns1.run("ping", "-c", "2", "-i", "0.2", "10.10.10.12")
    mirrord.stop()

    everything = received.stop().frames()  # ARP is mirrored too
    echoes = [line for line in received.lines() if "ICMP" in line]
    assert len(echoes) == 2, echoes
    outer = f"{switch.mac('eth0')} > {world.mac('eth0')}, ethertype IPv4 (0x0800), length 140: 10.0.2.15 > 10.95.30.43:"
    gre = f"GREv0, key=0x1111, proto TEB (0x6558), length 106: {ns1.mac('tap1')} > {ns2.mac('tap2')},"
    inner = "ethertype IPv4 (0x0800), length 98: 10.10.10.11 > 10.10.10.12: ICMP echo request,"
    assert all(line.startswith(f"{outer} {gre} {inner}") for line in echoes), echoes
    assert metrics.total("mirrord_sent_packets_total", mirror="m3") == len(everything)
    assert metrics.total("mirrord_sent_bytes_total", mirror="m3") == sum(map(len, everything))


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        # What the switch takes in at the port, and what it puts out there.
        pytest.param("ingress", "10.10.10.11 > 10.10.10.12: ICMP echo request", id="select_src_port"),
        pytest.param("egress", "10.10.10.12 > 10.10.10.11: ICMP echo reply", id="select_dst_port"),
    ],
)
def test_a_port_is_mirrored_in_one_direction(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon, direction: str, expected: str
) -> None:
    switch, ns1, ns2, ns3 = net.host("switch"), net.host("ns1"), net.host("ns2"), net.host("ns3")
    net.link(ns1, "tap1", switch, "p1", ("10.10.10.11/24", ""))
    net.link(ns2, "tap2", switch, "p2", ("10.10.10.12/24", ""))
    net.link(ns3, "tap3", switch, "p3")
    switch.add_bridge("br0", "p1", "p2")
    received = sniff(ns3, "tap3")
    mirrord = daemon(
        switch,
        f"""
[mirrors.m0]
enabled = true

[[mirrors.m0.sessions]]
name = "tap1"
direction = "{direction}"
source = {{ type = "device", device = "p1" }}
destination = {{ type = "device", device = "p3" }}
""",
    )

    ns1.run("ping", "-c", "2", "-i", "0.2", "10.10.10.12")
    received.wait_lines(2, "icmp")
    metrics = mirrord.settle(captured=2)
    mirrord.stop()

    echoes = received.stop().lines("icmp")
    assert len(echoes) == 2, echoes
    assert all(f"ethertype IPv4 (0x0800), length 98: {expected}" in line for line in echoes), echoes
    everything = received.frames()  # ARP is mirrored too
    assert metrics.total("mirrord_sent_packets_total", mirror="m0", session="tap1") == len(everything)
    assert metrics.total("mirrord_sent_bytes_total", mirror="m0", session="tap1") == sum(map(len, everything))
