"""Document 000 by the names that people use: real VMs, found through libvirt, on one host and in a cluster."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

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

pytestmark = [  # a machine under software emulation takes a processor for itself, and its time
    pytest.mark.alone,
    pytest.mark.timeout(300),
]


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


@pytest.fixture(scope="module")
def other(hypervisor: Hypervisor) -> Iterator[Hypervisor]:
    """Another host that VMs may migrate to: its br0 is of the same Ethernet."""
    with Topology() as net:
        host = net.host("hv2")
        with closing(Hypervisor(host)) as made:
            host.add_bridge("br0")
            net.link(hypervisor.host, "trunk", host, "trunk")
            for each in (hypervisor.host, host):
                each.ip("link set dev trunk master br0")
            yield made


@pytest.fixture(scope="module")
def cluster(hypervisor: Hypervisor, other: Hypervisor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The two, and a host without VMs whose `tap7` is a source; etcd is on one of its own."""
    with Topology() as net:
        hosts = (hypervisor.host, other.host, net.host("c"))
        store_host = net.host("store")
        net.lan({**{host: f"10.0.0.{n}/24" for n, host in enumerate(hosts, 1)}, store_host: "10.0.0.9/24"})
        switch = net.host("switch")
        for host in hosts:
            net.link(host, "em02", switch, host.label, mtu=1600)
        switch.add_bridge("br0", *(host.label for host in hosts))
        net.link(hosts[2], "tap7", net.host("vm"), "eth0", ("10.7.0.1/24", "10.7.0.2/24"))
        store = Store(store_host, tmp_path_factory.mktemp("etcd"), address="10.0.0.9")
        store.start()
        members: list[Member] = []
        for host, under in zip(hosts, (hypervisor.under, other.under, ()), strict=True):
            directory = tmp_path_factory.mktemp(host.label)
            members.append(member(host, directory, store, begin=not members, under=under))
        yield Cluster(store, tuple(members))
        for each in members:
            each.stop()


def test_a_vm_that_migrates_is_mirrored_without_loss_or_doubles_also_without_the_store(
    hypervisor: Hypervisor, other: Hypervisor, cluster: Cluster, sniff: MakeSniffer
) -> None:
    host, a = hypervisor.host, cluster.a
    a.ctl("network", "create", "flow0", "--addresses", "192.168.29.10-192.168.29.20/24")
    a.ctl("create", "core", "--flow-network", "flow0", "--enable")
    to = "type=vm,vm=VM-1,nic=1,isolate=true"
    a.ctl("session", "add", "core", "nic", "--source", f"type=vm,vm=VM-2,nic={VM2}", "--destination", to)
    wait_for(lambda: states(cluster, 0) == {"core/nic": "up", "core/nic.in": "up"}, "it runs", 20)
    wait_for(lambda: has_address(cluster, 1), "the other host is prepared", 20)
    received = sniff(host, hypervisor.device("VM-1", VM1[1]), "icmp")
    ping = host.spawn("ping", "-i", "0.02", ADDRESS)
    hypervisor.migrate("VM-2", other)
    tap = other.device("VM-2", VM2)
    wait_for(lambda: states(cluster, 1) == {"core/nic": "up"}, "the source is mirrored at the other host", 30)
    wait_for(lambda: states(cluster, 0) == {"core/nic.in": "up"}, "and not at the first one any more", 30)
    before = len(answered(ping.output()))
    wait_for(lambda: len(answered(ping.output())) > before + 50, "it answers", 60)
    cluster.store.freeze()
    other.migrate("VM-2", hypervisor)
    before = len(answered(ping.output()))
    wait_for(lambda: len(answered(ping.output())) > before + 50, "it answers", 60)
    ping.stop(2)
    cluster.store.thaw()
    expected = Counter((kind, number) for number in answered(ping.output()) for kind in ("request", "reply"))
    copies = copied(received.stop().lines())
    assert {one: count for one, count in copies.items() if count > 1} == {}
    assert not expected - copies, (sorted(expected - copies), answered(ping.output()), cluster.shown())
    assert tap


def has_address(cluster: Cluster, number: int) -> bool:
    """Whether a host's daemon has an address in the flow network."""
    told = json.loads(ctl(cluster.members[number].daemon.socket, "--json", "network", "list"))
    return any(one["in_use"]["address"] for one in told)


def states(cluster: Cluster, number: int) -> dict[str, str]:
    """The state of each session that a host runs."""
    return {name: row["state"] for name, row in cluster.members[number].rows().items()}


def answered(text: str) -> list[int]:
    """The numbers of the pings that were answered."""
    return [int(one) for one in re.findall(r"from .* icmp_seq=(\d+) ", text)]


def copied(lines: list[str]) -> Counter[tuple[str, int]]:
    """Requests and replies by number."""
    found = (re.search(r"echo (request|reply), id \d+, seq (\d+)", line) for line in lines)
    return Counter((one[1], int(one[2])) for one in found if one)


def test_copies_follow_a_destination_that_migrates_and_what_still_comes_to_its_old_host_is_counted(
    hypervisor: Hypervisor, other: Hypervisor, cluster: Cluster
) -> None:
    c = cluster.members[2]
    source = "type=device,device=tap7,host=c"
    to = "type=vm,vm=VM-1,nic=1,isolate=true"
    cluster.a.ctl("session", "add", "core", "far", "--source", source, "--destination", to, "--direction", "egress")
    wait_for(lambda: states(cluster, 2) == {"core/far": "up"}, "the source is mirrored", 20)
    wait_for(lambda: states(cluster, 0).get("core/far.in") == "up", "it is listened to", 20)
    ping = c.host.spawn("ping", "-i", "0.02", "10.7.0.2")
    wait_for(lambda: counted(cluster, 0)["mirrored"] > 50, "copies arrive at the first host")
    hypervisor.migrate("VM-1", other)
    wait_for(lambda: counted(cluster, 1)["mirrored"] > 50, "copies arrive at the other host", 30)
    ping.stop(2)
    sent = c.rows()["core/far"]["counters"]
    both = wait_for(lambda: all_come(cluster, sent["mirrored_frames"]), "what was sent is counted at either host")
    print("sent", sent["mirrored_frames"], "came to the first host, and to the second:", both)
    assert sent["captured_frames"] == sent["mirrored_frames"]
    assert both[0]["dropped"] + both[0]["mirrored"] == both[0]["captured"]
    assert both[1]["mirrored"] == both[1]["captured"]
    assert 0 < both[0]["dropped"] < 100, "2 s at the most"


def counted(cluster: Cluster, number: int) -> dict[str, int]:
    """What came to a host's half of the session."""
    row = cluster.members[number].rows().get("core/far.in")
    if row is None:
        return {"captured": 0, "mirrored": 0, "dropped": 0}
    counters = row["counters"]
    dropped = sum(counters["dropped_frames"].values())
    return {"captured": counters["captured_frames"], "mirrored": counters["mirrored_frames"], "dropped": dropped}


def all_come(cluster: Cluster, sent: int) -> list[dict[str, int]] | None:
    both = [counted(cluster, number) for number in (0, 1)]
    return both if sum(one["captured"] for one in both) == sent else None
