"""Several workers divide a busy source by addresses: what is between two of them stays in order; counters are one set.

So are the limits.

client eth0 ---- nic [source] uplink ---- eth0 [collector] vxlan0
"""

from __future__ import annotations

import socket
import struct
import time

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.mixture import mixture, send_each
from tests.support.receiver import Receiver
from tests.support.send import udp_frame
from tests.support.source import session, source_and_collector
from tests.support.topology import Host, Topology

WORKERS, FLOWS, EACH = 4, 32, 300
CLIENT, SERVER = "02:00:00:00:00:01", ("02:00:00:00:00:02", "10.0.1.1")
PAYLOAD = 400


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host, Host]:
    return source_and_collector(net)


def configuration(more: str = "") -> str:
    return session(f'ring_size = "64MiB"\nworkers = {WORKERS}\n{more}')


def waiting(host: Host) -> list[int]:
    """Bytes that wait at each packet socket of the host which has some, by the kernel's own table."""
    rows = [line.split() for line in host.run("cat", "/proc/net/packet").splitlines()[1:]]
    return [int(row[6]) for row in rows if row[6] != "0"]


def converse(client: Host, source: Host, each: int = EACH) -> float:
    """Send both directions of each flow in turn, numbered. Gives the seconds that it took."""
    with (
        client.open_socket(socket.AF_PACKET, socket.SOCK_RAW) as there,
        source.open_socket(socket.AF_PACKET, socket.SOCK_RAW) as back,
    ):
        there.bind(("eth0", 0))
        back.bind(("nic", 0))
        asks, answers = [], []
        for flow in range(FLOWS):
            us, them = (CLIENT, f"10.0.0.{flow + 1}", 1000 + flow), (*SERVER, 9)
            asks.append(udp_frame(us, them, bytes(PAYLOAD))[:-PAYLOAD])
            answers.append(udp_frame(them, us, bytes(PAYLOAD))[:-PAYLOAD])
        began = time.monotonic()
        for number in range(each):
            for flow in range(FLOWS):
                there.send(asks[flow] + struct.pack("!II", flow, 2 * number).ljust(PAYLOAD))
                back.send(answers[flow] + struct.pack("!II", flow, 2 * number + 1).ljust(PAYLOAD))
        return time.monotonic() - began


def test_both_directions_of_each_flow_arrive_in_order(hosts: tuple[Host, Host, Host], daemon: MakeDaemon) -> None:
    client, source, collector = hosts
    each = 100
    mirrord = daemon(source, configuration())
    with Receiver(collector, "vxlan0") as receiver:
        converse(client, source, each)
        metrics = mirrord.settle(2 * FLOWS * each)
        arrived: dict[int, list[int]] = {flow: [] for flow in range(FLOWS)}
        for frame in receiver.frames(0x0800):
            flow, number = struct.unpack_from("!II", frame, 42)
            arrived[flow].append(number)

    assert arrived == {flow: list(range(2 * each)) for flow in range(FLOWS)}
    assert metrics.total("mirrord_captured_frames_total") == 2 * FLOWS * each
    assert metrics.total("mirrord_mirrored_frames_total") == 2 * FLOWS * each
    for direction in ("ingress", "egress"):
        assert metrics.total("mirrord_read_frames_total", direction=direction) == FLOWS * each
    assert len(metrics.select("mirrord_captured_frames_total")) == 1


def test_each_worker_gets_a_part(hosts: tuple[Host, Host, Host], daemon: MakeDaemon) -> None:
    client, source, _ = hosts
    mirrord = daemon(source, configuration('capture = "socket"'))
    mirrord.freeze()
    converse(client, source, each=10)
    parts = waiting(source)
    mirrord.thaw()
    assert len(parts) == WORKERS, parts
    mirrord.settle(2 * FLOWS * 10)


def test_what_is_between_two_addresses_stays_in_order(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon, sniff: MakeSniffer
) -> None:
    """Fragments with what is whole, super-frames, tags, IPv4 and IPv6."""
    client, source, collector = hosts
    arrived = sniff(collector, "vxlan0")
    mirrord = daemon(source, configuration('direction = "ingress"'))
    sent = list(mixture())
    send_each(client, "eth0", sent)
    metrics = mirrord.settle(len(sent))
    assert metrics.total("mirrord_mirrored_frames_total") == len(sent)
    seen = by_addresses(arrived.stop().frames())
    assert seen == by_addresses([frame for one in sent for frame in one.wire])
    assert len(seen) > 2 * FLOWS


def by_addresses(frames: list[bytes]) -> dict[tuple[str, ...], list[bytes]]:
    """In order, by addresses as scapy reads them, by MAC addresses where there are no others."""
    found: dict[tuple[str, ...], list[bytes]] = {}
    for data in frames:
        frame = Ether(data)
        network = frame.getlayer(IP) or frame.getlayer(IPv6) or frame
        found.setdefault((network.src, network.dst), []).append(data)
    return found


@pytest.mark.alone
def test_the_rate_limit_holds_for_all_workers_together(hosts: tuple[Host, Host, Host], daemon: MakeDaemon) -> None:
    client, source, _ = hosts
    rate = 4_000_000  # bits a second; its bucket holds 64 KiB, and may fall below zero by a copy for each worker
    mirrord = daemon(source, configuration(f'rate_limit = "{rate}"'))
    seconds = converse(client, source)
    metrics = mirrord.settle(2 * FLOWS * EACH)
    most = 65536 + rate / 8 * seconds + 4 * 600
    assert most * 0.9 < metrics.total("mirrord_sent_bytes_total") <= most
    assert metrics.total("mirrord_skipped_frames_total", reason="rate_limited") > 0


def test_the_packet_limit_holds_for_all_workers_together(hosts: tuple[Host, Host, Host], daemon: MakeDaemon) -> None:
    client, source, _ = hosts
    limit = 200  # its bucket holds 64 copies: with one for each worker it would be four times as much
    mirrord = daemon(source, configuration(f"packet_limit = {limit}"))
    seconds = converse(client, source, each=30)
    metrics = mirrord.settle(2 * FLOWS * 30)
    sent = metrics.total("mirrord_sent_packets_total")
    assert 64 <= sent <= 64 + limit * seconds + 1
    assert sent + metrics.total("mirrord_skipped_frames_total", reason="rate_limited") == 2 * FLOWS * 30
