"""The circuit breaker: a session pauses while its destination's link is too busy, whatever makes it so.

client eth0 ---- nic [source] uplink ---- eth0 [collector]
"""

from __future__ import annotations

import re
import threading

import pytest

from tests.conftest import MakeDaemon
from tests.support.daemon import Daemon
from tests.support.send import send, udp_frame
from tests.support.source import session, source_and_collector
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

FRAME = udp_frame(("02:00:00:00:00:01", "10.0.0.1", 7), ("02:00:00:00:00:02", "10.0.0.2", 9), length=64)
LONG = udp_frame(("02:00:00:00:00:01", "10.0.0.1", 7), ("02:00:00:00:00:02", "10.0.0.2", 9), length=1500)
RATE = 20_000  # frames a second: 240 Mbit/s; ethtool says 10 Gbit/s of a veth, so 2.4 %


def about(mirrord: Daemon) -> dict[str, str]:
    return next(dict(labels) for name, labels in mirrord.metrics() if name == "mirrord_session_info")


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host, Host]:
    return source_and_collector(net)


def configuration(device: str) -> str:
    destination = f'{{ type = "device", device = "{device}" }}'
    return session('direction = "ingress"\npause_above = "1%"', destination)


@pytest.mark.alone
def test_a_session_pauses_while_its_link_is_busy_and_goes_on(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon
) -> None:
    client, source, collector = hosts
    assert "Speed: 10000Mb/s" in source.run("ethtool", "uplink")
    mirrord = daemon(source, configuration("uplink"))
    send(client, "eth0", FRAME, 10)
    assert mirrord.settle(10).total("mirrord_mirrored_frames_total") == 10

    busy = threading.Thread(target=send, args=(source, "uplink", LONG, 3 * RATE, RATE))
    busy.start()
    wait_for(lambda: about(mirrord)["state"] == "paused", "a pause")
    assert about(mirrord)["reason"] == "uplink sends at more than 1% of its speed (pause_above)"
    wait_for(lambda: re.search(r"percent=[1-3]\b", mirrord.output()), "how busy, in the log")  # what one look saw
    seen = collector.counter("eth0", "rx", "packets")
    assert seen
    send(client, "eth0", FRAME, 20)
    metrics = mirrord.settle(30)
    assert metrics.total("mirrord_skipped_frames_total", reason="paused") == 20
    assert metrics.total("mirrord_mirrored_frames_total") == 10
    busy.join()

    wait_for(lambda: about(mirrord)["state"] == "up", "copies again")
    send(client, "eth0", FRAME, 30)
    metrics = mirrord.settle(60)
    assert metrics.total("mirrord_mirrored_frames_total") == 40
    assert metrics.total("mirrord_skipped_frames_total") == 20
    assert collector.counter("eth0", "rx", "packets") == 3 * RATE + 40


@pytest.mark.alone
@pytest.mark.parametrize("dataplane", ["native"], indirect=True)
def test_with_overload_by_flows_fewer_conversations_are_mirrored_instead(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon
) -> None:
    _, source, _ = hosts
    mirrord = daemon(source, configuration("uplink").replace("pause_above", 'overload = "flows"\npause_above'))
    busy = threading.Thread(target=send, args=(source, "uplink", LONG, 4 * RATE, RATE))
    busy.start()
    wait_for(lambda: mirrord.metrics().total("mirrord_sampling_rate") >= 4, "a fourth, after two looks")
    assert about(mirrord)["state"] == "up"
    assert about(mirrord)["reason"] == "uplink sends at more than 1% of its speed (pause_above)"
    busy.join()
    most = mirrord.metrics().total("mirrord_sampling_rate")
    wait_for(lambda: mirrord.metrics().total("mirrord_sampling_rate") < most, "more again", 20)


def test_a_link_of_no_known_speed_is_told_of(net: Topology, daemon: MakeDaemon) -> None:
    source, other = net.host("source"), net.host("other")
    net.link(source, "nic", other, "eth0")
    source.ip("link add empty type bridge")
    source.ip("link set empty up")
    mirrord = daemon(source, configuration("empty"))
    reason = "pause_above has no effect: the speed of empty is not known"
    wait_for(lambda: about(mirrord)["reason"] == reason, "the warning")
    assert about(mirrord)["state"] == "up"
    assert reason in mirrord.output()
