"""Which socket of a group the kernel gives a frame to, by the program of `workers`.

client eth0 ---- nic [source] tun0
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, fragment6
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from mirrord.dataplane.capture.fanout import Group
from mirrord.dataplane.capture.packet_socket import Capture
from mirrord.dataplane.filter.by_device import Wanted
from mirrord.dataplane.filter.rules import Selection
from mirrord.dataplane.frame.wire import Frame
from mirrord.dataplane.netns import find
from mirrord.plans import CapturePlan
from tests.support.topology import Host, Topology
from tests.support.tun import Tun

SOCKETS, PAIRS = 4, 200
CLIENT, SERVER = "02:00:00:00:00:01", "02:00:00:00:00:02"
THERE, BACK = Ether(src=CLIENT, dst=SERVER), Ether(src=SERVER, dst=CLIENT)
TAGS = (None, Dot1Q(vlan=5), Dot1AD(vlan=7) / Dot1Q(vlan=5), Dot1AD(vlan=7) / Dot1Q(vlan=5) / Dot1Q(vlan=6))


@contextmanager
def group(source: Host, device: str = "nic", *, raw: bool = False) -> Iterator[list[Capture]]:
    index = source.index(device)
    plan = CapturePlan(device, index, Selection(), mode="socket", netns=find(source.name), raw=raw)
    shared = Group(divides=True, raw=raw)
    with ExitStack() as stack:
        captures = []
        for _ in range(SOCKETS):
            captures.append(Capture(plan, group=shared))
            stack.callback(captures[-1].close)
        for capture in captures:
            capture.select(Wanted(0, Selection()))
        yield captures


def read(captures: list[Capture]) -> list[list[Frame]]:
    found: list[list[Frame]] = []
    for capture in captures:
        found.append([])
        while frames := list(capture.read()):
            found[-1] += frames
    return found


def between(one: str, other: str) -> Iterator[tuple[Packet, Packet]]:
    """What two hosts say to each other, there and back: protocols, ports, fragments."""
    network = IPv6 if ":" in one else IP
    there, back = network(src=one, dst=other), network(src=other, dst=one)
    for protocol in (TCP, UDP):
        for port in (1, 2, 3):
            yield there / protocol(sport=port, dport=80), back / protocol(sport=80, dport=port)
    if network is IP:
        yield there / ICMP(), back / ICMP(type=0)
        pieces = zip(fragment(there / UDP() / bytes(2000)), fragment(back / TCP() / bytes(2000)), strict=False)
        yield from pieces
    else:
        yield there / ICMPv6EchoRequest(), back / IPv6ExtHdrHopByHop() / UDP()
        yield from zip(
            fragment6(there / IPv6ExtHdrFragment() / UDP() / bytes(2000), 1280),
            fragment6(back / IPv6ExtHdrFragment() / TCP() / bytes(2000), 1280),
            strict=False,
        )


def test_all_of_an_address_pair_is_one_sockets_whatever_way_it_comes(net: Topology) -> None:
    client, source = net.host("client"), net.host("source")
    net.link(client, "eth0", source, "nic", mtu=1600)
    with (
        group(source) as captures,
        client.open_socket(socket.AF_PACKET, socket.SOCK_RAW) as received,
        source.open_socket(socket.AF_PACKET, socket.SOCK_RAW) as sent,
    ):
        received.bind(("eth0", 0))
        sent.bind(("nic", 0))
        used = []
        for pair in range(24):
            hosts = (f"10.0.0.{pair}", "10.1.0.1") if pair % 2 else (f"2001:db8::{pair:x}", "2001:db8:1::1")
            count = 0
            for there, back in between(*hosts):
                for tags in TAGS:
                    for out, link, packet in ((received, THERE, there), (sent, BACK, back)):
                        out.send(bytes(link / packet if tags is None else link / tags / packet))
                        count += 1
            takers = [len(frames) for frames in read(captures)]
            assert sorted(takers) == [0] * (SOCKETS - 1) + [count], (hosts, takers)
            used.append(takers.index(count))
        assert set(used) == set(range(SOCKETS))


def test_pairs_are_spread_evenly(net: Topology) -> None:
    client, source = net.host("client"), net.host("source")
    net.link(client, "eth0", source, "nic")
    kinds: dict[str, Callable[[int], Packet]] = {
        "hosts of a subnet": lambda n: THERE / IP(src=f"10.0.0.{n + 1}", dst="10.0.0.254") / UDP(),
        "neighbours": lambda n: THERE / IP(src=f"10.0.{n}.1", dst=f"10.0.{n}.2") / UDP(),
        "IPv6": lambda n: THERE / IPv6(src=f"2001:db8::{n:x}", dst="2001:db8::ffff") / UDP(),
        "MAC addresses": lambda n: Ether(src=f"02:00:00:00:00:{n:02x}", dst=SERVER, type=0x88B5) / Raw(bytes(46)),
    }
    with group(source) as captures, client.open_socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind(("eth0", 0))
        for kind, frame in kinds.items():
            for n in range(PAIRS):
                out.send(bytes(frame(n)))
            parts = [len(frames) for frames in read(captures)]
            assert sum(parts) == PAIRS
            # Chi-squared over four: below 22 but for one in 10^4 even hashes.
            assert sum((part - PAIRS / SOCKETS) ** 2 / (PAIRS / SOCKETS) for part in parts) < 22, (kind, parts)


def test_arp_is_one_sockets(net: Topology) -> None:
    client, source = net.host("client"), net.host("source")
    net.link(client, "eth0", source, "nic")
    with group(source) as captures, client.open_socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind(("eth0", 0))
        for n in range(20):
            mac = f"02:00:00:00:01:{n:02x}"
            out.send(bytes(Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=mac, pdst="10.0.0.1")))
            out.send(bytes(Ether(src=SERVER, dst=mac) / ARP(op=2, hwdst=mac)))
        assert Counter(map(bool, read(captures))) == {True: 1, False: SOCKETS - 1}


def test_all_of_an_address_pair_is_one_sockets_without_ethernet(net: Topology) -> None:
    source = net.host("source")
    with (
        Tun(source, "tun0") as wire,
        group(source, "tun0", raw=True) as captures,
        source.open_socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sent,
    ):
        used = []
        for pair in range(24):
            hosts = (f"10.0.0.{pair}", "10.1.0.1") if pair % 2 else (f"2001:db8::{pair:x}", "2001:db8:1::1")
            count = 0
            for there, back in between(*hosts):
                wire.send(bytes(there))
                sent.sendto(bytes(back), ("tun0", 0x0800 if pair % 2 else 0x86DD))
                count += 2
            takers = [len(frames) for frames in read(captures)]
            assert sorted(takers) == [0] * (SOCKETS - 1) + [count], (hosts, takers)
            used.append(takers.index(count))
        assert set(used) == set(range(SOCKETS))
