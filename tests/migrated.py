"""VMs that migrate live in a cluster, by libvirt and QEMU: `make migrated`, as root, two minutes of a machine at rest.

Not among the other tests: on a machine with other work to do, software emulation loses its way (a VM that goes on, and
does not answer for a minute). tests/unit/test_derive.py has what follows from the states that libvirt tells, and
tests/scenarios/test_guests.py real VMs that stop and start.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.conftest import MakeSniffer
from tests.support.cluster import Cluster, Member, member
from tests.support.ctl import ctl
from tests.support.etcd import Store
from tests.support.guests import Hypervisor
from tests.support.topology import Topology
from tests.support.wait import wait_for

pytestmark = pytest.mark.timeout(600)

VM1 = "52:54:00:00:01:00", "52:54:00:00:01:01"
VM2 = "52:54:00:00:02:00"
ADDRESS = "10.1.225.37"
SLOWLY = 24
"""MB/s: a VM of people's use takes its time, too."""


@pytest.fixture(scope="module")
def hypervisor() -> Iterator[Hypervisor]:
    """A host with VM-1, which has two NICs, and VM-2, which answers ping; both are ports of br0."""
    with Topology() as net:
        host = net.host("hv")
        host.add_bridge("br0")
        host.ip("address add 10.1.225.124/24 dev br0")
        with closing(Hypervisor(host)) as made:
            made.define("VM-1", "10.1.225.36/24", *VM1)
            made.define("VM-2", f"{ADDRESS}/24", VM2)
            made.virsh("start", "VM-1")  # nobody looks into it
            made.start("VM-2")
            yield made


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
    hypervisor.migrate("VM-2", other, SLOWLY)
    tap = other.device("VM-2", VM2)
    wait_for(lambda: states(cluster, 1) == {"core/nic": "up"}, "the source is mirrored at the other host", 30)
    wait_for(lambda: states(cluster, 0) == {"core/nic.in": "up"}, "and not at the first one any more", 30)
    before = len(answered(ping.output()))
    wait_for(lambda: len(answered(ping.output())) > before + 50, "it answers", 60)
    cluster.store.freeze()
    other.migrate("VM-2", hypervisor, SLOWLY)
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
    hypervisor.migrate("VM-1", other, SLOWLY)
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
