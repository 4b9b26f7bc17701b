"""Copies leave in the order of capture, whatever the destination, the way out, the sizes and the flows.

client eth0 ---- nic [source] uplink ---- eth0 [collector]
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.mixture import CLIENT, FLOWS, LINK, SERVER, datagram, mixture, plain, send_each
from tests.support.source import linked
from tests.support.topology import Host, Topology
from tests.support.wire import one_processor

BATCH = 512  # copies that joined ones may overtake: docs/tuning.md

VXLAN = '{ type = "vxlan", remote = "10.99.0.2", vni = 1 }'
OUTER_IP, OUTER_UDP = 34, 42  # bytes of headers, Ethernet's included


class Way(NamedTuple):
    """A session's way out, and where and behind how many bytes its copies arrive."""

    settings: str
    expression: str
    headers: int
    device: str = "eth0"


WAYS = {
    "packet": Way(f'destination = {VXLAN}\ntransmit = "packet"\ngso = "off"', "udp port 4789", OUTER_UDP + 8),
    "socket": Way(
        'destination = { type = "vxlan", remote = "10.99.0.2", vni = 1, port = 4790 }\ntransmit = "socket"',
        "udp port 4790",
        OUTER_UDP + 8,
    ),
    "geneve": Way('destination = { type = "geneve", remote = "10.99.0.2", vni = 1 }', "udp port 6081", OUTER_UDP + 8),
    "gre": Way(
        'destination = { type = "gre", remote = "10.99.0.2", key = 7 }', "proto gre and dst 10.99.0.2", OUTER_IP + 8
    ),
    "erspan": Way(
        'destination = { type = "erspan", remote = "10.99.0.3", erspan_type = "II", session_id = 1 }\n'
        'transmit = "socket"',
        "proto gre and dst 10.99.0.3",
        OUTER_IP + 16,
    ),
    "device": Way('destination = { type = "device", device = "span" }', "", 0, "eth1"),
}


@pytest.fixture(autouse=True)
def on_one_processor() -> Iterator[None]:
    """All on one processor, what is started from here too: each has a queue of its own of what a veth receives."""
    with one_processor():
        yield


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host, Host]:
    return linked(net)


def configuration(**sessions: str) -> str:
    """Sessions of what `nic` receives, each with these settings."""
    return "".join(
        f'[[mirrors.m.sessions]]\nname = "{name}"\ndirection = "ingress"\nsource = "nic"\n{settings}\n'
        for name, settings in sessions.items()
    )


def test_64_flows_in_turn_arrive_as_they_were_captured(
    net: Topology, hosts: tuple[Host, Host, Host], daemon: MakeDaemon, sniff: MakeSniffer
) -> None:
    client, source, collector = hosts
    net.link(source, "span", collector, "eth1")
    collector.ip("address add 10.99.0.3/24 dev eth0")
    source.ip(f"neighbour replace 10.99.0.3 lladdr {collector.mac('eth0')} dev uplink")
    taps = {device: sniff(collector, device, f"not ether src {collector.mac(device)}") for device in ("eth0", "eth1")}
    mirrord = daemon(source, configuration(**{name: way.settings for name, way in WAYS.items()}))
    sent = list(mixture())
    send_each(client, "eth0", sent)
    metrics = mirrord.settle(len(WAYS) * len(sent))
    assert metrics.total("mirrord_mirrored_frames_total") == len(WAYS) * len(sent)
    recordings = {device: tap.stop() for device, tap in taps.items()}
    for name, way in WAYS.items():
        arrived = [packet[way.headers :] for packet in recordings[way.device].frames(way.expression)]
        assert arrived == [frame for one in sent for frame in one.wire], name


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
    mirrord = daemon(source, configuration(s=f"destination = {VXLAN}"))
    sent = list(plain(*conversations()))
    send_each(client, "eth0", sent)
    mirrord.settle(len(sent))
    seen = arrived.stop()
    assert [packet[OUTER_UDP + 8 :] for packet in seen.frames()] == [one.wire[0] for one in sent]
    ports = [ports.split(",")[1] for (ports,) in seen.fields("udp.srcport", expression="udp.dstport == 9")]
    assert ports[:20] == ["1000", "1001", "1002", "1003"] * 5
    said = seen.fields("arp.opcode", "dns.count.answers", "tcp.dstport", expression="arp || dns || tcp")
    assert said == [["1", "", ""], ["2", "", ""], ["", "0", ""], ["", "1", ""], ["", "", "443"]] * 40


@pytest.mark.parametrize("dataplane", ["native"], indirect=True)
@pytest.mark.parametrize(("gso", "transmit"), [("auto", "packet"), ("auto", "socket"), ("on", "auto")])
def test_joined_copies_leave_in_order_or_overtake_within_a_batch(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon, sniff: MakeSniffer, gso: str, transmit: str
) -> None:
    """By an ifb, which has the kernel cut what is joined, before a tap sees it."""
    client, source, _ = hosts
    source.ip("link add out mtu 1600 type ifb")
    source.run("ethtool", "-K", "out", "tx-udp-segmentation", "off")
    source.ip("link set out up")
    source.ip("address add 10.98.0.1/24 dev out")
    source.ip(f"neighbour add 10.98.0.2 lladdr {SERVER} dev out")
    tap = sniff(source, "out", "udp port 4789")
    destination = '{ type = "vxlan", remote = "10.98.0.2", vni = 1 }'
    ways = f'destination = {destination}\ntransmit = "{transmit}"\ngso = "{gso}"'
    mirrord = daemon(source, configuration(s=ways))
    sent = list(plain(*(datagram(number, number // 4 % FLOWS, 100 + number % 4 // 3) for number in range(1200))))
    send_each(client, "eth0", sent)
    metrics = mirrord.settle(len(sent))
    joined = next(dict(labels)["gso"] for _, labels in metrics.select("mirrord_session_info"))
    assert joined == "on"
    seen = [packet[OUTER_UDP + 8 :] for packet in tap.stop().frames()]
    wanted = [one.wire[0] for one in sent]
    if gso == "auto":
        assert seen == wanted
        return
    assert sorted(seen) == sorted(wanted)
    assert all(abs(n - wanted.index(frame)) < BATCH for n, frame in enumerate(seen))
