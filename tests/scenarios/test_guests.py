"""Document 000 by the names that people use: real VMs, found through libvirt, on one host and in a cluster."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.cluster import Cluster, Member
from tests.support.ctl import complete, ctl
from tests.support.daemon import Daemon
from tests.support.guests import Hypervisor
from tests.support.migration import ADDRESS, VM1, VM2, has_address, one_host, only, states
from tests.support.sniffer import Sniffer
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

PLUGGED = "52:54:00:00:02:01"

pytest_plugins = ["tests.support.migrating"]  # fixtures
pytestmark = pytest.mark.alone  # a machine under software emulation takes a processor for itself


@pytest.fixture(scope="module")
def hypervisor() -> Iterator[Hypervisor]:
    with one_host() as made:
        made.host.add_bridge("spare")
        yield made


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
    hypervisor: Hypervisor, other: Hypervisor, net: Topology, daemon: MakeDaemon
) -> None:
    net.link(other.host, "out", net.host("collector"), "in")
    text = configuration(other, f'"{VM2}"').splitlines()[:-1]
    text.append('destination = { type = "device", device = "out" }')
    mirrord = daemon(other.host, "\n".join(text), up=False)
    wait_for(lambda: source(mirrord)[2] == "there is no VM VM-2 here", "it waits")
    ping = hypervisor.host.spawn("ping", "-q", "-i", "0.01", ADDRESS)
    hypervisor.migrate("VM-2", other)
    tap = other.device("VM-2", VM2)
    wait_for(lambda: mirrored(mirrord).get(tap, 0) > 200, "the VM is mirrored", 30)
    ping.stop(2)
    wait_for(lambda: mirrored(mirrord)[tap] == seen(other.host, tap), "every frame was captured")
    other.migrate("VM-2", hypervisor)
    wait_for(lambda: source(mirrord)[1] == "waiting", "it is gone")


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


TO = "type=vm,vm=VM-1,nic=1,isolate=true"


def test_in_a_cluster_a_destination_that_stops_is_listened_for_and_sent_to_again_when_it_runs(
    hypervisor: Hypervisor, cluster: Cluster
) -> None:
    a, far = cluster.a, cluster.members[2]
    only(cluster, "s", "type=device,device=tap7,host=far", TO, "--direction", "egress")
    wait_for(lambda: state(far, "core/s") == state(a, "core/s.in") == "up", "both halves are up", 20)
    ping = far.host.spawn("ping", "-i", "0.05", "10.7.0.2")
    wait_for(lambda: counters(a)["mirrored_frames"] > 5, "copies arrive")

    hypervisor.virsh("destroy", "VM-1")
    wait_for(lambda: counters(a)["dropped_frames"]["no_route"] > 5, "what still comes is counted", 20)
    wait_for(lambda: state(far, "core/s") is None, "the source ends, once the VM was away for some time", 30)
    assert state(a, "core/s.in") == "waiting"
    before = counters(a)["mirrored_frames"]
    hypervisor.virsh("start", "VM-1")
    wait_for(lambda: counters(a)["mirrored_frames"] > before, "copies arrive again", 20)
    ping.stop(2)


def state(one: Member, name: str) -> str | None:
    row = one.rows().get(name)
    return None if row is None else row["state"]


def counters(one: Member) -> Any:
    """Of the half that receives."""
    return one.rows()["core/s.in"]["counters"]


def test_a_vm_that_migrates_and_comes_back_without_the_store_is_mirrored_frame_by_frame(
    hypervisor: Hypervisor, other: Hypervisor, cluster: Cluster, sniff: MakeSniffer
) -> None:
    """As tcpdump sees all devices of both hosts, and so the VM's NIC before it is there."""
    host = hypervisor.host
    only(cluster, "nic", f"type=vm,vm=VM-2,nic={VM2}", TO)
    wait_for(lambda: states(cluster, 0) == {"core/nic": "up", "core/nic.in": "up"}, "it runs", 20)
    wait_for(lambda: has_address(cluster, 1), "the other host is prepared", 20)
    here, there = sniff(host, "any", "icmp"), sniff(other.host, "any", "icmp")
    taps = {here: [host.index(hypervisor.device("VM-2", VM2))], there: list[int]()}
    ping = host.spawn("ping", "-i", "0.02", ADDRESS)
    hypervisor.migrate("VM-2", other)
    taps[there].append(other.host.index(other.device("VM-2", VM2)))
    wait_for(lambda: states(cluster, 1) == {"core/nic": "up"}, "the source is mirrored at the other host", 30)
    wait_for(lambda: states(cluster, 0) == {"core/nic.in": "up"}, "and not at the first one any more", 30)
    before = ping.output().count("from")
    wait_for(lambda: ping.output().count("from") > before + 50, "it answers", 60)
    cluster.store.freeze()
    other.migrate("VM-2", hypervisor)
    taps[here].append(host.index(hypervisor.device("VM-2", VM2)))
    before = ping.output().count("from")
    wait_for(lambda: ping.output().count("from") > before + 50, "it answers", 60)
    ping.stop(signal.SIGINT)
    cluster.store.thaw()
    wanted = sum((pings(capture.stop(), *indexes) for capture, indexes in taps.items()), Counter[tuple[str, ...]]())
    copies = pings(here, host.index(hypervisor.device("VM-1", VM1[1])))
    assert copies == wanted, (copies - wanted, wanted - copies, cluster.shown())
    assert max(wanted.values()) == 1


def pings(capture: Sniffer, *indexes: int) -> Counter[tuple[str, ...]]:
    """The requests and replies on devices, by type and number."""
    rows = capture.fields("sll.ifindex", "icmp.type", "icmp.seq")
    return Counter((kind, number) for index, kind, number in rows if int(index) in indexes)


def test_copies_follow_a_destination_that_migrates_and_what_still_comes_to_its_old_host_is_counted(
    hypervisor: Hypervisor, other: Hypervisor, cluster: Cluster
) -> None:
    far = cluster.members[2]
    only(cluster, "follow", "type=device,device=tap7,host=far", TO, "--direction", "egress")
    wait_for(lambda: state(far, "core/follow") == state(cluster.a, "core/follow.in") == "up", "both halves are up", 20)
    ping = far.host.spawn("ping", "-i", "0.02", "10.7.0.2")
    wait_for(lambda: came(cluster.a)["mirrored"] > 50, "copies arrive at the first host")
    hypervisor.migrate("VM-1", other)
    wait_for(lambda: came(cluster.b)["mirrored"] > 50, "copies arrive at the other host", 30)
    ping.stop(signal.SIGINT)
    sent = far.rows()["core/follow"]["counters"]
    wait_for(lambda: came(cluster.a) + came(cluster.b) >= Counter(captured=sent["mirrored_frames"]), "all have come")
    first, second = came(cluster.a), came(cluster.b)
    assert sent["captured_frames"] == sent["mirrored_frames"] == first["captured"] + second["captured"]
    assert first["dropped"] + first["mirrored"] == first["captured"]
    assert second["mirrored"] == second["captured"]
    assert first["dropped"] < 100, "2 s at the most"


def came(one: Member) -> Counter[str]:
    """What a host's half of the session got, and what became of it."""
    row = one.rows().get("core/follow.in")
    if row is None:
        return Counter()
    counters = row["counters"]
    dropped = sum(counters["dropped_frames"].values())
    return Counter(captured=counters["captured_frames"], mirrored=counters["mirrored_frames"], dropped=dropped)
