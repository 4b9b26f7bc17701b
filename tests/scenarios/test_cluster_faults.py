"""A cluster in which agents are killed at random moments, hosts come and go, and clocks do not agree.

After each of it: what each daemon runs is what the store says, and addresses and VNIs are each one's own, none left
over. `make kill` kills more often. What is expected is worked out here, from the records as etcdctl prints them.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster, Member, member
from tests.support.ctl import ctl, invoke
from tests.support.etcd import Store
from tests.support.faketime import FAKETIME, tidy
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

A_DAY_AHEAD = ("env", f"LD_PRELOAD={FAKETIME}", "FAKETIME=+1d", "DONT_FAKE_MONOTONIC=1")


@dataclass
class Site:
    """Hosts on a switch with two networks: one for the store, one for copies. Each has a device `tap`."""

    net: Topology
    directory: Path
    switch: Host = field(init=False)
    store: Store = field(init=False)
    members: dict[str, Member] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.switch = self.net.host("switch")
        for bridge in ("control", "copies"):
            self.switch.add_bridge(bridge)
        host = self.net.host("store")
        self._plug(host, "eth0", "control", "10.0.0.254/24")
        self.store = Store(host, self.directory / "etcd", address="10.0.0.254")
        self.store.start()

    def _plug(self, host: Host, device: str, bridge: str, address: str = "") -> None:
        port = f"{host.label}-{device}"
        self.net.link(host, device, self.switch, port, (address, ""), mtu=1600)
        self.switch.ip(f"link set dev {port} master {bridge}")

    def join(self, under: tuple[str, ...] = ()) -> Member:
        number = len(self.members) + 1
        host = self.net.host(f"h{number}")
        self._plug(host, "eth0", "control", f"10.0.0.{number}/24")
        self._plug(host, "em02", "copies")
        host.ip("link add name tap type veth peer name guest")
        for device in ("tap", "guest"):
            host.ip(f"link set dev {device} up")
        directory = self.directory / host.label
        directory.mkdir()
        self.members[host.label] = member(host, directory, self.store, begin=number == 1, under=under)
        return self.members[host.label]

    @property
    def cluster(self) -> Cluster:
        return Cluster(self.store, tuple(self.members.values()))


@pytest.fixture
def site(net: Topology, tmp_path: Path) -> Iterator[Site]:
    made = Site(net, tmp_path)
    yield made
    for each in made.members.values():
        each.stop()
    tidy()


def sessions(cluster: Cluster) -> dict[str, Any]:
    """The records of the sessions of enabled mirrors, by mirror and session."""
    mirrors = {key.rpartition("/")[2]: one for key, one in cluster.keys("config/mirrors/").items()}
    return {
        "/".join(key.split("/")[-2:]): one
        for key, one in cluster.keys("config/sessions/").items()
        if mirrors[key.split("/")[-2]].get("enabled", True) and one.get("enabled", True)
    }


def wanted(cluster: Cluster, host: str) -> set[str]:
    """The names of the sessions that a host's daemon is to run."""
    found = set()
    for name, one in sessions(cluster).items():
        source, destination = one["source"]["host"], one["destination"]["host"]
        found |= {name} if source == host else set()
        found |= {f"{name}.in"} if destination == host != source else set()
    return found


def check(cluster: Cluster) -> None:
    """What runs is what the store says; nothing is taken twice or left over."""
    cluster.settle()
    try:
        for one in cluster.members:
            wait_for(lambda: runs(one) == wanted(cluster, one.host.label), f"{one.host.label} runs its part", 20)  # noqa: B023
    except AssertionError as wrong:
        raise AssertionError(f"{wrong}\n{cluster.shown()}") from wrong
    records = cluster.keys("config/sessions/")
    vnis = {"/".join(key.split("/")[-2:]): one["vni"] for key, one in records.items()}
    assert len({*vnis.values()}) == len(vnis), vnis
    held = {key: one["session"] for key, one in cluster.keys("alloc/vni/").items() if one["session"]}
    assert {owner: int(key.rpartition("/")[2]) for key, owner in held.items()} == vnis
    addresses = cluster.addresses()
    for one in cluster.members:
        used = {each["in_use"]["address"] for each in networks(one)} - {""}
        assert used <= {addresses.get(one.host.label)}, (one.host.label, used, addresses)
    ends = {"/".join(key.split("/")[-3:]) for key, one in cluster.keys("ends/").items() if one["address"]}
    far = {
        f"{one['destination']['host']}/{name}"
        for name, one in sessions(cluster).items()
        if one["destination"]["host"] != one["source"]["host"]
    }
    assert ends == far & {f"{one.host.label}/{name}" for name in vnis for one in cluster.members}


def runs(one: Member) -> set[str]:
    return {name for name, row in one.rows().items() if row["state"] == "up"}


def networks(one: Member) -> list[Any]:
    return list(json.loads(ctl(one.daemon.socket, "--json", "network", "list")))


def changed(cluster: Cluster, chance: random.Random) -> None:
    """An operator does something, at any host; what is refused, is: a session to its own source, above all."""
    at = chance.choice(cluster.members)
    source, destination = (f"type=device,device=tap,host={one.host.label}" for one in chance.sample(cluster.members, 2))
    name = f"s{chance.randrange(4)}"
    words = chance.choice(
        [
            ("session", "add", "core", name, "--source", source, "--destination", destination),
            ("session", "delete", "core", name),
            ("session", "set", "core", name, "--destination", destination),
            (chance.choice(("enable", "disable")), "core"),
        ]
    )
    invoke(at.agent.socket, "--cluster", *words)


def test_what_runs_is_what_the_store_says_after_kills_and_hosts_that_come_and_go(
    site: Site, request: pytest.FixtureRequest
) -> None:
    kills, comings = request.config.getoption("--kills") // 4, request.config.getoption("--comings") // 15
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    first = site.join()
    site.join()
    site.join(A_DAY_AHEAD)
    first.ctl("network", "create", "flow0", "--addresses", "192.168.29.10-192.168.29.60/24")
    first.ctl("create", "core", "--flow-network", "flow0", "--enable")
    a, b = (f"type=device,device=tap,host=h{number}" for number in (1, 3))
    first.ctl("session", "add", "core", "s0", "--source", a, "--destination", b)
    check(site.cluster)
    for _ in range(kills):
        changed(site.cluster, chance)
        time.sleep(chance.uniform(0, 0.3))
        hit = chance.choice(site.cluster.members)
        hit.agent.kill()
        others = [one for one in site.cluster.members if one is not hit]
        changed(Cluster(site.store, tuple(others)), chance)
        hit.agent.start()
        check(site.cluster)
    first.ctl("enable", "core")
    came = [site.join() for _ in range(comings)]
    for number, one in enumerate(came):
        end = f"type=device,device=tap,host={one.host.label}"
        one.ctl("session", "add", "core", f"to{number}", "--source", a, "--destination", end)
        first.ctl("session", "add", "core", f"from{number}", "--source", end, "--destination", b)
    check(site.cluster)
    for one in came:
        one.stop()
        del site.members[one.host.label]
        assert f"since away: {one.host.label}" in first.ctl("wait", "--timeout", "20")
        wait_for(lambda: first.ctl("forget-host", one.host.label) is not None, "it is forgotten")  # noqa: B023
    gone = {one.host.label for one in came}
    for number in range(comings):
        for word in ("to", "from"):
            first.ctl("session", "delete", "core", f"{word}{number}")
    check(site.cluster)
    assert not gone & site.cluster.addresses().keys()
    assert {one["host"] for one in first.json("hosts")} == {"h1", "h2", "h3"}
    first.ctl("apply", "-f", "/dev/null", "--prune")
    check(site.cluster)
    assert not site.cluster.keys("alloc/addr/")
