"""A destination taken off its bridge (`isolate`) while the session runs, and given back as it was.

guest eth0 ---- tap0 [host: br0] out0, out1 ---- eth0, eth1 [sensor]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.ctl import ctl
from tests.support.daemon import Daemon
from tests.support.send import send, udp_frame
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

GUEST = "02:00:00:00:00:77"
ENDS = (GUEST, "10.0.0.1", 1000), ("ff:ff:ff:ff:ff:ff", "10.0.0.255", 2000)
FRAMES = [udp_frame(*ENDS, length=100 + n) for n in range(20)]
PORT_OPTIONS = "learning on hairpin on isolated on cost 77 mcast_flood off"


def session(name: str, destination: str, *, isolate: bool = True) -> str:
    return f"""
[[mirrors.m.sessions]]
name = "{name}"
source = "tap0"
direction = "ingress"
destination = {{ type = "device", device = "{destination}", isolate = {str(isolate).lower()} }}
"""


@pytest.fixture
def dataplane() -> str:
    """To isolate is the control plane's."""
    return "native"


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host, Host]:
    """The host, whose out0 has settings of its own, the sensor and the guest."""
    host, sensor, guest = net.host("host"), net.host("sensor"), net.host("guest")
    net.link(host, "tap0", guest, "eth0")
    for n in (0, 1):
        net.link(host, f"out{n}", sensor, f"eth{n}")
    host.add_bridge("br0", "tap0", "out0", "out1")
    host.ip(f"link set dev out0 type bridge_slave {PORT_OPTIONS}")
    return host, sensor, guest


def port(host: Host, device: str) -> tuple[Any, ...]:
    """Which bridge a device is a port of, with which settings, and its alternative names."""
    link = json.loads(host.ip(f"-d -j link show dev {device}"))[0]
    data = link.get("linkinfo", {}).get("info_slave_data", {})
    settings = {key: data.get(key) for key in ("learning", "hairpin", "isolated", "cost", "mcast_flood", "flood")}
    return link.get("master"), settings, link.get("altnames", [])


def master(host: Host, device: str) -> str | None:
    return port(host, device)[0]  # type: ignore[no-any-return]


def where_learnt(host: Host) -> set[str]:
    """The ports behind which the bridge takes the guest to be."""
    return {one["ifname"] for one in json.loads(host.run("bridge", "-j", "fdb", "show")) if one["mac"] == GUEST}


def test_the_bridge_learns_nothing_of_the_copies_and_has_its_port_again(
    hosts: tuple[Host, Host, Host], sniff: MakeSniffer, daemon: MakeDaemon
) -> None:
    host, sensor, guest = hosts
    before = port(host, "out0"), port(host, "out1")
    received = sniff(sensor, "eth0", "udp")
    mirrord = daemon(host, session("s", "out0"))
    assert master(host, "out0") is None
    assert any(name.endswith("-of-br0") for name in port(host, "out0")[2])
    assert "learns addresses" not in mirrord.output()

    for frame in FRAMES:
        send(guest, "eth0", frame)
    received.wait_lines(len(FRAMES))
    send(sensor, "eth0", FRAMES[0])  # a copy that comes back, as from a sensor that bridges
    assert where_learnt(host) == {"tap0"}
    mirrord.settle(len(FRAMES))
    assert received.stop().frames("dst host 10.0.0.255")[: len(FRAMES)] == FRAMES

    mirrord.file.write_text(mirrord.file.read_text().replace('"out0"', '"out1"'))
    mirrord.reload()
    wait_for(lambda: master(host, "out1") is None, "the other device taken off")
    wait_for(lambda: port(host, "out0") == before[0], "the first one given back")
    mirrord.stop()
    assert (port(host, "out0"), port(host, "out1")) == before


def test_it_is_given_back_whenever_the_session_ends(hosts: tuple[Host, Host, Host], daemon: MakeDaemon) -> None:
    host = hosts[0]
    before = port(host, "out0")
    mirrord = daemon(host, "", up=False)
    ctl(mirrord.socket, "create", "m", "--enable")
    end = "type=device,device=out0,isolate=true"
    ctl(mirrord.socket, "session", "add", "m", "s", "--source", "tap0", "--destination", end)
    for ends, begins in ((("disable", "m"), ("enable", "m")), (("delete", "m"), ())):
        wait_for(lambda: master(host, "out0") is None, "taken off")
        shown = json.loads(ctl(mirrord.socket, "--json", "status"))["sessions"]
        assert [one["destination"] for one in shown] == ["device out0, off its bridge"]
        ctl(mirrord.socket, *ends)
        assert port(host, "out0") == before
        if begins:
            ctl(mirrord.socket, *begins)


def test_a_crash_leaves_a_record_that_the_next_start_finds(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon, tmp_path: Path
) -> None:
    host = hosts[0]
    before = port(host, "out0"), port(host, "out1")
    first = daemon(host, session("a", "out0") + session("b", "out1"))
    assert (master(host, "out0"), master(host, "out1")) == (None, None)
    first.kill()
    assert master(host, "out0") is None

    second = tmp_path / "second"
    second.mkdir()
    again = Daemon(host, second, "", up=False)  # it names none of the devices any more
    assert (port(host, "out0"), port(host, "out1")) == before
    assert "a killed daemon had taken out0 off br0: given back" in again.output()
    again.stop()


def test_what_others_do_to_the_port_and_the_bridge_meanwhile(
    hosts: tuple[Host, Host, Host], net: Topology, daemon: MakeDaemon
) -> None:
    host, sensor, _ = hosts
    mirrord = daemon(host, session("a", "out0") + session("b", "out1"))

    host.ip("link set dev out0 master br0")
    wait_for(lambda: "somebody has made it a port of br0 since" in mirrord.output(), "the warning")
    host.add_bridge("br1", "out0")
    host.ip("link delete out1")  # as libvirt does, which then makes it again in its bridge
    net.link(host, "out1", sensor, "eth1")
    host.ip("link set dev out1 master br0")
    mirrord.wait_up()
    wait_for(lambda: master(host, "out1") is None, "the new device taken off, too")
    host.ip("link delete br0")
    _, output = mirrord.stop()
    assert "out0 was taken off br0, and somebody has made it a port of br1: it stays" in output
    assert "out1 was taken off br0, which is gone: it stays without a bridge" in output
    assert (master(host, "out0"), master(host, "out1")) == ("br1", None)
    assert [port(host, device)[2] for device in ("out0", "out1")] == [[], []]


def test_without_isolate_the_bridge_is_misled_and_the_warning_says_so(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon
) -> None:
    host, sensor, guest = hosts
    mirrord = daemon(host, session("s", "out1", isolate=False))
    assert "isolate = true takes it off the bridge while it is a destination" in mirrord.output()
    send(guest, "eth0", FRAMES[0])
    mirrord.settle(1)
    assert where_learnt(host) == {"tap0"}
    send(sensor, "eth1", FRAMES[0])
    wait_for(lambda: where_learnt(host) == {"out1"}, "the bridge misled")
