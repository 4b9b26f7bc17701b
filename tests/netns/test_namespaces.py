"""Sources and tunnels in network namespaces other than the daemon's: a container's NIC, seen from its host.

client eth0 ---- eth0 [container]      [host: mirrord]      [underlay] up0 ---- eth0 [collector]
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.daemon import Daemon
from tests.support.send import FRAME, send
from tests.support.topology import Host, Topology, receive_vxlan
from tests.support.wait import wait_for


def configuration(source: str, destination: str) -> str:
    return f"""
[mirrors.m]
enabled = true
[[mirrors.m.sessions]]
name = "s"
direction = "ingress"
source = {{ type = "device", device = "eth*", netns = "{source}" }}
destination = {{ type = "vxlan", remote = "10.99.0.2", vni = 7{f', netns = "{destination}"' if destination else ""} }}
"""


@pytest.fixture
def collector(net: Topology) -> Host:
    """It takes VNI 7 at 10.99.0.2."""
    collector = net.host("collector")
    receive_vxlan(collector, vni=7)
    return collector


@pytest.mark.parametrize("named", ["name", "pid", "path"])
def test_a_containers_nic_is_mirrored_through_another_namespace(
    net: Topology, collector: Host, sniff: MakeSniffer, daemon: MakeDaemon, named: str
) -> None:
    client, container, host, underlay = (
        net.host("client"),
        net.host("container"),
        net.host("host"),
        net.host("underlay"),
    )
    net.link(client, "eth0", container, "eth0")
    net.link(underlay, "up0", collector, "eth0", ("10.99.0.1/24", "10.99.0.2/24"), mtu=1600)
    inner = sniff(collector, "vxlan0")
    process = container.spawn("sleep", "600")
    names = {"name": container.name, "path": f"/run/netns/{container.name}", "pid": ""}
    if named == "pid":
        names["pid"] = wait_for(lambda: _process_in(container), "a process in the container")
    mirrord = daemon(host, configuration(names[named], underlay.name))

    send(client, "eth0", FRAME, count=3)
    metrics = mirrord.settle(captured=3)
    assert metrics.total("mirrord_mirrored_frames_total", source="eth0") == 3
    inner.wait_lines(3)
    mirrord.stop()
    process.stop()
    assert inner.stop().frames() == [FRAME] * 3


def test_a_device_in_another_namespace_is_sent_to(net: Topology, sniff: MakeSniffer, daemon: MakeDaemon) -> None:
    client, host, container, sensor = net.host("client"), net.host("host"), net.host("container"), net.host("sensor")
    net.link(client, "eth0", host, "nic")
    net.link(container, "nic", sensor, "eth0")  # of the same name as the source
    received = sniff(sensor, "eth0")
    to = f'{{ type = "device", device = "nic", netns = "{container.name}" }}'
    mirrord = daemon(host, f'[[mirrors.m.sessions]]\nname = "s"\nsource = "nic"\ndestination = {to}\n')
    send(client, "eth0", FRAME, count=3)
    assert mirrord.settle(captured=3).total("mirrord_mirrored_frames_total") == 3
    mirrord.stop()
    assert received.stop().frames() == [FRAME] * 3


@pytest.mark.parametrize("dataplane", ["native"])
def test_a_source_is_no_destination_by_any_name_of_its_namespace(net: Topology, daemon: MakeDaemon) -> None:
    host, client = net.host("host"), net.host("client")
    net.link(client, "eth0", host, "nic")
    path = f"/run/netns/{client.name}"
    toml = "".join(
        f"""
[[mirrors.m.sessions]]
name = "{name}"
source = {source}
destination = {{ type = "device", device = "{device}", netns = "{netns}" }}
"""
        for name, source, device, netns in (
            ("own", '"nic"', "nic", host.name),
            ("other", f'{{ type = "device", device = "eth0", netns = "{client.name}" }}', "eth0", path),
        )
    )
    mirrord = daemon(host, toml, up=False)
    assert reasons(mirrord) == [f"nic in {host.name} is also the source", f"eth0 in {path} is also the source"]


@pytest.mark.parametrize("dataplane", ["native"])
def test_a_namespace_is_waited_for_and_let_go(net: Topology, collector: Host, daemon: MakeDaemon) -> None:
    host, client = net.host("host"), net.host("client")
    net.link(host, "up0", collector, "eth0", ("10.99.0.1/24", "10.99.0.2/24"), mtu=1600)
    name = f"{host.name}-late"
    mirrord = daemon(host, configuration(name, ""), up=False)
    assert reasons(mirrord) == [f"no such network namespace: {name}"]
    for turn in (1, 2):  # the second time another namespace has the name
        subprocess.run(["ip", "netns", "add", name], check=True)
        try:
            wait_for(lambda: reasons(mirrord) == ["no device matches eth*"], "the namespace entered")
            client.ip(f"link add name c{turn} type veth peer name eth0 netns {name}")
            client.ip(f"link set c{turn} up")
            subprocess.run(["ip", "-n", name, "link", "set", "eth0", "up"], check=True)
            mirrord.wait_up()
            wait_for(lambda: reasons(mirrord) == [""], "the device found")
            send(client, f"c{turn}", FRAME)
            mirrord.settle(captured=turn)
        finally:
            subprocess.run(["ip", "netns", "delete", name], check=True)
        wait_for(lambda: reasons(mirrord) == [f"no such network namespace: {name}"], "the session waiting")
        # Nothing holds on to it: its devices are gone, and with them the other end of the pair.
        wait_for(lambda: f"c{turn}" not in client.ip("link show"), "the namespace freed")  # noqa: B023


def reasons(daemon: Daemon) -> list[str]:
    """Why the session does not run, for each device; "" where it does."""
    return [dict(labels)["reason"] for _, labels in daemon.metrics().select("mirrord_session_info")]


def _process_in(host: Host) -> str:
    """The id of a process there that has replaced `ip netns exec`."""
    pids = subprocess.run(["ip", "netns", "pids", host.name], capture_output=True, text=True, check=True).stdout.split()
    return next((pid for pid in pids if Path(f"/proc/{pid}/comm").read_text().strip() == "sleep"), "")
