"""Document 000 by the names that people use: real VMs, found through libvirt, on one host and in a cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.cluster import Cluster, Member, member
from tests.support.ctl import complete, ctl
from tests.support.daemon import Daemon
from tests.support.etcd import Store
from tests.support.guests import Hypervisor
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

VM1 = "52:54:00:00:01:00", "52:54:00:00:01:01"
VM2 = "52:54:00:00:02:00"
PLUGGED = "52:54:00:00:02:01"
ADDRESS = "10.1.225.37"

pytestmark = pytest.mark.alone  # a machine under software emulation takes a processor for itself


@pytest.fixture(scope="module")
def hypervisor() -> Iterator[Hypervisor]:
    """A host with VM-1, which has two NICs, and VM-2, which answers ping; both are ports of br0."""
    with Topology() as net:
        host = net.host("hv")
        host.add_bridge("br0")
        host.ip("address add 10.1.225.124/24 dev br0")
        host.add_bridge("spare")
        made = Hypervisor(host)
        made.define("VM-1", "10.1.225.36/24", *VM1)
        made.define("VM-2", f"{ADDRESS}/24", VM2)
        made.virsh("start", "VM-1")  # nobody looks into it
        made.start("VM-2")
        yield made
        made.close()


@pytest.fixture
def dataplane() -> str:
    return "native"


def configuration(
    hypervisor: Hypervisor, nic: str = "0", destination: str = '{ type = "vm", vm = "VM-1", nic = 1'
) -> str:
    connection = f'connection = "{hypervisor.uri}"'
    return f"""
[mirrors.vm-2]
description = "core business on VM-2"
[[mirrors.vm-2.sessions]]
name = "nic"
source = {{ type = "vm", vm = "VM-2", nic = {nic}, {connection} }}
destination = {destination}, {connection} }}
"""


def source(mirrord: Daemon) -> tuple[str, str, str]:
    """Of the only session: its source, state and reason."""
    (row,) = json.loads(ctl(mirrord.socket, "--json", "status"))["sessions"]
    return row["source"], row["state"], row["reason"]


def sources(mirrord: Daemon) -> dict[str, tuple[str, str]]:
    """The source of each session, and why it is not captured."""
    rows = json.loads(ctl(mirrord.socket, "--json", "status"))["sessions"]
    return {row["session"]: (row["source"], "" if row["state"] != "waiting" else row["reason"]) for row in rows}


def test_every_request_and_reply_comes_to_the_other_vms_nic(
    hypervisor: Hypervisor, sniff: MakeSniffer, daemon: MakeDaemon
) -> None:
    host, tap = hypervisor.host, hypervisor.device("VM-1", VM1[1])
    end = '{ type = "vm", vm = "VM-1", nic = 1, isolate = true'
    mirrord = daemon(host, configuration(hypervisor, destination=end))
    assert "master br0" not in host.ip(f"link show dev {tap}")
    received = sniff(host, tap, "icmp")
    host.run("ping", "-c", "5", "-i", "0.2", ADDRESS)
    mirrord.stop()
    assert "master br0" in host.ip(f"link show dev {tap}")
    lines = received.stop().lines()
    assert [" echo request," in line for line in lines] == [True, False] * 5, lines
    assert all("ethertype IPv4 (0x0800), length 98: " in line for line in lines), lines


def test_a_vm_that_comes_again_under_another_device_is_mirrored_within_a_second(
    hypervisor: Hypervisor, daemon: MakeDaemon
) -> None:
    """As libvirt tells of it, and as its process does."""
    processes = f"""
[[mirrors.vm-2.sessions]]
name = "process"
source = {{ type = "vm", vm = "VM-2", nic = "{VM2}", connection = "proc:" }}
destination = {{ type = "device", device = "spare" }}
"""
    mirrord = daemon(hypervisor.host, configuration(hypervisor, nic=f'"{VM2}"') + processes)
    before = hypervisor.device("VM-2", VM2)
    wait_for(lambda: sources(mirrord) == {"nic": (before, ""), "process": (before, "")}, "both are mirrored")
    hypervisor.virsh("destroy", "VM-2")
    gone = {"nic": ("vm:VM-2", "VM VM-2 does not run"), "process": ("vm:VM-2", "there is no VM VM-2 here")}
    wait_for(lambda: sources(mirrord) == gone, "the sessions wait")
    hypervisor.host.ip("tuntap add mode tap name " + before)  # so that the VM's gets another name
    hypervisor.virsh("start", "VM-2")
    began = time.monotonic()
    now = hypervisor.device("VM-2", VM2)
    wait_for(lambda: sources(mirrord) == {"nic": (now, ""), "process": (now, "")}, "both are mirrored")
    assert time.monotonic() - began < 1
    assert now != before
    hypervisor.host.ip(f"link delete dev {before}")
    wait_for(lambda: " 0% packet loss" in hypervisor.host.run("ping", "-c1", "-W1", ADDRESS, check=False), "booted", 90)


def test_a_nic_that_is_plugged_in_is_followed_and_libvirt_may_go_away(
    hypervisor: Hypervisor, daemon: MakeDaemon
) -> None:
    host, end = hypervisor.host, '{ type = "vm", vm = "VM-1", nic = 1'
    mirrord = daemon(host, configuration(hypervisor, '"*"', end))
    hypervisor.plug("VM-2", PLUGGED)
    there = {hypervisor.device("VM-2", mac) for mac in (VM2, PLUGGED)}
    wait_for(lambda: set(mirrored(mirrord)) == there, "both NICs are mirrored")
    tap = hypervisor.device("VM-2", VM2)
    captured, passed = mirrored(mirrord)[tap], seen(host, tap)
    listed = {one["device"]: one for one in json.loads(ctl(mirrord.socket, "--json", "sources"))}
    assert (listed[tap]["guest"]["name"], listed[tap]["guest"]["mac"]) == ("VM-2", VM2)
    assert (listed[tap]["mirrored_by"], listed["br0"]["mirrored_by"]) == (["vm-2/nic"], [])
    assert listed[hypervisor.device("VM-1", VM1[1])]["guest"]["nic"] == 1
    add = f"mirrorctl --socket {mirrord.socket} session add vm-2 x --source type=vm,"
    assert complete(f"{add}vm=VM-") == [f"type=vm,vm=VM-{n}" for n in (1, 2)]
    assert complete(f"{add}vm=VM-2,nic=5") == [f"type=vm,vm=VM-2,nic={mac}" for mac in (VM2, PLUGGED)]
    ping = host.spawn("ping", "-q", "-i", "0.01", "-c", "400", ADDRESS)
    hypervisor.stop_daemon()
    wait_for(lambda: "libvirt" in ctl(mirrord.socket, "doctor"), "doctor tells of libvirt")
    hypervisor.start_daemon()
    assert ping.wait(60) == 0, ping.output()
    wait_for(lambda: mirrored(mirrord)[tap] - captured == seen(host, tap) - passed >= 800, "every frame was captured")
    wait_for(lambda: "libvirt" not in ctl(mirrord.socket, "doctor"), "doctor has no more to tell", 20)
    hypervisor.virsh("detach-interface", "VM-2", "bridge", "--mac", PLUGGED, "--live")
    wait_for(lambda: set(mirrored(mirrord)) == {tap}, "the NIC that is gone is let go of", 30)


def test_a_vm_that_migrates_in_is_mirrored_from_its_first_frame(
    hypervisor: Hypervisor, net: Topology, daemon: MakeDaemon
) -> None:
    host = hypervisor.host
    with closing(Hypervisor(net.host("hv2"))) as other:
        other.host.add_bridge("br0")
        net.link(host, "trunk", other.host, "trunk")
        for each in (host, other.host):
            each.ip("link set dev trunk master br0")
        net.link(other.host, "out", net.host("collector"), "in")
        text = configuration(other, f'"{VM2}"').splitlines()[:-1]
        text.append('destination = { type = "device", device = "out" }')
        mirrord = daemon(other.host, "\n".join(text), up=False)
        wait_for(lambda: source(mirrord)[2] == "there is no VM VM-2 here", "it waits")
        ping = host.spawn("ping", "-q", "-i", "0.01", ADDRESS)
        hypervisor.migrate("VM-2", other)
        tap = other.device("VM-2", VM2)
        wait_for(lambda: mirrored(mirrord).get(tap, 0) > 200, "the VM is mirrored", 30)
        ping.stop(2)
        wait_for(lambda: mirrored(mirrord)[tap] == seen(other.host, tap), "every frame was captured")
        other.migrate("VM-2", hypervisor)
        wait_for(lambda: source(mirrord)[1] == "waiting", "it is gone")
        host.ip("link delete dev trunk")


def mirrored(mirrord: Daemon) -> dict[str, int]:
    """Frames captured by source, of sessions that are up."""
    rows = json.loads(ctl(mirrord.socket, "--json", "status"))["sessions"]
    return {row["source"]: row["counters"]["captured_frames"] for row in rows if row["state"] == "up"}


def seen(host: Host, device: str) -> int:
    """What the kernel counted on a device, both ways."""
    return host.counter(device, "tx", "packets") + host.counter(device, "rx", "packets")


def test_the_first_nic_of_a_vm_is_no_destination(hypervisor: Hypervisor, daemon: MakeDaemon) -> None:
    text = configuration(hypervisor, destination='{ type = "vm", vm = "VM-1", nic = 0')
    mirrord = daemon(hypervisor.host, text, up=False)
    why = "NIC 0 of VM-1 is the one that the VM is reached by"
    wait_for(lambda: source(mirrord)[2].startswith(why), "it is refused")
    assert source(mirrord)[1] == "failed"


def test_in_a_cluster_a_destination_that_stops_is_listened_for_and_one_that_starts_is_sent_to_when_it_runs(
    hypervisor: Hypervisor, net: Topology, tmp_path: Path
) -> None:
    """VM-1 on one host, and a source on another. Live migrations are in tests/migrated.py."""
    far, store_host = net.host("far"), net.host("store")
    net.lan({hypervisor.host: "10.0.0.1/24", far: "10.0.0.2/24", store_host: "10.0.0.3/24"})
    net.link(hypervisor.host, "em02", far, "em02", mtu=1600)
    net.link(far, "tap7", net.host("vm"), "eth0", ("10.7.0.1/24", "10.7.0.2/24"))
    store = Store(store_host, tmp_path / "etcd", address="10.0.0.3")
    store.start()
    for name in ("hv", "far"):
        (tmp_path / name).mkdir()
    a = member(hypervisor.host, tmp_path / "hv", store, begin=True, under=hypervisor.under)
    b = member(far, tmp_path / "far", store)
    cluster = Cluster(store, (a, b))
    a.ctl("network", "create", "flow0", "--addresses", "192.168.29.10-192.168.29.20/24")
    a.ctl("create", "core", "--flow-network", "flow0", "--enable")
    to = "type=vm,vm=VM-1,nic=1,isolate=true"
    source = "type=device,device=tap7,host=far"
    a.ctl("session", "add", "core", "s", "--source", source, "--destination", to, "--direction", "egress")
    wait_for(lambda: state(b, "core/s") == state(a, "core/s.in") == "up", "both halves are up", 20)
    ping = far.spawn("ping", "-i", "0.05", "10.7.0.2")
    wait_for(lambda: counters(a)["mirrored_frames"] > 5, "copies arrive")

    hypervisor.virsh("destroy", "VM-1")
    wait_for(lambda: counters(a)["dropped_frames"]["no_route"] > 5, "what still comes is counted", 20)
    wait_for(lambda: state(b, "core/s") is None, "the source ends, once the VM was away for some time", 30)
    assert state(a, "core/s.in") == "waiting"
    before = counters(a)["mirrored_frames"]
    hypervisor.virsh("start", "VM-1", "--paused")  # as one that arrives
    wait_for(lambda: state(a, "core/s.in") == "up", "it is listened for", 20)
    cluster.settle()
    assert {one["address"] for one in cluster.keys("ends/").values()} == {""}
    hypervisor.virsh("resume", "VM-1")
    wait_for(lambda: counters(a)["mirrored_frames"] > before, "copies arrive again", 20)
    ping.stop(2)
    for each in cluster.members:
        each.stop()


def state(one: Member, name: str) -> str | None:
    row = one.rows().get(name)
    return None if row is None else row["state"]


def counters(one: Member) -> Any:
    """Of the half that receives."""
    return one.rows()["core/s.in"]["counters"]
