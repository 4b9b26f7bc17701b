"""The tests' own tools, held against the kernel and tcpdump: a wrong ruler would make every measure wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import MakeSniffer
from tests.support.metrics import Metrics
from tests.support.send import flood, send, udp_frame
from tests.support.topology import Topology, acquaint

FRAME = udp_frame(("02:00:00:00:00:01", "10.0.0.1", 1000), ("02:00:00:00:00:02", "10.0.0.2", 2000), b"x")


def test_hosts_of_a_lan_reach_each_other_and_go_with_all_they_ran() -> None:
    with Topology() as net:
        a, b = net.host("a"), net.host("b")
        net.lan({a: "10.0.0.1/24", b: "10.0.0.2/24"})
        assert "1 received" in a.run("ping", "-c", "1", "-W", "5", "10.0.0.2")
        left = b.spawn("sleep", "1000")
    assert left.status() == -9
    assert not Path("/run/netns", a.name).exists()


def test_a_sniffer_shows_what_arrived_and_nothing_else(net: Topology, sniff: MakeSniffer) -> None:
    a, b = net.host("a"), net.host("b")
    net.link(a, "eth0", b, "eth1", macs=("02:00:00:00:00:01", "02:00:00:00:00:02"))
    everything = sniff(b, "eth1")
    send(a, "eth0", FRAME, count=3)
    line = "02:00:00:00:00:01 > 02:00:00:00:00:02, ethertype IPv4 (0x0800), length 43: "
    line += "10.0.0.1.1000 > 10.0.0.2.2000: UDP, length 1"
    assert everything.stop().lines() == [line] * 3
    assert everything.fields("frame.len", "udp.dstport") == [["43", "2000"]] * 3
    assert everything.packets()[0]["_source"]["layers"]["ip"]["ip.src"] == "10.0.0.1"


def test_a_sniffer_puts_an_encapsulated_frame_on_its_packets_line(net: Topology, sniff: MakeSniffer) -> None:
    a, b = net.host("a"), net.host("b")
    net.link(a, "eth0", b, "eth0", ("10.0.0.1/24", "10.0.0.2/24"))
    acquaint(a, "eth0", "10.0.0.1", b, "eth0", "10.0.0.2")
    a.ip("link add vx0 type vxlan id 7 dstport 4789 remote 10.0.0.2")
    a.ip("link set vx0 up")
    copies = sniff(b, "eth0", "udp port 4789")
    send(a, "vx0", FRAME, count=2)
    lines = copies.stop().lines()
    assert len(lines) == 2
    assert "length 93: 10.0.0.1." in lines[0]
    assert "vni 7 02:00:00:00:00:01 > 02:00:00:00:00:02" in lines[0]


@pytest.mark.parametrize("rate", [0, 20_000])
def test_send_is_exact_and_keeps_its_rate(net: Topology, rate: float, sniff: MakeSniffer) -> None:
    a, b = net.host("a"), net.host("b")
    net.link(a, "eth0", b, "eth0")
    seen = sniff(a, "eth0")
    send(a, "eth0", FRAME, count=10_000, rate=rate)
    times = [float(row[0]) for row in seen.stop().fields("frame.time_epoch")]
    assert len(times) == a.transmitted("eth0") - 1 == 10_000  # one more: the sniffer's end marker
    if rate:
        assert (len(times) - 1) / (times[-1] - times[0]) <= rate * 1.05


def test_flood_is_exact_and_seen_by_the_taps(net: Topology, sniff: MakeSniffer, tmp_path: Path) -> None:
    a, b = net.host("a"), net.host("b")
    net.link(a, "eth0", b, "eth0")
    seen = sniff(a, "eth0", snaplen=64)
    flood(a, "eth0", FRAME, 20_000, tmp_path)
    assert len(seen.stop().lines()) == a.transmitted("eth0") - 1 == 20_000


def test_a_scrape_is_read_by_name_and_labels() -> None:
    scrape = Metrics.parse(
        '# TYPE mirrord_dropped_frames counter\nmirrord_dropped_frames_total{session="a",reason="ring_full"} 2\n'
        'mirrord_dropped_frames_total{session="b",reason="no_route"} 3\n'
    )
    assert scrape["mirrord_dropped_frames_total", frozenset({("session", "a"), ("reason", "ring_full")})] == 2
    assert scrape.total("mirrord_dropped_frames_total") == 5
    assert scrape.total("mirrord_dropped_frames_total", session="b") == 3
    with pytest.raises(KeyError):
        scrape.total("mirrord_dropped_frames_total", session="c")
