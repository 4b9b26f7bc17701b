"""A copy is never mirrored again: not on the NIC that it leaves by, not between two hosts that mirror each other."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from mirrord.dataplane.filter import bpf
from tests.conftest import MakeDaemon
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
        metrics = mirrord.settle(captured=count)
        mirrord.stop()
        assert metrics.total("mirrord_captured_frames_total") == count
        assert metrics.total("mirrord_mirrored_frames_total") == count

    # a sent its frames and a copy of each; b received both, and sent a copy of the frames alone.
    assert a.transmitted("eth0") - before_a == 2 * count
    assert b.transmitted("eth0") - before_b == count
