"""A copy is never mirrored again: not on the NIC that it leaves by, not between two hosts that mirror each other."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from mirrord.dataplane.filter import bpf
from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.api import Api
from tests.support.send import UNANSWERED, flood, send
from tests.support.topology import Host, Topology, acquaint, receive_vxlan

DESTINATIONS = {"vxlan": 'type = "vxlan", vni = 1', "gre": 'type = "gre", key = 1'}


class Receive(Protocol):
    def __call__(self, host: Host, kind: str) -> None: ...


@pytest.fixture
def receive() -> Iterator[Receive]:
    """Gives a host someone who takes the copies: nobody answers them with ICMP errors."""
    with ExitStack() as listeners:

        def make(host: Host, kind: str) -> None:
            if kind == "vxlan":
                receive_vxlan(host)
            else:
                taker = listeners.enter_context(host.open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_GRE))
                bpf.attach_reject_all(taker)  # a full buffer would be answered, too

        yield make


def configuration(kind: str, remote: str) -> str:
    return f"""
[mirrors.uplink]
enabled = true

[[mirrors.uplink.sessions]]
name = "all"
direction = "both"
source = {{ type = "device", device = "eth0" }}
destination = {{ {DESTINATIONS[kind]}, remote = "{remote}" }}
ring_size = "64MiB"
"""


@pytest.mark.parametrize("kind", DESTINATIONS)
def test_a_flood_on_the_nic_that_copies_leave_by_makes_as_many_copies(
    net: Topology, daemon: MakeDaemon, dataplane: str, receive: Receive, tmp_path: Path, kind: str
) -> None:
    count = {"python": 5_000, "native": 30_000}[dataplane]
    source, collector = net.host("source"), net.host("collector")
    net.link(source, "eth0", collector, "eth0", ("10.99.0.1/24", "10.99.0.2/24"))
    acquaint(source, "eth0", "10.99.0.1", collector, "eth0", "10.99.0.2")
    receive(collector, kind)
    mirrord = daemon(source, configuration(kind, "10.99.0.2"))
    before = source.transmitted("eth0")

    flood(source, "eth0", UNANSWERED, count, tmp_path)
    metrics = mirrord.settle(captured=count, seconds=60)
    mirrord.stop()

    lost = metrics.total("mirrord_dropped_frames_total", reason="ring_full")
    assert lost == 0 or dataplane == "python"  # which a busy machine may leave behind
    assert metrics.total("mirrord_captured_frames_total") == count
    assert metrics.total("mirrord_sent_packets_total") == count - lost
    assert source.transmitted("eth0") - before == 2 * count - lost  # the kernel's count: the flood, and each copy


@pytest.mark.parametrize("kind", DESTINATIONS)
def test_two_hosts_that_mirror_their_uplinks_to_each_other_do_not_amplify(
    net: Topology, daemon: MakeDaemon, receive: Receive, kind: str
) -> None:
    count = 2_000
    a, b = net.host("a"), net.host("b")
    net.link(a, "eth0", b, "eth0", ("10.99.0.1/24", "10.99.0.2/24"))
    acquaint(a, "eth0", "10.99.0.1", b, "eth0", "10.99.0.2")
    for host in (a, b):
        receive(host, kind)
    on_a, on_b = daemon(a, configuration(kind, "10.99.0.2")), daemon(b, configuration(kind, "10.99.0.1"))
    before_a, before_b = a.transmitted("eth0"), b.transmitted("eth0")

    send(a, "eth0", UNANSWERED, count, rate=1_000)
    for mirrord in (on_a, on_b):
        metrics = mirrord.settle(captured=2 * count)
        mirrord.stop()
        assert metrics.total("mirrord_captured_frames_total") == 2 * count
        assert metrics.total("mirrord_mirrored_frames_total") == count
        assert metrics.total("mirrord_skipped_frames_total", reason="own_copy") == count  # the other host's copies

    # a sent its frames and a copy of each; b received both, and sent a copy of the frames alone.
    assert a.transmitted("eth0") - before_a == 2 * count
    assert b.transmitted("eth0") - before_b == count


def test_a_tunnel_that_comes_and_goes_is_known_to_sessions_that_run(net: Topology, daemon: MakeDaemon) -> None:
    """What another host sends by it is a copy as long as a session leads there, whether that one runs or not."""
    source, collector = net.host("source"), net.host("collector")
    net.link(source, "eth0", collector, "eth0", ("10.99.0.1/24", "10.99.0.2/24"))
    acquaint(source, "eth0", "10.99.0.1", collector, "eth0", "10.99.0.2")
    running = daemon(source, "", up=False)
    api, to = Api(running.socket), {"type": "vxlan", "remote": "10.99.0.2"}
    watched = {"name": "all", "source": "eth0", "direction": "ingress", "destination": {**to, "vni": 1}}
    assert api("PUT", "mirrors/m", {"sessions": [watched]}).status == 201
    running.wait_up()
    packet = Ether(src=collector.mac("eth0"), dst=source.mac("eth0")) / IP(src="10.99.0.2", dst="10.99.0.1")
    packet = bytes(packet / UDP(sport=50000, dport=4789) / VXLAN(vni=9) / UNANSWERED)
    counted: list[int] = []
    for method, resource, change in (
        ("PATCH", "mirrors/m", {"description": "as it is"}),
        ("POST", "mirrors/m/sessions", {"name": "other", "source": "nic9", "destination": {**to, "vni": 9}}),
        ("PATCH", "mirrors/m/sessions/all", {"mirror_tunnels": True}),
        ("PATCH", "mirrors/m/sessions/all", {"mirror_tunnels": False}),
        ("PATCH", "mirrors/m/sessions/other", {"destination": {**to, "vni": 8}}),
        ("PATCH", "mirrors/m/sessions/other", {"destination": {**to, "vni": 9}}),
        ("DELETE", "mirrors/m/sessions/other", None),
    ):
        assert api(method, resource, change).status in (200, 201, 204)
        send(collector, "eth0", packet, 10)
        metrics = running.settle(captured=10 * (len(counted) + 1))
        counted.append(int(metrics.total("mirrord_skipped_frames_total", reason="own_copy")) // 10)
    assert counted == [0, 1, 1, 2, 2, 3, 3]


def test_what_is_no_tunnels_packet_is_mirrored_whoever_it_is_for(
    net: Topology, daemon: MakeDaemon, sniff: MakeSniffer, receive: Receive
) -> None:
    source, collector = net.host("source"), net.host("collector")
    net.link(source, "eth0", collector, "eth0", ("10.99.0.1/24", "10.99.0.2/24"))
    acquaint(source, "eth0", "10.99.0.1", collector, "eth0", "10.99.0.2")
    receive(collector, "vxlan")
    mirrord = daemon(source, configuration("vxlan", "10.99.0.2"))
    copies = sniff(collector, "eth0", "udp dst port 4789")
    taken = collector.open_socket(socket.AF_INET, socket.SOCK_DGRAM)  # a closed port would be answered
    with taken, source.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as ordinary:
        taken.bind(("10.99.0.2", 2049))
        for _ in range(5):
            ordinary.sendto(bytes(4000), ("10.99.0.2", 2049))  # three fragments each
        ordinary.sendto(bytes.fromhex("0800000000000800") + bytes(60), ("10.99.0.2", 4789))  # VNI 8, not the session's
        ordinary.sendto(bytes.fromhex("0800000000000100") + bytes(60), ("10.99.0.2", 4789))  # VNI 1: a copy
    metrics = mirrord.settle(captured=17)
    mirrord.stop()
    assert metrics.total("mirrord_mirrored_frames_total") == 16
    assert metrics.total("mirrord_skipped_frames_total", reason="own_copy") == 1
    lines = copies.stop().lines()
    inner = [line for line in lines if "vni 1" in line]
    assert len(inner) == 16 + 1, lines  # and the one that this host sent itself


def test_two_hosts_that_fragment_their_copies_do_not_amplify(
    net: Topology, daemon: MakeDaemon, receive: Receive
) -> None:
    """Frames as long as the path, so that each copy leaves in two fragments: the later one shows no port."""
    count = 200
    a, b = net.host("a"), net.host("b")
    net.link(a, "eth0", b, "eth0", ("10.99.0.1/24", "10.99.0.2/24"))
    acquaint(a, "eth0", "10.99.0.1", b, "eth0", "10.99.0.2")
    running = []
    for host, other in ((a, "10.99.0.2"), (b, "10.99.0.1")):
        receive(host, "vxlan")
        running.append(daemon(host, configuration("vxlan", other) + 'on_mtu_exceeded = "fragment"\n'))
    before = a.transmitted("eth0"), b.transmitted("eth0")
    send(a, "eth0", UNANSWERED[:34] + bytes(1480), count, rate=200)
    for mirrord in running:
        metrics = mirrord.settle(captured=3 * count)  # the frames, and two fragments of each of the other's copies
        mirrord.stop()
        assert metrics.total("mirrord_mirrored_frames_total") == count
        assert metrics.total("mirrord_skipped_frames_total", reason="own_copy") == 2 * count
    assert a.transmitted("eth0") - before[0] == 3 * count
    assert b.transmitted("eth0") - before[1] == 2 * count
