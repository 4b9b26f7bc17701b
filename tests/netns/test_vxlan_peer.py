"""VXLAN copies taken by an independent VTEP, the kernel's: the mirrored frame comes out of its device byte for byte.

client eth0 ---- nic [source] uplink ---- eth0 [collector] vxlan0
"""

from __future__ import annotations

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.packets import LINK, V4
from tests.support.send import send
from tests.support.topology import Topology, receive_vxlan

CONFIGURATION = """
[mirrors.m]
enabled = true

[[mirrors.m.sessions]]
name = "s"
direction = "ingress"
source = { type = "device", device = "nic" }
destination = { type = "vxlan", remote = "10.99.0.2", vni = 8388609 }
"""
V6 = IPv6(src="2001:db8::1", dst="2001:db8::2")
FRAMES = [
    bytes(layers)
    for layers in (
        LINK / V4 / UDP(sport=1000, dport=2000) / b"whole".ljust(18, b"."),
        LINK / V4 / TCP(sport=1000, dport=80, flags="S"),
        LINK / V4 / UDP(sport=1000, dport=2000) / bytes(1472),  # as large as the source's MTU lets it be
        LINK / V4 / ICMP() / b"odd",
        LINK / IP(src="10.0.0.1", dst="10.0.0.2", flags="MF", id=7) / UDP(sport=1, dport=2, len=80) / bytes(24),
        LINK / V6 / UDP(sport=1000, dport=2000) / b"six",
        Ether(src="02:00:00:00:00:01", dst="ff:ff:ff:ff:ff:ff") / ARP(pdst="10.0.0.2"),
        Ether(src="02:00:00:00:00:01", dst="01:80:c2:00:00:0e", type=0x88CC) / bytes(46),
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02", type=0x88B6) / b"experimental".ljust(46, b"\0"),
    )
]


def test_a_kernel_vxlan_device_takes_every_copy(net: Topology, sniff: MakeSniffer, daemon: MakeDaemon) -> None:
    client, source, collector = net.host("client"), net.host("source"), net.host("collector")
    net.link(client, "eth0", source, "nic")
    net.link(source, "uplink", collector, "eth0", ("10.99.0.1/24", "10.99.0.2/24"), mtu=1600)
    receive_vxlan(collector, vni=8388609)
    outer, inner = sniff(collector, "eth0", "udp port 4789"), sniff(collector, "vxlan0")
    mirrord = daemon(source, CONFIGURATION)

    for frame in FRAMES:
        send(client, "eth0", frame)
    metrics = mirrord.settle(captured=len(FRAMES))
    mirrord.stop()

    assert inner.stop().frames() == FRAMES
    assert metrics.total("mirrord_mirrored_frames_total") == len(FRAMES)
    assert metrics.total("mirrord_truncated_frames_total") == 0
    ports, checksums = zip(*outer.stop().fields("udp.srcport", "udp.checksum.status", expression="vxlan"), strict=True)
    assert all(49152 <= int(port.split(",")[0]) <= 65535 for port in ports), ports
    assert len(set(ports)) > 1, "flows spread over source ports"
    assert {status.split(",")[0] for status in checksums} <= {"1", "2", "3"}, "0: bad"
