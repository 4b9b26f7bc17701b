"""The sockets that flows are spread over: whose they are, and when the daemon is given no more of them.

client eth0 ---- nic [source] uplink ---- eth0 [collector] vxlan0
"""

from __future__ import annotations

import http.client
import resource
from collections.abc import Iterator
from contextlib import contextmanager

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.api import Api
from tests.support.send import send, udp_frame
from tests.support.source import session, source_and_collector
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

FRAMES = [
    udp_frame(("02:00:00:00:00:01", "10.1.0.1", port), ("02:00:00:00:00:02", "10.1.0.2", 2000), length=100)
    for port in range(1000, 1064)
]
FIRST = 8  # before there are no more sockets
OUTER = 14 + 20 + 8 + 8  # Ethernet, IPv4, UDP, VXLAN


@contextmanager
def nothing_more_to_open(pid: int) -> Iterator[None]:
    """What the process has open it keeps; all else it opens fails with EMFILE, at the limit of its descriptors."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))  # the standard ones, which are open
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_flows_share_the_sockets_that_there_are(net: Topology, sniff: MakeSniffer, daemon: MakeDaemon) -> None:
    client, source, collector = source_and_collector(net)
    sniffer = sniff(collector, "eth0", "udp port 4789")
    mirrord = daemon(source, session('direction = "ingress"'))
    for frame in FRAMES[:FIRST]:
        send(client, "eth0", frame)
    mirrord.settle(FIRST)
    with nothing_more_to_open(mirrord.pid):
        for frame in FRAMES[FIRST:]:
            send(client, "eth0", frame)
        sniffer.wait_lines(len(FRAMES))
    metrics = mirrord.settle(len(FRAMES))
    mirrord.stop()

    copies = sniffer.stop().frames()
    assert sorted(copy[OUTER:] for copy in copies) == sorted(FRAMES)
    assert metrics.total("mirrord_mirrored_frames_total") == len(FRAMES)
    ports = [int.from_bytes(copy[34:36], "big") for copy in copies]  # after Ethernet 14, IPv4 20
    assert set(ports[FIRST:]) <= set(ports[:FIRST])
    assert len(set(ports)) > 1


def udp_ports(host: Host) -> set[int]:
    """The local ports of its UDP sockets, as the kernel has them."""
    rows = [line.split() for line in host.run("cat", "/proc/net/udp").splitlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16) for row in rows}


def test_sessions_with_one_collector_have_the_same_source_ports(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon
) -> None:
    client, source, collector = source_and_collector(net)
    sniffer = sniff(collector, "eth0", "udp port 4789")
    mirrord = daemon(source, "", up=False)
    api = Api(mirrord.socket)
    asked = {"name": "s", "source": "nic", "direction": "ingress", "transmit": "packet"}
    for name, vni in (("a", 1), ("b", 2)):
        one = asked | {"destination": {"type": "vxlan", "remote": "10.99.0.2", "vni": vni}}
        assert api("PUT", f"mirrors/{name}", {"sessions": [one]}).status == http.client.CREATED
    mirrord.wait_up()
    for frame in FRAMES:
        send(client, "eth0", frame)
    mirrord.settle(2 * len(FRAMES))
    by_vni: dict[int, dict[bytes, int]] = {1: {}, 2: {}}
    for copy in sniffer.frames():
        by_vni[int.from_bytes(copy[46:49], "big")][copy[OUTER:]] = int.from_bytes(copy[34:36], "big")
    assert by_vni[1] == by_vni[2]
    assert by_vni[1].keys() == set(FRAMES)
    ports = set(by_vni[1].values())
    assert udp_ports(source) == ports

    assert api("DELETE", "mirrors/a").status == http.client.NO_CONTENT
    assert udp_ports(source) == ports
    assert api("DELETE", "mirrors/b").status == http.client.NO_CONTENT
    wait_for(lambda: not udp_ports(source), "nobody needs them any more")
