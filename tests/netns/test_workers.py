"""Several workers divide a busy source by flow: each flow in order, one set of counters, one rate limit.

client eth0 ---- nic [source] uplink ---- eth0 [collector] vxlan0
"""

from __future__ import annotations

import socket
import struct
import time

import pytest

from tests.conftest import MakeDaemon
from tests.support.receiver import Receiver
from tests.support.send import udp_frame
from tests.support.source import session, source_and_collector
from tests.support.topology import Host, Topology

WORKERS, FLOWS, EACH = 4, 32, 300
CLIENT, SERVER = ("02:00:00:00:00:01", "10.0.0.1"), ("02:00:00:00:00:02", "10.0.0.2")
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
            us, them = (*CLIENT, 1000 + flow), (*SERVER, 9)
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
