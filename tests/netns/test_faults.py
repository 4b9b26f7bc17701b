"""A way out that fails: each copy is sent or counted as lost, the session goes on, and recovers by itself.

client eth0 ---- nic [source] uplink ---- eth0 [collector]
"""

from __future__ import annotations

import time

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.send import FRAME, send
from tests.support.source import OVER_IPV4, OVER_IPV6, SPAN, VXLAN, Underlay, linked, session, source_and_collector
from tests.support.topology import Host, Topology, acquaint
from tests.support.wait import wait_for


def configuration(destination: str) -> str:
    return session('direction = "ingress"\nring_size = "64MiB"', destination)


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host, Host]:
    return source_and_collector(net)


@pytest.mark.parametrize(
    ("underlay", "counter"), [(OVER_IPV4, "UdpNoPorts"), (OVER_IPV6, "Udp6NoPorts")], ids=["ipv4", "ipv6"]
)
def test_a_collector_that_does_not_listen_costs_no_copy(
    net: Topology, daemon: MakeDaemon, sniff: MakeSniffer, underlay: Underlay, counter: str
) -> None:
    client, source, collector = linked(net, underlay)
    collector.run("sysctl", "-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0")
    answers = sniff(source, "uplink", "icmp[icmptype] == icmp-unreach or icmp6[icmp6type] == icmp6-destinationunreach")
    mirrord = daemon(source, configuration(VXLAN.replace("10.99.0.2", underlay.collector)))
    send(client, "eth0", FRAME, 300, rate=200)
    send(client, "eth0", FRAME, 2000, rate=4000)
    metrics = mirrord.settle(2300)
    read = 2300 - metrics.total("mirrord_dropped_frames_total", reason="ring_full")  # a busy machine loses a few there
    assert read > 300
    assert metrics.total("mirrord_mirrored_frames_total") == metrics.total("mirrord_sent_packets_total") == read
    statistics = collector.run("nstat", "-asz", counter).split()
    assert int(statistics[statistics.index(counter) + 1]) == read  # the collector's kernel saw every one
    assert len(answers.stop().frames()) > 100


@pytest.mark.alone
def test_a_collector_that_is_not_there_yet_stalls_nothing(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon, sniff: MakeSniffer
) -> None:
    client, source, collector = hosts
    mirrord = daemon(source, configuration(VXLAN.replace("10.99.0.2", "10.99.0.9")), up=False)
    send(client, "eth0", FRAME, 1000, rate=250)  # four seconds: past the kernel's three questions for the address
    begun = time.monotonic()
    metrics = mirrord.settle(1000)
    assert time.monotonic() - begun < 5  # had each waited for room, 10 ms or more, it would be 6 s behind
    dropped = metrics.total("mirrord_dropped_frames_total")
    assert dropped == metrics.total("mirrord_dropped_frames_total", reason="no_route")
    assert metrics.total("mirrord_captured_frames_total") == 1000
    assert dropped > 500  # but for those of the first second, which the kernel took, and held back

    sniffer = sniff(collector, "eth0", "udp port 4789")
    collector.ip("address add 10.99.0.9/24 dev eth0")

    def arrived() -> bool:
        send(client, "eth0", FRAME)
        return bool(sniffer.frames())

    wait_for(arrived, "copies at the collector that came late")


@pytest.mark.parametrize(("destination", "reason"), [(VXLAN, "no_route"), (SPAN, "link_down")], ids=["vxlan", "span"])
def test_a_way_out_that_goes_down_and_comes_up_again(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon, sniff: MakeSniffer, destination: str, reason: str
) -> None:
    client, source, collector = hosts
    collector.ip("link set eth0 address 02:00:00:00:00:99")
    source.ip("neighbour replace 10.99.0.2 lladdr 02:00:00:00:00:99 dev uplink")
    sniffer = sniff(collector, "eth0", "udp port 4789 or udp port 2000")
    mirrord = daemon(source, configuration(destination))

    send(client, "eth0", FRAME, 10)
    mirrord.settle(10)
    source.ip("link set uplink down")
    send(client, "eth0", FRAME, 100, rate=1000)
    metrics = mirrord.settle(110)
    assert metrics.total("mirrord_dropped_frames_total", reason=reason) == 100
    assert metrics.total("mirrord_mirrored_frames_total") == 10

    source.ip("link set uplink up")
    source.ip("neighbour replace 10.99.0.2 lladdr 02:00:00:00:00:99 dev uplink")
    wait_for(lambda: "state UP" in collector.ip("link show dev eth0"), "the collector's link up")
    mirrord.wait_up()  # it has seen that the link is up
    send(client, "eth0", FRAME, 10)
    metrics = mirrord.settle(120)
    assert metrics.total("mirrord_mirrored_frames_total") == len(sniffer.stop().frames()) == 20
    assert metrics.total("mirrord_dropped_frames_total") == 100


def test_an_uplink_that_gets_another_address_is_followed(hosts: tuple[Host, Host, Host], daemon: MakeDaemon) -> None:
    client, source, collector = hosts
    mirrord = daemon(source, configuration(VXLAN))
    send(client, "eth0", FRAME, 10)
    mirrord.settle(10)
    source.ip("address delete 10.99.0.1/24 dev uplink")
    source.ip("address add 10.99.0.7/24 dev uplink")
    acquaint(source, "uplink", "10.99.0.7", collector, "eth0", "10.99.0.2")

    def mirrored() -> float:
        send(client, "eth0", FRAME)
        return mirrord.metrics().total("mirrord_mirrored_frames_total") - 10

    wait_for(mirrored, "copies from the new address")
    assert mirrord.stop()[0] == 0
