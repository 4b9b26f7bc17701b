"""The receiving end: a sender whose packets are made by hand, and an appliance with a monitoring device.

sender eth0 ---- eth0 [appliance] mon0 ---- mon1
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scapy.contrib.geneve import GENEVE, GeneveOptions
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vxlan import VXLAN

from tests.conftest import MakeSniffer
from tests.support.daemon import Daemon
from tests.support.packets import LINK, V4
from tests.support.send import send
from tests.support.topology import Host, Topology, acquaint

FRAMES = [
    bytes(layers)
    for layers in (
        LINK / V4 / UDP(sport=1000, dport=2000) / b"whole".ljust(18, b"."),
        LINK / V4 / TCP(sport=1000, dport=80, flags="S"),
        LINK / V4 / UDP(sport=1000, dport=2000) / bytes(1400),
        LINK / V4 / ICMP() / b"odd",
        LINK / IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(sport=1000, dport=2000) / b"six",
        Ether(src="02:00:00:00:00:01", dst="ff:ff:ff:ff:ff:ff") / ARP(pdst="10.0.0.2"),
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02", type=0x88B6) / b"experimental".ljust(46, b"\0"),
    )
]


def marked(number: int) -> bytes:
    """A small frame, told from others by its number; no host answers it (RFC 9542, appendix B.2)."""
    return bytes(LINK)[:12] + b"\x88\xb6" + number.to_bytes(2, "big").ljust(46, b"\0")


def session(name: str, source: str, destination: str = '{ type = "device", device = "mon0" }', more: str = "") -> str:
    return f"""
[[mirrors.m.sessions]]
name = "{name}"
source = {source}
destination = {destination}
{more}
"""


class Bench:
    """A sender whose packets are made by hand, and an appliance with a monitoring device."""

    def __init__(self, net: Topology, sniff: MakeSniffer, *, mtu: int = 1600) -> None:
        self.sniff = sniff
        self.sender, self.appliance = net.host("sender", ipv6=True), net.host("appliance", ipv6=True)
        for host in (self.sender, self.appliance):  # addresses can be used at once
            host.run(
                "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.default.router_solicitations=0"
            )
        net.link(self.sender, "eth0", self.appliance, "eth0", ("10.99.0.1/24", "10.99.0.2/24"), mtu=mtu)
        self.sender.ip("address add 2001:db8:99::1/64 dev eth0 nodad")
        self.appliance.ip("address add 2001:db8:99::2/64 dev eth0 nodad")
        acquaint(self.sender, "eth0", "10.99.0.1", self.appliance, "eth0", "10.99.0.2")
        self.appliance.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        self.appliance.ip("link add mon0 mtu 1600 type veth peer name mon1 mtu 1600")
        for device in ("mon0", "mon1"):
            self.appliance.ip(f"link set dev {device} up")
        self.out = sniff(self.appliance, "mon1")
        self._to = Ether(src=self.sender.mac("eth0"), dst=self.appliance.mac("eth0"))

    def send(self, packets: Iterable[Any]) -> None:
        """IP packets of scapy's, to the appliance."""
        for packet in packets:
            send(self.sender, "eth0", bytes(self._to / packet))

    def captured(self, mirrord: Daemon, count: int) -> list[bytes]:
        """Every frame that came out, once `count` packets were taken; the daemon is ended."""
        metrics = mirrord.settle(captured=count)
        mirrord.stop()
        assert metrics.total("mirrord_captured_frames_total") == count
        return self.out.stop().frames()


def missing(mirrord: Daemon, name: str) -> float:
    """Packets of a session's tunnel that did not come."""
    return mirrord.metrics().total("mirrord_tunnel_missing_packets_total", session=name)


def vxlan(vni: int, frame: bytes, source: str = "10.99.0.1", **options: Any) -> Any:
    outer = IP(src=source, dst="10.99.0.2", **options) / UDP(sport=50000, dport=4789, chksum=0)
    return outer / VXLAN(vni=vni, flags="Instance") / frame


def geneve(vni: int, inner: Any, protocol: int = 0x6558) -> Any:
    option = GeneveOptions(classid=0x0102, type=1, data=bytes(8))
    outer = IP(src="10.99.0.1", dst="10.99.0.2") / UDP(sport=50000, dport=6081, chksum=0)
    return outer / GENEVE(vni=vni, proto=protocol, options=[option]) / inner


def gre(*layers: Any) -> Any:
    packet = IP(src="10.99.0.1", dst="10.99.0.2", proto=47)
    for layer in layers:
        packet /= layer
    return packet


def pair(host: Host, one: str, other: str) -> None:
    """A veth pair in a host, up."""
    host.ip(f"link add {one} mtu 1500 type veth peer name {other} mtu 1500")
    for device in (one, other):
        host.ip(f"link set dev {device} up")
