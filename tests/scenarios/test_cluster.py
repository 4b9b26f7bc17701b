"""Documents 000 and 004 in a cluster: a flow network, a mirror from VM-2's NIC to VM-1's, which are on two hosts.

Each host has its own daemon and agent; etcd is on a third one. A veth pair stands for a VM's NIC.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.agent import Agent
from tests.support.ctl import ctl
from tests.support.daemon import Daemon
from tests.support.etcd import Store
from tests.support.sniffer import Sniffer
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

FLOW = "192.168.29.10-192.168.29.20/24"
CONFIGURATION = """
[[mirrors.local.sessions]]
name = "own"
source = "tap9"
destination = { type = "vxlan", remote = "10.0.0.3", vni = 77 }
"""


class Member(NamedTuple):
    """A host of the cluster, and the VM on it, whose NIC's end there is `tap`."""

    host: Host
    vm: Host
    tap: str
    daemon: Daemon
    agent: Agent

    def ctl(self, *words: str, status: int = 0) -> str:
        return ctl(self.agent.socket, "--cluster", *words, status=status)

    def json(self, *words: str) -> Any:
        return json.loads(self.ctl("--json", *words))

    def sessions(self) -> dict[str, tuple[str, str, str]]:
        """What the daemon runs: source, state and reason by name."""
        rows = json.loads(ctl(self.daemon.socket, "--json", "status"))["sessions"]
        return {f"{row['mirror']}/{row['session']}": (row["source"], row["state"], row["reason"]) for row in rows}


class Cluster(NamedTuple):
    store: Store
    a: Member
    b: Member

    @property
    def members(self) -> tuple[Member, Member]:
        return self.a, self.b

    def settle(self) -> None:
        """Until each host runs what the store says."""
        self.a.ctl("wait", "--timeout", "20")

    def keys(self, below: str) -> dict[str, Any]:
        lines = self.store.ctl("get", "--prefix", f"/mirrord/{below}").splitlines()
        return {key: json.loads(value) for key, value in zip(lines[::2], lines[1::2], strict=True)}

    def addresses(self) -> dict[str, str]:
        """The addresses of the flow network, by host; each host has one, and each address one host."""
        taken = self.keys("alloc/addr/flow0/")
        hosts = [one["host"] for one in taken.values()]
        assert len(set(hosts)) == len(hosts), taken
        return {one["host"]: key.rpartition("/")[2] for key, one in taken.items()}


@pytest.fixture
def cluster(net: Topology, tmp_path: Path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        hosts = {name: net.host(name) for name in ("a", "b", "store")}
        net.lan({hosts["a"]: "10.0.0.1/24", hosts["b"]: "10.0.0.2/24", hosts["store"]: "10.0.0.3/24"})
        net.link(hosts["a"], "em02", hosts["b"], "em02", mtu=1600)
        store = Store(hosts["store"], tmp_path / "etcd", address="10.0.0.3")
        store.start()
        members = []
        for name, tap in (("a", "tap2"), ("b", "tap1")):
            vm = net.host(f"vm-{name}")
            number = tap[-1]
            net.link(hosts[name], tap, vm, "eth0", (f"10.9.{number}.1/24", f"10.9.{number}.2/24"))
            directory = tmp_path / name
            directory.mkdir()
            daemon = Daemon(hosts[name], directory, CONFIGURATION, up=False, dataplane="native")
            stack.callback(daemon.stop)
            agent = Agent(hosts[name], directory, daemon.socket, endpoints=[store.url], devices={"flow0": "em02"})
            if name == "a":
                assert "was made" in agent.command("init")
            agent.start()
            stack.callback(agent.stop)
            members.append(Member(hosts[name], vm, tap, daemon, agent))
        made = Cluster(store, *members)
        wait_for(lambda: len([one for one in made.a.json("hosts") if one["alive"]]) == 2, "both are there", 20)
        yield made


def mirror(cluster: Cluster, name: str = "core") -> None:
    cluster.a.ctl("network", "create", "flow0", "--addresses", FLOW)
    cluster.a.ctl("create", name, "--flow-network", "flow0", "--description", "core business on VM-2", "--enable")
    source = "type=device,device=tap2,host=a,perspective=guest"
    cluster.a.ctl(
        "session", "add", name, "nic", "--source", source, "--destination", "type=device,device=tap1,host=b", "--direction", "both"
    )


def up(cluster: Cluster) -> bool:
    found = [one for member in cluster.members for name, one in member.sessions().items() if name.startswith("core")]
    return [one[1] for one in found] == ["up", "up"]


def shown(cluster: Cluster) -> str:
    return "\n".join(f"{member.sessions()}\n{member.agent.output()}\n{member.daemon.output()}" for member in cluster.members)


def wait_up(cluster: Cluster) -> None:
    try:
        wait_for(lambda: up(cluster), "both halves are up", 20)
    except AssertionError as late:
        raise AssertionError(f"{late}\n{shown(cluster)}") from late


def pinged(cluster: Cluster, tmp_path: Path, count: int) -> int:
    """How many of so many echo requests and replies of VM-2 are seen at VM-1's NIC, whole."""
    vm1 = cluster.b.vm
    sniffer = Sniffer(vm1, "eth0", "icmp", tmp_path / "vm1.pcap")
    cluster.a.vm.run("ping", "-c", str(count), "-i", "0.02", "-q", "10.9.2.1")
    lines = sniffer.wait(2 * count)
    return len([line for line in lines if re.search(r"length 98: 10\.9\.2\.[12] > 10\.9\.2\.[12]: ICMP echo", line)])


def test_first(cluster: Cluster, tmp_path: Path) -> None:
    mirror(cluster)
    wait_up(cluster)
    print(shown(cluster))
