"""Document 002: SPAN with the target's normal I/O not allowed, and remote mirroring over a VLAN between two hosts.

t1 ens160 ---- p1 [host: br0] uplink ---- eth0 [gateway]
                | mirrored
t2 ens160 ---- p2 [br0 too]

t1 ens160 ---- p1 [first: br0] uplink ---- eth0 [gateway]
                | mirrored: remote mirroring source, VLAN 111
               trunk ---- trunk [second] p2 ---- ens160 t2
                            | mirrored: remote mirroring destination, VLAN 111
"""

from __future__ import annotations

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

SPAN = """
[[mirrors.span.sessions]]
name = "t1"
source = { type = "device", device = "p1" }
destination = { type = "device", device = "p2", normal_io = false }
"""
REMOTE_SOURCE = """
[[mirrors.remote-source.sessions]]
name = "t1"
source = { type = "device", device = "p1" }
destination = { type = "device", device = "trunk", vlan = 111 }
"""
REMOTE_DESTINATION = """
[[mirrors.remote-destination.sessions]]
name = "t2"
direction = "ingress"
source = { type = "device", device = "trunk", vlan = 111 }
destination = { type = "device", device = "p2" }
"""


def guest(net: Topology, host: Host, name: str, port: str, address: str) -> Host:
    """A virtual machine, a port of the host's bridge."""
    made = net.host(name)
    net.link(made, "ens160", host, port, (address, ""))
    host.ip(f"link set dev {port} master br0")
    return made


def bridge(net: Topology, name: str) -> Host:
    """A host with a bridge, and a gateway behind its uplink."""
    host, gateway = net.host(name), net.host("gateway")
    net.link(gateway, "eth0", host, "uplink", ("10.95.48.1/24", ""))
    host.add_bridge("br0", "uplink")
    return host


def ping(host: Host) -> str:
    return host.run("ping", "-c", "2", "-i", "0.2", "-W", "1", "10.95.48.1", check=False)


def test_t2_sees_the_whole_ping_of_t1_and_loses_its_own_network(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon
) -> None:
    host = bridge(net, "host")
    t1 = guest(net, host, "t1", "p1", "10.95.48.150/24")
    t2 = guest(net, host, "t2", "p2", "10.95.48.151/24")
    assert "2 received" in ping(t2)
    received = sniff(t2, "ens160")
    mirrord = daemon(host, SPAN)
    uplink = sniff(host, "uplink", "src host 10.95.48.151")
    assert "2 received" in ping(t1)
    assert "0 received" in ping(t2)
    lines = received.wait_lines(4, "icmp and host 10.95.48.150")
    assert uplink.stop().lines() == []  # what t2 says goes nowhere
    assert mirrord.stop()[0] == 0
    wait_for(lambda: "2 received" in ping(t2), "t2 on its network again")

    pair = ("10.95.48.150 > 10.95.48.1: ICMP echo request", "10.95.48.1 > 10.95.48.150: ICMP echo reply")
    assert len(lines) == 4, lines
    for number, line in enumerate(lines):
        assert f"ethertype IPv4 (0x0800), length 98: {pair[number % 2]}" in line, lines


def test_a_remote_mirror_over_a_vlan(net: Topology, sniff: MakeSniffer, daemon: MakeDaemon) -> None:
    first, second, t2 = bridge(net, "first"), net.host("second"), net.host("t2")
    t1 = guest(net, first, "t1", "p1", "10.95.48.150/24")
    net.link(first, "trunk", second, "trunk")
    net.link(t2, "ens160", second, "p2")
    original, received = sniff(t1, "ens160", "icmp"), sniff(t2, "ens160", "icmp")
    trunk = sniff(second, "trunk", "vlan 111 and icmp")
    daemons = [daemon(first, REMOTE_SOURCE), daemon(second, REMOTE_DESTINATION)]
    assert "2 received" in ping(t1)
    received.wait_lines(4)
    for mirrord in daemons:
        mirrord.stop()

    carried = trunk.lines()
    assert len(carried) == 4, carried
    assert all("ethertype 802.1Q (0x8100), length 102: vlan 111, p 0, ethertype IPv4" in line for line in carried)
    assert all("ethertype IPv4 (0x0800), length 98: " in line for line in received.stop().lines())
    assert received.frames() == original.stop().frames()
