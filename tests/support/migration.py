"""VMs that migrate from one host to another, in a cluster: migrating.py has the fixtures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager

from tests.support.cluster import Cluster
from tests.support.ctl import ctl
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
