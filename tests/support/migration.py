"""Two hosts whose VMs migrate from one to the other, in a cluster with a third one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.support.cluster import Cluster, Member, member
from tests.support.ctl import ctl
from tests.support.etcd import Store
from tests.support.guests import Hypervisor
from tests.support.topology import Topology

VM1 = "52:54:00:00:01:00", "52:54:00:00:01:01"
VM2 = "52:54:00:00:02:00"
ADDRESS = "10.1.225.37"
"""VM-2's."""


@contextmanager
def one_host(words: str = "") -> Iterator[Hypervisor]:
    """A host with VM-1, which has two NICs, and VM-2, which answers ping; both are ports of br0. `words` are on VM-2's
    command line.
    """
    with Topology() as net:
        host = net.host("hv")
        host.add_bridge("br0")
        host.ip("address add 10.1.225.124/24 dev br0")
        with closing(Hypervisor(host)) as made:
            made.define("VM-1", "10.1.225.36/24", *VM1)
            made.define("VM-2", f"{ADDRESS}/24", VM2, words=words)
            made.virsh("start", "VM-1")  # nobody looks into it
            made.start("VM-2")
            yield made


@contextmanager
def another_host(first: Hypervisor) -> Iterator[Hypervisor]:
    """Another host that VMs may migrate to: its br0 is of the same Ethernet."""
    with Topology() as net:
        host = net.host("hv2")
        with closing(Hypervisor(host)) as made:
            host.add_bridge("br0")
            net.link(first.host, "trunk", host, "trunk")
            for each in (first.host, host):
                each.ip("link set dev trunk master br0")
            yield made


@contextmanager
def joined(first: Hypervisor, second: Hypervisor, directory: Path) -> Iterator[Cluster]:
    """The two, and a host `far` without VMs, which has `tap7` and `tap8`; etcd is on one of its own. The mirror `core`
    has no sessions yet.
    """
    with Topology() as net:
        hosts = (first.host, second.host, net.host("far"))
        store_host = net.host("store")
        net.lan({**{host: f"10.0.0.{n}/24" for n, host in enumerate(hosts, 1)}, store_host: "10.0.0.9/24"})
        switch = net.host("switch")
        for host in hosts:
            net.link(host, "em02", switch, host.label, mtu=1600)
        switch.add_bridge("br0", *(host.label for host in hosts))
        net.link(hosts[2], "tap7", net.host("vm"), "eth0", ("10.7.0.1/24", "10.7.0.2/24"))
        net.link(hosts[2], "tap8", net.host("sink"), "eth0")
        store = Store(store_host, directory / "etcd", address="10.0.0.9")
        store.start()
        members: list[Member] = []
        for host, under in zip(hosts, (first.under, second.under, ()), strict=True):
            (directory / host.label).mkdir()
            members.append(member(host, directory / host.label, store, begin=not members, under=under))
        made = Cluster(store, tuple(members))
        made.a.ctl("network", "create", "flow0", "--addresses", "192.168.29.10-192.168.29.20/24")
        made.a.ctl("create", "core", "--flow-network", "flow0", "--enable")
        yield made
        for each in members:
            each.stop()


def only(cluster: Cluster, name: str, source: str, to: str, *options: str) -> None:
    """Have the mirror `core` have this session, and no other."""
    there = {one["name"] for one in cluster.a.json("show", "core")["sessions"]}
    for one in there - {name}:
        cluster.a.ctl("session", "delete", "core", one)
    if name not in there:
        cluster.a.ctl("session", "add", "core", name, "--source", source, "--destination", to, *options)
    cluster.settle()


def states(cluster: Cluster, number: int) -> dict[str, str]:
    """The state of each session that a host runs."""
    return {name: row["state"] for name, row in cluster.members[number].rows().items()}


def has_address(cluster: Cluster, number: int) -> bool:
    """Whether a host's daemon has an address in the flow network."""
    told = json.loads(ctl(cluster.members[number].daemon.socket, "--json", "network", "list"))
    return any(one["in_use"]["address"] for one in told)
