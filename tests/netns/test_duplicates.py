"""A packet that passes a tap, the bridge and the uplink, all three mirrored: one copy of it, of each that was sent."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.bridged import BARE, bridged, configuration, packets
from tests.support.ctl import ctl
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

SLOWED = "tc qdisc add dev eth0 root tbf rate 40mbit burst 100kb limit 10mb"
DROPS = "iptables -A INPUT -p tcp --dport 5201 -m statistic --mode nth --every 14 --packet 13 -j DROP"
"""Behind the tap, where a packet was seen already."""

RESET = "tcp[tcpflags] & tcp-rst != 0"


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host, Host, Host]:
    return bridged(net)


def test_a_ping_through_three_sources_is_there_once(
    hosts: tuple[Host, Host, Host, Host], daemon: MakeDaemon, sniff: MakeSniffer
) -> None:
    guest, host, _, collector = hosts
    mirrord = daemon(host, configuration())
    sent, copies = sniff(guest, "eth0"), sniff(collector, "vxlan0")
    guest.run("ping", "-c", "20", "-i", "0.02", "10.1.0.2")
    metrics = mirrord.settle(120)  # each request and reply three times
    whole = packets(sent.stop().frames("icmp"))
    assert whole.total() == len(whole) == 40
    assert packets(copies.stop().frames("icmp")) == whole
    assert metrics.total("mirrord_skipped_frames_total", reason="duplicate") == 80
    assert metrics.total("mirrord_dropped_frames_total") == 0


def test_it_is_turned_on_and_off_at_run_time_and_goes_along_with_a_new_name(
    hosts: tuple[Host, Host, Host, Host], daemon: MakeDaemon
) -> None:
    guest, host, _, _ = hosts
    mirrord = daemon(host, "", up=False)
    ends = "source=tap", "source=uplink", "source.type=device,source.device=br0,source.promiscuous=true"
    to = "destination.type=vxlan,destination.remote=10.99.0.2,destination.vni=1,destination.shared_vni=true"
    sessions = [word for n, one in enumerate(ends) for word in ("--session", f"name=s{n},{one},{to}")]
    ctl(mirrord.socket, "create", "m", "--enable", *sessions)
    for change, skipped in (
        ((), 0),
        (("set", "m", "--duplicates", "drop", "--duplicate-window", "500ms"), 16),
        (("set", "m", "--name", "other"), 16),
        (("session", "delete", "other", "s2"), 8),
        (("set", "other", "--duplicates", "keep"), 0),
    ):
        if change:
            ctl(mirrord.socket, *change)
        mirrord.wait_up()
        before = mirrord.metrics()
        guest.run("ping", "-c", "4", "-i", "0.02", "10.1.0.2")
        sources = len(before.select("mirrord_session_up"))
        after = mirrord.settle(int(before.total("mirrord_captured_frames_total")) + 8 * sources)
        found = [one.total("mirrord_skipped_frames_total", reason="duplicate") for one in (before, after)]
        assert found[1] - found[0] == skipped, change


def _download(guest: Host, peer: Host, *arguments: str) -> None:
    server = peer.spawn("iperf3", "-s", "-1", "--forceflush")
    wait_for(lambda: "listening" in server.output().lower(), "iperf3 listens")
    guest.run("iperf3", "-c", "10.1.0.2", *arguments, seconds=300)
    assert server.wait(30) == 0
    left = "ss", "-Htan", "state", "connected", "exclude", "time-wait"
    wait_for(lambda: not (guest.run(*left) + peer.run(*left)).strip(), "nothing is sent again any more", 60)
    queue = "tc", "-s", "qdisc", "show", "dev", "eth0"  # what is still in it has an RST for an answer
    wait_for(lambda: "backlog 0b 0p" in guest.run(*queue), "the last is sent", 60)


def test_super_frames_are_there_once(
    hosts: tuple[Host, Host, Host, Host], daemon: MakeDaemon, sniff: MakeSniffer, dataplane: str
) -> None:
    """TSO all the way to the peer, which gets super-frames: every byte and every bare packet as often as there."""
    guest, host, peer, collector = hosts
    mirrord = daemon(host, configuration())
    wire, copies = sniff(peer, "eth0", snaplen=65600), sniff(collector, "vxlan0")
    guest.run(*SLOWED.split())
    _download(guest, peer, "-n", "4M" if dataplane == "native" else "2M")
    ended = wire.stop()
    metrics = mirrord.settle(3 * len(ended.frames("tcp")))
    assert metrics.total("mirrord_dropped_frames_total") == 0
    assert metrics.total("mirrord_segmented_frames_total") > 10
    copies.stop()
    assert packets(copies.frames(BARE)) == packets(ended.frames(BARE))
    assert set(packets(copies.frames(f"tcp and not ({BARE})")).values()) == {1}
    octets = [sum(int(length) for (length,) in one.fields("tcp.len", expression="tcp")) for one in (copies, ended)]
    assert octets[0] == octets[1]


def test_retransmissions_are_copied_each_time(
    hosts: tuple[Host, Host, Host, Host],
    daemon: MakeDaemon,
    sniff: MakeSniffer,
    dataplane: str,
    request: pytest.FixtureRequest,
) -> None:
    """Behind the uplink one in fourteen packets is dropped: they come again, and many acknowledgements are equal. What
    is expected: what the wire got, as often as it did. At the end there are more equal RSTs at a time than are told
    apart (WALKED): of these none is missing.
    """
    guest, host, peer, collector = hosts
    for end, device in ((guest, "eth0"), (host, "tap"), (host, "uplink"), (peer, "eth0")):  # a packet is a frame
        end.run("ethtool", "-K", device, "tso", "off", "gso", "off", "gro", "off")
    mirrord = daemon(host, configuration('duplicates = "drop"\nduplicate_window = "500ms"'))
    wire, copies = sniff(peer, "eth0"), sniff(collector, "vxlan0")
    guest.run(*SLOWED.split())  # to what the worker reads
    peer.run(*DROPS.split())
    wanted = request.config.getoption("--retransmissions") // (1 if dataplane == "native" else 10)
    _download(guest, peer, "-P", "32", "-n", f"{wanted * 14 * 1448 * 4}")
    ended = wire.stop()
    expected = packets(ended.frames(f"tcp and not ({RESET})"))
    metrics = mirrord.settle(3 * len(ended.frames("tcp")))
    copied = copies.stop()
    lost = metrics.select("mirrord_dropped_frames_total")
    assert not {key: count for key, count in lost.items() if count}
    parts = Counter(map(tuple, ended.fields("tcp.stream", "tcp.seq", expression="tcp.len > 0")))
    assert parts.total() - len(parts) >= wanted  # sent again; tshark calls what comes soon after "out of order"
    assert packets(copied.frames(f"tcp and not ({RESET})")) == expected
    assert not packets(ended.frames(RESET)) - packets(copied.frames(RESET))
