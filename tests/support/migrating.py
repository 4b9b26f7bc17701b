"""Fixtures: two hosts whose VMs migrate from one to the other, in a cluster with a third one.

For modules that have this among their `pytest_plugins`, and a fixture `hypervisor`, which is the first host.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.support.cluster import Cluster, Member, member
from tests.support.etcd import Store
from tests.support.guests import Hypervisor
from tests.support.topology import Topology


@pytest.fixture(scope="module")
def other(hypervisor: Hypervisor) -> Iterator[Hypervisor]:
    """Another host that the first one's VMs may migrate to: its br0 is of the same Ethernet."""
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
    """The two, and a host `far` without VMs, which has `tap7` and `tap8`; etcd is on one of its own. The mirror `core`
    has no sessions yet.
    """
    with Topology() as net:
        directory = tmp_path_factory.mktemp("cluster")
        hosts = (hypervisor.host, other.host, net.host("far"))
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
        for host, under in zip(hosts, (hypervisor.under, other.under, ()), strict=True):
            (directory / host.label).mkdir()
            members.append(member(host, directory / host.label, store, begin=not members, under=under))
        made = Cluster(store, tuple(members))
        made.a.ctl("network", "create", "flow0", "--addresses", "192.168.29.10-192.168.29.20/24")
        made.a.ctl("create", "core", "--flow-network", "flow0", "--enable")
        yield made
        for each in members:
            each.stop()
