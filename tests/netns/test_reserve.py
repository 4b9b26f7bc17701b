"""A reserved destination (`normal_io = false`): only copies while the session runs, and nothing left after.

guest eth0 ---- tap0 [host] out0, out1 ---- eth0, eth1 [sensor]
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.daemon import Daemon
from tests.support.send import UNANSWERED, send
from tests.support.topology import Host, Topology, acquaint
from tests.support.wait import wait_for

OTHER = bytes.fromhex("020000000002 020000000003 88b6").ljust(64, b"\1")
PASS_ALL = "1,6 0 0 4294967295"  # classic BPF: return TC_ACT_UNSPEC


def session(name: str, source: str, destination: str) -> str:
    return f"""
[[mirrors.m.sessions]]
name = "{name}"
source = "{source}"
destination = {{ type = "device", device = "{destination}", normal_io = false }}
"""


@pytest.fixture
def dataplane() -> str:
    """The reservation is the control plane's; the scenario of document 002 runs with both."""
    return "native"


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host]:
    host, sensor, guest = net.host("host"), net.host("sensor"), net.host("guest")
    net.link(host, "tap0", guest, "eth0")
    for n in (0, 1):
        mine, its = f"192.0.2.{n * 4 + 1}", f"192.0.2.{n * 4 + 2}"
        net.link(host, f"out{n}", sensor, f"eth{n}", (f"{mine}/30", f"{its}/30"))
        acquaint(host, f"out{n}", mine, sensor, f"eth{n}", its)
    return host, sensor


def hooks(host: Host, device: str) -> str:
    """What hangs on a device's clsact hooks, and whether it has them."""
    told = host.run("tc", "qdisc", "show", "dev", device, "clsact")
    return told + "".join(host.run("tc", "filter", "show", "dev", device, side) for side in ("ingress", "egress"))


def dropped(host: Host, device: str) -> int:
    """What the kernel counts as dropped at the hooks."""
    qdiscs = json.loads(host.run("tc", "-s", "-j", "qdisc", "show", "dev", device))
    return sum(int(one["drops"]) for one in qdiscs if one["kind"] == "clsact")


def reachable(host: Host, n: int) -> bool:
    return ", 0% packet loss" in host.run("ping", "-c", "1", "-W", "1", f"192.0.2.{n * 4 + 2}", check=False)


def test_other_traffic_is_dropped_both_ways_while_the_session_runs(
    hosts: tuple[Host, Host], net: Topology, sniff: MakeSniffer, daemon: MakeDaemon
) -> None:
    host, sensor = hosts
    assert reachable(host, 0)
    received = sniff(sensor, "eth0", "ether proto 0x88b6")
    mirrord = daemon(host, session("s", "tap0", "out0"))
    before = dropped(host, "out0")
    send(host, "out0", OTHER, 3)
    send(sensor, "eth0", OTHER, 4)
    wait_for(lambda: dropped(host, "out0") - before >= 7, "both sides' frames dropped")
    send(host, "tap0", UNANSWERED, 5)
    received.wait_lines(5)
    assert not reachable(host, 0)

    host.ip("link delete tap0")
    wait_for(lambda: mirrord.metrics().total("mirrord_session_up") == 0, "the session waiting")
    wait_for(lambda: reachable(host, 0), "the device given back")
    net.link(host, "tap0", net.host("other"), "eth0")
    mirrord.wait_up()
    assert not reachable(host, 0)
    assert mirrord.stop()[0] == 0
    assert reachable(host, 0)
    assert hooks(host, "out0") == ""
    copies = [frame for frame in received.stop().frames() if frame != OTHER]
    assert copies == [UNANSWERED] * 5
    assert len(received.frames()) == 5 + 4  # and the four that the sensor sent


def test_what_a_killed_daemon_left_is_taken_away_and_nothing_else(
    hosts: tuple[Host, Host], daemon: MakeDaemon, tmp_path: Path
) -> None:
    host, _ = hosts
    host.run("tc", "qdisc", "add", "dev", "out1", "clsact")
    host.run("tc", "filter", "add", "dev", "out1", "egress", "pref", "1", "bpf", "da", "bytecode", PASS_ALL)
    before = hooks(host, "out1")
    first = daemon(host, session("a", "tap0", "out0") + session("b", "tap0", "out1"))
    first.kill()
    assert not reachable(host, 0)
    assert not reachable(host, 1)

    second = tmp_path / "second"
    second.mkdir()
    again = Daemon(host, second, "", up=False)  # it names none of the devices any more
    assert reachable(host, 0)
    assert reachable(host, 1)
    assert hooks(host, "out0") == ""
    assert hooks(host, "out1") == before
    assert again.stop()[0] == 0
    assert hooks(host, "out1") == before


def test_a_device_that_cannot_be_reserved_gets_no_copies(hosts: tuple[Host, Host], daemon: MakeDaemon) -> None:
    host, _ = hosts
    host.run("tc", "qdisc", "add", "dev", "out0", "ingress")
    mirrord = daemon(host, session("s", "tap0", "out0"), up=False)
    (info,) = mirrord.metrics().select("mirrord_session_info")
    told = dict(info[1])
    assert told["state"] == "failed"
    assert told["reason"] == "its ingress qdisc leaves no place for the rule that reserves it"
    assert reachable(host, 0)
    host.run("tc", "qdisc", "delete", "dev", "out0", "ingress")
    mirrord.wait_up()  # it is tried again
