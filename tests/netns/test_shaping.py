"""What a session leaves out on purpose: the tail of frames (snaplen), flows (sampling), what exceeds its rate.

client eth0 ---- nic [source] uplink ---- eth0 [collector] vxlan0
"""

from __future__ import annotations

import math
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.send import send, udp_frame
from tests.support.source import session, source_and_collector
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

BUCKET, BUCKET_PACKETS = 64 << 10, 64  # bytes, and copies, that may leave at once
OUTER = 14 + 20 + 8 + 8  # Ethernet, IPv4, UDP, VXLAN
CLIENT, SERVER = "02:00:00:00:00:01", "02:00:00:00:00:02"


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host, Host]:
    return source_and_collector(net)


def configuration(more: str) -> str:
    return session(f'ring_size = "64MiB"\n{more}')


def test_snaplen_counts_the_mirrored_frame_alone(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon, sniff: MakeSniffer
) -> None:
    client, source, collector = hosts
    inner = sniff(collector, "vxlan0")
    mirrord = daemon(source, configuration("snaplen = 96"))
    frames = [
        udp_frame((CLIENT, "10.0.0.1", 1), (SERVER, "10.0.0.2", n), bytes(range(200)), length=n) for n in (95, 96, 1514)
    ]
    frames[0] = frames[0][:95]
    for frame in frames:
        send(client, "eth0", frame)
    metrics = mirrord.settle(3)
    assert [len(frame) for frame in frames] == [95, 242, 1514]
    assert inner.stop().frames() == [frame[:96] for frame in frames]
    assert metrics.total("mirrord_truncated_frames_total") == 2
    assert metrics.total("mirrord_sent_bytes_total") == 95 + 96 + 96 + 3 * OUTER


def conversations(count: int) -> Iterator[tuple[bytes, bytes]]:
    """A request and its reply in each of so many flows, which differ in one address or port from one another."""
    for n in range(count):
        client = (CLIENT, f"10.{n % 7}.{n % 251}.1", 1024 + n)
        server = (SERVER, f"192.0.2.{n % 3}", 80)
        yield _quick(client, server), _quick(server, client)


def _quick(source: tuple[str, str, int], destination: tuple[str, str, int]) -> bytes:
    """As udp_frame, without a checksum in the IP header: 8,000 of them are wanted."""
    (source_mac, source_address, source_port), (mac, address, port) = source, destination
    ethernet = bytes.fromhex(mac.replace(":", "") + source_mac.replace(":", "") + "0800")
    addresses = socket.inet_aton(source_address) + socket.inet_aton(address)
    ip = bytes.fromhex("45000020000000004011") + bytes(2) + addresses
    return ethernet + ip + struct.pack("!4HI", source_port, port, 12, 0, 0)


def fragmented(count: int) -> Iterator[list[bytes]]:
    """So many conversations, each with a datagram in fragments and a small one: UDP and TCP, IPv4 and IPv6 in turn."""
    for n in range(count):
        protocol = (UDP if n % 4 < 2 else TCP)(sport=1024 + n, dport=53)
        network: Packet = IP(src=f"10.9.{n >> 8}.{n & 255}", dst="192.0.2.1", id=n)
        pieces = fragment(network / protocol / bytes(300), 104)
        if n % 2:
            network = IPv6(src=f"2001:db8::{n:x}", dst="2001:db8:1::1")
            pieces = fragment6(network / IPv6ExtHdrFragment(id=n) / protocol / bytes(300), 200)
        yield [bytes(Ether(src=CLIENT, dst=SERVER) / packet) for packet in (*pieces, network / protocol / bytes(30))]


def kept(total: int, rate: int) -> tuple[float, float]:
    """The bounds of a binomial distribution of `total` at 1 in `rate`, five standard deviations to either side."""
    mean, deviation = total / rate, math.sqrt(total * (1 / rate) * (1 - 1 / rate))
    return mean - 5 * deviation, mean + 5 * deviation


def test_sampling_keeps_whole_conversations(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon, sniff: MakeSniffer
) -> None:
    client, source, collector = hosts
    flows, pieces = list(conversations(4_000)), list(fragmented(400))
    sniffer = sniff(collector, "vxlan0")
    mirrord = daemon(source, configuration("sampling_rate = 8"))
    _send_all(client, "eth0", [request for request, _ in flows] + [piece for one in pieces for piece in one])
    _send_all(source, "nic", [reply for _, reply in flows])
    sent = 2 * len(flows) + sum(map(len, pieces))
    metrics = mirrord.settle(sent)

    arrived = Counter(sniffer.stop().frames())
    assert arrived.total() == metrics.total("mirrord_mirrored_frames_total")
    assert metrics.total("mirrord_captured_frames_total") == sent
    skipped = metrics.total("mirrord_skipped_frames_total", reason="sampled_out")
    assert metrics.total("mirrord_mirrored_frames_total") + skipped == sent

    least, most = kept(len(flows), 8)
    assert least <= sum(request in arrived for request, _ in flows) <= most
    assert all(arrived[request] == arrived[reply] <= 1 for request, reply in flows)
    least, most = kept(len(pieces), 8)
    assert least <= sum(one[0] in arrived for one in pieces) <= most
    assert all(len({arrived[piece] for piece in one}) == 1 for one in pieces)
    assert all(len(one) >= 4 for one in pieces)
    assert metrics.total("mirrord_unplaced_frames_total") == 0


def _send_all(host: Host, device: str, frames: list[bytes], rate: float = 8_000) -> None:
    """Different frames, evenly at a rate."""
    with host.open_socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((device, 0))
        start = time.monotonic()
        for n, frame in enumerate(frames):
            if n % 32 == 0:
                time.sleep(max(0.0, start + n / rate - time.monotonic()))
            out.send(frame)


@pytest.mark.alone
def test_a_rate_limit_is_kept_and_the_rest_is_counted(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon, dataplane: str
) -> None:
    """A 500 Mbit flood against a limit of 50 Mbit; the Python plane cannot read that much, it gets a fifth of both."""
    limit, offered, seconds = (50, 500, 5) if dataplane == "native" else (10, 100, 5)
    _, source, collector = hosts
    mirrord = daemon(source, configuration(f'direction = "egress"\nrate_limit = "{limit}Mbit"'))
    frame = udp_frame((CLIENT, "10.0.0.1", 1), (SERVER, "10.0.0.2", 2), length=1400)
    count = offered * 1_000_000 * seconds // 8 // len(frame)
    packets, octets = collector.counter("eth0", "rx", "packets"), collector.counter("eth0", "rx", "bytes")

    taken = _flood(source, "nic", frame, count, offered)
    metrics = mirrord.settle(count)

    assert metrics.total("mirrord_captured_frames_total") == count
    sent = metrics.total("mirrord_sent_bytes_total")
    allowed = limit * 1_000_000 / 8 * taken
    assert 0.98 * allowed <= sent <= 1.01 * allowed + BUCKET
    assert collector.counter("eth0", "rx", "bytes") - octets == sent
    assert collector.counter("eth0", "rx", "packets") - packets == metrics.total("mirrord_sent_packets_total")
    mirrored, skipped = (metrics.total(f"mirrord_{name}_frames_total") for name in ("mirrored", "skipped"))
    assert sent == mirrored * (len(frame) + OUTER)
    assert skipped == metrics.total("mirrord_skipped_frames_total", reason="rate_limited")
    assert mirrored + skipped + metrics.total("mirrord_dropped_frames_total", reason="ring_full") == count


def test_a_packet_limit_is_kept_by_the_receivers_count(hosts: tuple[Host, Host, Host], daemon: MakeDaemon) -> None:
    """4,000 small frames a second against 500 copies: what the collector's device counts, not what mirrord says."""
    limit, seconds = 500, 3
    _, source, collector = hosts
    mirrord = daemon(source, configuration(f'direction = "egress"\npacket_limit = {limit}'))
    frame = udp_frame((CLIENT, "10.0.0.1", 1), (SERVER, "10.0.0.2", 2), length=250)
    count = 4000 * seconds
    before = collector.counter("eth0", "rx", "packets")

    taken = _flood(source, "nic", frame, count, 8)
    metrics = mirrord.settle(count)

    received = collector.counter("eth0", "rx", "packets") - before
    assert 0.8 * limit * taken <= received <= limit * taken + BUCKET_PACKETS + 1
    assert received == metrics.total("mirrord_sent_packets_total") == metrics.total("mirrord_mirrored_frames_total")
    skipped = metrics.total("mirrord_skipped_frames_total", reason="rate_limited")
    assert received + skipped + metrics.total("mirrord_dropped_frames_total", reason="ring_full") == count


def _flood(host: Host, device: str, frame: bytes, count: int, megabits: int) -> float:
    """Send at an even rate, which the kernel's own shaper keeps; the seconds that it took."""
    host.run(*f"tc qdisc add dev {device} root tbf rate {megabits}mbit burst 20kb limit 20mb".split())
    before = host.transmitted(device)
    with host.open_socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.setsockopt(socket.SOL_SOCKET, 32, 16 << 20)  # SO_SNDBUFFORCE: enough to outlast a pause of this process
        out.bind((device, 0))
        start = time.monotonic()
        for _ in range(count):
            out.send(frame)
        wait_for(lambda: host.transmitted(device) - before == count, "the flood sent")
        return time.monotonic() - start
