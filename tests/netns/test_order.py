"""Copies leave in the order of capture, whatever the destination, the way out, the sizes and the flows.

client eth0 ---- nic [source] uplink ---- eth0 [collector]
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest
from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

from mirrord.dataplane.capture import PACKET_VNET_HDR
from mirrord.dataplane.frame import VNET
from mirrord.dataplane.transmit import SOL_PACKET
from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.source import linked
from tests.support.topology import Host, Topology

CLIENT, SERVER = "02:00:00:00:00:01", "02:00:00:00:00:02"
LINK = Ether(src=CLIENT, dst=SERVER)
FLOWS = 64
BATCH = 512  # copies that joined ones may overtake: docs/tuning.md
TCPV4, NEEDS_CSUM = 1, 1  # linux/virtio_net.h

TUNNEL = '{{ type = "{}", remote = "10.99.0.2", {} }}'
VXLAN, GENEVE = TUNNEL.format("vxlan", "vni = 1"), TUNNEL.format("geneve", "vni = 1")
ERSPAN = TUNNEL.format("erspan", 'erspan_type = "II", session_id = 1')
OUTER_IP, OUTER_UDP = 34, 42  # bytes of headers, Ethernet's included
WAYS = {
    "vxlan, packet": (VXLAN, 'transmit = "packet"\ngso = "off"', OUTER_UDP + 8),
    "vxlan, socket": (VXLAN, 'transmit = "socket"', OUTER_UDP + 8),
    "geneve, auto": (GENEVE, "", OUTER_UDP + 8),
    "gre": (TUNNEL.format("gre", "key = 7"), "", OUTER_IP + 8),
    "erspan, socket": (ERSPAN, 'transmit = "socket"', OUTER_IP + 16),
    "device": ('{ type = "device", device = "uplink" }', "", 0),
}


@pytest.fixture(autouse=True)
def one_processor() -> Iterator[None]:
    """All on one processor, what is started from here too: each has a queue of its own of what a veth receives."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    yield
    os.sched_setaffinity(0, allowed)


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host, Host]:
    return linked(net)


def configuration(destination: str, more: str = "") -> str:
    return f"""
[[mirrors.m.sessions]]
name = "s"
direction = "ingress"
source = "nic"
destination = {destination}
{more}
"""


class Sent(NamedTuple):
    """A frame as it is given to the client's device, and what the wire would carry of it."""

    frame: bytes
    wire: list[bytes]
    vnet: bytes = VNET.pack(0, 0, 0, 0, 0, 0)


def plain(*packets: Packet) -> Iterator[Sent]:
    for packet in packets:
        frame = bytes(packet).ljust(60, b"\0")
        yield Sent(frame, [frame])


def send_each(client: Host, frames: Sequence[Sent]) -> None:
    with client.open_socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind(("eth0", 0))
        out.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        for frame in frames:
            out.send(frame.vnet + frame.frame)


def datagram(number: int, flow: int, length: int) -> Packet:
    """Numbered, of one of 64 flows between as many hosts."""
    ends = IP(src=f"10.0.{flow}.1", dst="10.1.0.1") / UDP(sport=1000 + flow, dport=9)
    return LINK / ends / struct.pack("!I", number).ljust(length, b".")


def super_frame(number: int, length: int) -> Sent:
    """As a device with TSO is given it, cut every 1,000 bytes; each piece as scapy makes it."""

    def piece(sequence: int, identification: int, payload: bytes) -> bytes:
        ends = IP(src=f"10.2.{number % FLOWS}.1", dst="10.1.0.1", id=identification)
        return bytes(LINK / ends / TCP(sport=5000, dport=80, flags="A", seq=sequence) / payload)

    payload = (number.to_bytes(4, "big") * (length // 4 + 1))[:length]
    pieces = [piece(at, number + at // 1000, payload[at : at + 1000]) for at in range(0, length, 1000)]
    return Sent(piece(0, number, payload), pieces, VNET.pack(NEEDS_CSUM, TCPV4, 54, 1000, 34, 16))


def mixture() -> Iterator[Sent]:
    """64 flows in turn: small and odd sizes, super-frames, fragments of IPv4 and IPv6, tags, what is no IP."""
    for number in range(3 * FLOWS):
        yield from plain(datagram(number, number % FLOWS, 18 + number * 7 % 1300))
        if number % 3 == 0:
            yield super_frame(number, 1500 + 37 * number)
        if number % 5 == 0:
            whole = IP(src="10.0.0.1", dst="10.1.0.1", id=number) / UDP(sport=1000, dport=9) / bytes(1994)
            yield from plain(*(LINK / piece for piece in fragment(whole, 1400)))
        if number % 7 == 0:
            whole = IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrFragment(id=number) / UDP() / bytes(2000)
            yield from plain(*(LINK / piece for piece in fragment6(whole, 1280)))
        if number % 11 == 0:
            yield from plain(LINK / Dot1Q(vlan=number) / IP(dst="10.1.0.1") / ICMP(seq=number) / bytes(20))
        if number % 13 == 0:
            yield from plain(LINK / ARP(psrc="10.0.0.1", pdst=f"10.1.0.{number}"))


@pytest.mark.parametrize("way", WAYS)
def test_64_flows_in_turn_arrive_as_they_were_captured(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon, sniff: MakeSniffer, way: str
) -> None:
    client, source, collector = hosts
    destination, more, headers = WAYS[way]
    arrived = sniff(collector, "eth0", f"not ether src {collector.mac('eth0')}")
    mirrord = daemon(source, configuration(destination, more))
    sent = list(mixture())
    send_each(client, sent)
    metrics = mirrord.settle(len(sent))
    assert [frame[headers:] for frame in arrived.stop().frames()] == [frame for one in sent for frame in one.wire]
    assert metrics.total("mirrord_mirrored_frames_total") == len(sent)


def conversations() -> Iterator[Packet]:
    """What sensors need in order: by flows in turn, an answer after its question, a connection after its name."""
    for number in range(20):
        ends = IP(src="10.0.0.1", dst="10.1.0.1") / UDP(sport=1000 + number % 4, dport=9)
        yield LINK / ends / struct.pack("!I", number)
    for number in range(40):
        ask, answer = ARP(psrc="10.0.0.1", pdst="10.0.1.1"), ARP(op=2, psrc="10.0.1.1", pdst="10.0.0.1")
        yield from (LINK / ask, Ether(src=SERVER, dst=CLIENT) / answer)
        name, address = f"h{number}.example", f"10.3.0.{number + 1}"
        there, back = IP(src="10.0.0.1", dst="10.0.0.53"), IP(src="10.0.0.53", dst="10.0.0.1")
        yield LINK / there / UDP(sport=2000 + number, dport=53) / DNS(id=number, qd=DNSQR(qname=name))
        found = DNS(id=number, qr=1, qd=DNSQR(qname=name), an=DNSRR(rrname=name, rdata=address))
        yield Ether(src=SERVER, dst=CLIENT) / back / UDP(sport=53, dport=2000 + number) / found
        yield LINK / IP(src="10.0.0.1", dst=address) / TCP(sport=3000 + number, dport=443, flags="S", seq=number)
    for number in range(20):  # one flow of small and of fragmented datagrams
        whole = IP(src="10.0.0.1", dst="10.1.0.1", id=number) / UDP(sport=4000, dport=9) / bytes(1994 * (number % 2))
        yield from (LINK / piece for piece in fragment(whole, 1400))


def test_what_sensors_follow_arrives_in_order(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon, sniff: MakeSniffer
) -> None:
    client, source, collector = hosts
    arrived = sniff(collector, "eth0", "udp port 4789")
    mirrord = daemon(source, configuration(VXLAN))
    sent = list(plain(*conversations()))
    send_each(client, sent)
    mirrord.settle(len(sent))
    seen = arrived.stop()
    assert [packet[OUTER_UDP + 8 :] for packet in seen.frames()] == [one.frame for one in sent]
    ports = [ports.split(",")[1] for (ports,) in seen.fields("udp.srcport", expression="udp.dstport == 9")]
    assert ports[:20] == ["1000", "1001", "1002", "1003"] * 5
    said = seen.fields("arp.opcode", "dns.count.answers", "tcp.dstport", expression="arp || dns || tcp")
    assert said == [["1", "", ""], ["2", "", ""], ["", "0", ""], ["", "1", ""], ["", "", "443"]] * 40


@pytest.mark.parametrize(("gso", "transmit"), [("auto", "packet"), ("auto", "socket"), ("on", "auto")])
def test_joined_copies_leave_in_order_or_within_a_batch(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon, sniff: MakeSniffer, dataplane: str, gso: str, transmit: str
) -> None:
    """By an ifb, which has the kernel cut what is joined, before a tap sees it."""
    client, source, _ = hosts
    source.ip("link add out mtu 1600 type ifb")
    source.run("ethtool", "-K", "out", "tx-udp-segmentation", "off")
    source.ip("link set out up")
    source.ip("address add 10.98.0.1/24 dev out")
    source.ip(f"neighbour add 10.98.0.2 lladdr {SERVER} dev out")
    tap = sniff(source, "out", "udp port 4789")
    ways = f'transmit = "{transmit}"\ngso = "{gso}"'
    mirrord = daemon(source, configuration('{ type = "vxlan", remote = "10.98.0.2", vni = 1 }', ways))
    sent = list(plain(*(datagram(number, number // 4 % FLOWS, 100 + number % 4 // 3) for number in range(1200))))
    send_each(client, sent)
    metrics = mirrord.settle(len(sent))
    joined = next(dict(labels)["gso"] for _, labels in metrics.select("mirrord_session_info"))
    assert joined == ("on" if dataplane == "native" else "off: the native data plane's alone")
    seen = [packet[OUTER_UDP + 8 :] for packet in tap.stop().frames()]
    wanted = [one.frame for one in sent]
    if gso == "auto" or dataplane == "python":
        assert seen == wanted
        return
    assert sorted(seen) == sorted(wanted)
    assert all(abs(n - wanted.index(frame)) < BATCH for n, frame in enumerate(seen))
