"""Document 002: distributed port mirroring (SPAN) of t1 to t2, on one host, t2's normal I/O allowed.

t1 ens160 ---- p1 [host: br0] uplink ---- the world, with 114.114.114.114
                | mirrored
t2 ens160 ---- p2 [br0 too]
"""

from __future__ import annotations

from scapy.layers.l2 import ARP, Ether

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.send import send
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


ENCAPSULATED = """
[mirrors.encapsulated]
enabled = true

[[mirrors.encapsulated.sessions]]
name = "gre"
source = "p1"
destination = { type = "gre", remote = "10.95.30.43", key = 0 }

[[mirrors.encapsulated.sessions]]
name = "erspan2"
source = "p1"
destination = { type = "erspan", erspan_type = "II", remote = "10.95.30.43", session_id = 2 }

[[mirrors.encapsulated.sessions]]
name = "erspan3"
source = "p1"
destination = { type = "erspan", erspan_type = "III", remote = "10.95.30.43", session_id = 3 }
"""


def test_an_encapsulated_l3_source_sends_t1_to_an_address(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon
) -> None:
    """t1 ens160 ---- p1 [host, 10.95.30.31] vmk0 ---- router ---- 10.95.30.43."""
    host, t1, router, target = net.host("host"), net.host("t1"), net.host("router"), net.host("target")
    net.link(t1, "ens160", host, "p1")
    net.link(host, "vmk0", router, "eth0", ("10.95.30.31/32", ""))
    net.link(target, "eth0", router, "eth1", ("10.95.30.43/32", ""))
    for end, device in ((host, "vmk0"), (target, "eth0")):
        end.ip(f"route add 10.95.30.1 dev {device}")
        end.ip(f"route add default via 10.95.30.1 dev {device}")
    router.ip("address add 10.95.30.1/32 dev lo")
    router.ip("route add 10.95.30.31 dev eth0")
    router.ip("route add 10.95.30.43 dev eth1")
    router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    received = sniff(target, "eth0", "proto gre and dst host 10.95.30.43")
    mirrord = daemon(host, ENCAPSULATED)

    request = ARP(hwsrc="00:50:56:b1:2c:bb", psrc="10.95.48.134", pdst="10.95.48.1")
    request = bytes(Ether(src="00:50:56:b1:2c:bb", dst="ff:ff:ff:ff:ff:ff") / request / bytes(18))
    send(t1, "ens160", request, count=4)
    metrics = mirrord.settle(captured=3 * 4)
    mirrord.stop()
    received.stop()

    macs = f"{router.mac('eth1')} > {target.mac('eth0')}"
    gre = received.lines("proto gre and ip[22:2] = 0x6558")
    line = (
        f"{macs}, ethertype IPv4 (0x0800), length 102: 10.95.30.31 > 10.95.30.43: GREv0, key=0x0, proto TEB (0x6558),"
        " length 68: 00:50:56:b1:2c:bb > ff:ff:ff:ff:ff:ff, ethertype ARP (0x0806), length 60:"
        " Request who-has 10.95.48.1 tell 10.95.48.134, length 46"
    )
    assert gre == [line] * 4
    fields = ("gre.sequence_number", "erspan.version", "eth.src", "arp.dst.proto_ipv4", "_ws.malformed")
    for session, version in ((2, 1), (3, 2)):
        assert received.fields(*fields, expression=f"erspan.spanid == {session}") == [
            [str(n), str(version), f"{router.mac('eth1')},00:50:56:b1:2c:bb", "10.95.48.1", ""] for n in range(4)
        ]
    assert len(received.frames()) == metrics.total("mirrord_sent_packets_total") == 3 * 4


def test_t2_sees_the_whole_ping_of_t1_and_keeps_its_own_network(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon
) -> None:
    host, t1, t2, world = net.host("host"), net.host("t1"), net.host("t2"), net.host("world")
    net.link(t1, "ens160", host, "p1", ("10.95.48.150/24", ""))
    net.link(t2, "ens160", host, "p2", ("10.95.48.151/24", ""))
    net.link(world, "eth0", host, "uplink", ("10.95.48.1/24", ""))
    host.add_bridge("br0", "p1", "p2", "uplink")
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
