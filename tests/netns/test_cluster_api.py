"""The objects of a cluster, changed at its agents: each change is a transaction of a real etcd."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mirrord.client import AnsweredError, Client, Tagged
from mirrord.cluster.main import MAX_SCRAPERS
from mirrord.crowds import MAX_CONNECTIONS
from tests.support.agent import METRICS, Agent
from tests.support.crowds import crowd, opened
from tests.support.ctl import ctl, invoke
from tests.support.etcd import Store
from tests.support.topology import Topology
from tests.support.wait import wait_for

VM = "type=vm,vm=VM-2,nic=0"
TO_VM = "type=vm,vm=VM-1,nic=1"


class Pair:
    """A store and two agents, on one host for what this is about; no daemon is there."""

    def __init__(self, store: Store, agents: list[Agent]) -> None:
        self.store, (self.a, self.b) = store, agents

    def ctl(self, *words: str, status: int = 0, at: Agent | None = None) -> str:
        return ctl((at or self.a).socket, "--cluster", *words, status=status)

    def json(self, *words: str, at: Agent | None = None) -> Any:
        return json.loads(self.ctl("--json", *words, at=at))

    def keys(self, below: str) -> dict[str, str]:
        lines = self.store.ctl("get", "--prefix", f"/mirrord/{below}").splitlines()
        return dict(zip(lines[::2], lines[1::2], strict=True))

    def vnis(self) -> dict[str, str]:
        return {key.rpartition("/")[2]: json.loads(one)["session"] for key, one in self.keys("alloc/vni/").items()}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Topology() as net:
        host = net.host("hosts")
        store = Store(host, tmp_path_factory.mktemp("etcd"))
        store.start()
        agents: list[Agent] = []
        for name in ("a", "b"):
            directory = tmp_path_factory.mktemp(name)
            agent = Agent(
                host,
                directory,
                directory / "none.sock",
                endpoints=[store.url],
                metrics="" if agents else "127.0.0.1:9819",
                devices={"flow0": "em02"},
            )
            text = agent.file.read_text()
            agent.file.write_text(text.replace(f'host = "{host.label}"', f'host = "{name}"'))
            agents.append(agent)
        assert "was made" in agents[0].command("init")
        assert "nothing was changed" in agents[1].command("init")
        for agent in agents:
            agent.start()
            wait_for(lambda: connected(agent), "the agent follows the store", 10)  # noqa: B023 (called here)
        yield Pair(store, agents)
        for agent in agents:
            assert agent.running(), agent.output()
            assert "Traceback" not in agent.output()
        for agent in agents:
            assert agent.stop() == 0, agent.output()


def connected(agent: Agent) -> bool:
    return bool(json.loads(ctl(agent.socket, "--cluster", "--json", "status"))["cluster"]["connected"])


@pytest.fixture(autouse=True)
def empty(pair: Pair) -> Iterator[None]:
    yield
    pair.ctl("apply", "-f", "/dev/null", "--prune")


def test_who_hangs_on_takes_no_descriptors_and_keeps_nobody_out(pair: Pair) -> None:
    pid, host = pair.a.pid, pair.a.host
    before = opened(pid)
    with crowd(host, pair.a.socket), crowd(host, METRICS):
        assert pair.json("list") == []
        assert "mirrord_cluster_info" in pair.a.scrape()
        most = MAX_CONNECTIONS + MAX_SCRAPERS  # and what it says to the store
        wait_for(lambda: most - 2 <= opened(pid) - before <= most + 2, "the oldest alone are closed")
    wait_for(lambda: opened(pid) <= before + 2, "all are gone")


def test_every_operation_of_document_004_is_the_clusters(pair: Pair) -> None:
    pair.ctl("network", "create", "flow0", "--addresses", "192.0.2.10-192.0.2.20/24", "--vnis", "5000-5009")
    pair.ctl("create", "core", "--flow-network", "flow0", "--description", "core business on VM-2")
    pair.ctl("session", "add", "core", "nic", "--source", VM, "--destination", TO_VM, "--direction", "both")
    pair.ctl("enable", "core")
    for at in (pair.a, pair.b):
        wait_for(lambda: pair.json("list", at=at), "the other agent knows of it")  # noqa: B023 (called here)
        shown = pair.json("show", "core", at=at)
        assert (shown["enabled"], shown["description"], shown["origin"]["cluster"]) == (
            True,
            "core business on VM-2",
            True,
        )
        assert shown["sessions"][0]["destination"]["vm"] == "VM-1"
        assert 5000 <= shown["sessions"][0]["vni"] <= 5009
    vni = str(shown["sessions"][0]["vni"])
    assert pair.vnis() == {vni: "core/nic"}
    pair.ctl("set", "core", "--name", "kernel")
    pair.ctl("session", "set", "kernel", "nic", "--snaplen", "128")
    assert pair.vnis() == {vni: "kernel/nic"}, "it keeps its VNI under another name"
    pair.ctl("filter", "create", "web", "--rule", "priority=1,action=accept,protocol=tcp,destination_ports=80")
    pair.ctl("session", "set", "kernel", "nic", "--filter", "web")
    assert "is used at mirrors.kernel.sessions[nic].filter" in pair.ctl("filter", "delete", "web", status=1)
    assert "is used at" in pair.ctl("network", "delete", "flow0", status=1)
    pair.ctl("disable", "kernel")
    pair.ctl("session", "delete", "kernel", "nic")
    assert pair.vnis() == {vni: ""}, "held for a minute"
    pair.ctl("delete", "kernel")
    pair.ctl("filter", "delete", "web")
    pair.ctl("network", "delete", "flow0")
    assert not pair.vnis()
    assert set(pair.keys("config/")) == {"/mirrord/config/cluster", "/mirrord/config/guard"}
    rows = pair.json("audit", at=pair.b)
    told = [row for row in rows if row["operation"] != "apply"]  # by which the tests before were made to leave nothing
    done = [(row["operation"], row["kind"], row["object"]) for row in told if row["result"] == "done"]
    assert done[:2] == [("create", "flow_network", "flow0"), ("create", "mirror", "core")]
    assert done[2:4] == [("create", "session", "nic"), ("enable", "mirror", "core")]
    assert {(row["user"], row["host"]) for row in rows} == {("root", "a")}
    refused = [(row["code"], row["operation"]) for row in rows if row["result"] == "refused"]
    assert refused == [("in_use", "delete"), ("in_use", "delete")]
    assert "root@a" in pair.ctl("audit")


def test_what_must_not_run_is_refused_with_its_reason(pair: Pair) -> None:
    pair.ctl("network", "create", "flow0", "--addresses", "192.0.2.10-192.0.2.20/24", "--vnis", "7-7")
    pair.ctl("create", "core", "--flow-network", "flow0")

    def refused(*words: str, status: int = 1) -> str:
        return pair.ctl(*words, status=status)

    def add(source: str, destination: str, *more: str) -> str:
        return refused("session", "add", "core", "x", "--source", source, "--destination", destination, *more)

    assert "there is no flow network 'flow1'; did you mean 'flow0'?" in refused(
        "create", "m", "--flow-network", "flow1"
    )
    assert "already used at mirrors.core" in refused("create", "m", "--flow-network", "flow0")
    assert "first NIC of 'VM-1'" in add(VM, "type=vm,vm=VM-1,nic=0")
    assert "is also the source" in add("type=vm,vm=VM-1,nic=1", TO_VM)
    assert "there is no filter 'web'" in add(VM, TO_VM, "--filter", "web")
    assert "leave `host` out" in add("type=vm,vm=VM-2,host=a", TO_VM)
    assert "--device: in a cluster" in refused(
        "network", "create", "f", "--device", "em0", "--addresses", "192.0.2.1/24", status=2
    )
    pair.ctl("session", "add", "core", "x", "--source", VM, "--destination", TO_VM)
    assert "widen the flow network's `vnis`" in refused(
        "session", "add", "core", "y", "--source", VM, "--destination", TO_VM
    )
    assert (
        "flow_networks.flow0.vnis: 8-9 leaves out the VNIs of sessions core/x (7): delete these first, or leave 7"
        in (refused("network", "set", "flow0", "--vnis", "8-9"))
    )
    pair.ctl("network", "set", "flow0", "--vnis", "6-8")
    pair.ctl("session", "add", "core", "y", "--source", VM, "--destination", TO_VM)
    assert "core/y (6), core/x (7): delete these first, or leave 6 to 7 in the range" in refused(
        "network", "set", "flow0", "--vnis", "8-9", "--dry-run"
    )
    pair.ctl("session", "delete", "core", "y")
    pair.ctl("network", "set", "flow0", "--vnis", "7-9")
    assert "no such mirror: cora; did you mean 'core'?" in refused("show", "cora")
    assert "exists already" in refused("create", "core")
    warned = invoke(
        pair.a.socket,
        "--cluster",
        "create",
        "alone",
        "--session",
        "name=x,source.type=vm,source.vm=VM-2,destination.type=vm,destination.vm=VM-1,destination.nic=1",
    )
    assert "has no flow network: it runs only while both ends are on one host" in warned.output
    before = pair.keys("config/")
    pair.ctl("session", "set", "core", "x", "--snaplen", "64", "--dry-run")
    assert pair.keys("config/") == before


def test_of_two_operators_one_wins_and_the_other_is_told(pair: Pair) -> None:
    pair.ctl("filter", "create", "web", "--rule", "priority=1,action=accept,protocol=tcp")
    wait_for(lambda: pair.json("filter", "list", at=pair.b), "both know it")
    clients = [Client(str(agent.socket)) for agent in (pair.a, pair.b)]
    read: list[Tagged] = [client.filter("web") for client in clients]
    assert read[0].tag == read[1].tag

    def change(number: int) -> str:
        try:
            clients[number].change_filter("web", {"description": f"by {number}"}, read[number].tag)
        except AnsweredError as error:
            return error.code
        return "done"

    with ThreadPoolExecutor(2) as both:
        assert sorted(both.map(change, (0, 1))) == ["done", "stale"]

    def create(number: int) -> str:
        with suppress(AnsweredError):
            clients[number % 2].create_mirror(f"m{number // 2}", {"enabled": False})
            return "done"
        return "exists"

    with ThreadPoolExecutor(8) as many:
        told = list(many.map(create, range(16)))
    assert sorted(told) == ["done"] * 8 + ["exists"] * 8
    names = [f"m{number}" for number in range(8)]
    for agent in (pair.a, pair.b):
        wait_for(lambda: sorted(one["name"] for one in pair.json("list", at=agent)) == names, "all eight")  # noqa: B023


def test_sessions_made_at_once_at_two_agents_have_vnis_of_their_own(pair: Pair) -> None:
    pair.ctl("network", "create", "flow0", "--addresses", "192.0.2.10-192.0.2.20/24")
    pair.ctl("create", "core", "--flow-network", "flow0")
    clients = [Client(str(agent.socket)) for agent in (pair.a, pair.b)]

    def add(number: int) -> int:
        ends = {
            "source": {"type": "vm", "vm": f"s{number}"},
            "destination": {"type": "vm", "vm": f"d{number}", "nic": 1},
        }
        return int(clients[number % 2].add_session("core", {"name": f"s{number}", **ends})["vni"])

    with ThreadPoolExecutor(6) as many:
        vnis = list(many.map(add, range(12)))
    assert len(set(vnis)) == 12
    assert pair.vnis() == {str(vni): f"core/s{number}" for number, vni in enumerate(vnis)}


def test_a_file_of_objects_is_applied_whole_and_changes_only_what_differs(pair: Pair, tmp_path: Path) -> None:
    file = tmp_path / "objects.toml"
    file.write_text("""
[flow_networks.flow0]
addresses = "192.0.2.10-192.0.2.20/24"
[mirrors.core]
flow_network = "flow0"
[[mirrors.core.sessions]]
name = "nic"
source = { type = "device", device = "tap2", host = "a" }
destination = { type = "device", device = "tap1", host = "b" }
""")
    assert "create" in pair.ctl("apply", "-f", str(file))
    vnis = pair.vnis()
    assert list(vnis.values()) == ["core/nic"]
    again = pair.json("apply", "-f", str(file))
    assert {one["operation"] for one in again["objects"]} == {"same"}
    assert pair.vnis() == vnis
    exported = tmp_path / "exported.toml"
    exported.write_text(pair.ctl("export"))
    again = pair.json("apply", "-f", str(exported), "--prune")
    assert {one["operation"] for one in again["objects"]} == {"same"}
    shown = pair.json("show", "core")["sessions"][0]
    assert (shown["source"]["host"], shown["destination"]["host"]) == ("a", "b")
    file.write_text(file.read_text().replace('"flow0"', '"flow9"'))
    assert "there is no flow network 'flow9'" in pair.ctl("apply", "-f", str(file), status=1)


def test_a_host_that_is_gone_can_be_forgotten(pair: Pair) -> None:
    for address in ("192.0.2.11", "192.0.2.12"):
        pair.store.ctl("put", f"/mirrord/alloc/addr/flow0/{address}", '{"version":1,"host":"old"}')
    pair.store.ctl("put", "/mirrord/ends/old/core/nic", '{"version":1,"address":"192.0.2.11"}')
    assert "no such host: odd" in pair.ctl("forget-host", "odd", status=1)
    pair.ctl("forget-host", "old")
    assert not pair.keys("alloc/addr/")
    assert not pair.keys("ends/")


def test_an_address_is_of_the_range_and_the_hosts_alone(pair: Pair) -> None:
    def taken(addresses: set[str]) -> bool:
        found = {key.rpartition("/")[2]: json.loads(one)["host"] for key, one in pair.keys("alloc/addr/").items()}
        shown = [" ".join(one["addresses"].values()) for one in pair.json("hosts") if one["host"] in ("a", "b")]
        return found.keys() == addresses and sorted(found.values()) == ["a", "b"] and {*shown} == addresses

    pair.ctl("network", "create", "flow0", "--addresses", "192.0.2.10-192.0.2.11/24")
    pair.ctl("create", "core", "--flow-network", "flow0", "--enable")
    a, b = (f"type=device,device=tap,host={name}" for name in ("a", "b"))
    for name, source, destination in (("to", a, b), ("from", b, a)):
        added = invoke(pair.a.socket, "--cluster", "session", "add", "core", name, "--source", source, "--destination",
                      destination)  # fmt: skip
        assert "warning" not in added.output
    odd = invoke(pair.a.socket, "--cluster", "session", "set", "core", "to", "--source", f"{a}x", "--dry-run")
    assert "sessions[to].source.host: no host 'ax' lives in the cluster now; did you mean 'a'?" in odd.output
    wait_for(lambda: taken({"192.0.2.10", "192.0.2.11"}), "each host has one")
    moved = invoke(pair.a.socket, "--cluster", "network", "set", "flow0", "--addresses", "192.0.2.20-192.0.2.21/24")
    assert (
        "warning: flow_networks.flow0.addresses: a, b have addresses outside of 192.0.2.20-192.0.2.21/24"
        in moved.output
    )
    wait_for(lambda: taken({"192.0.2.20", "192.0.2.21"}), "each has one of the new range, and none of the old one")
    pair.ctl("network", "set", "flow0", "--addresses", "192.0.2.30/24")

    def told() -> bool:
        return "all addresses 192.0.2.30/24 of flow network 'flow0' are taken" in pair.ctl("status")

    wait_for(told, "the range is too small")
    pair.ctl("network", "set", "flow0", "--addresses", "192.0.2.20-192.0.2.21/24")
    wait_for(lambda: taken({"192.0.2.20", "192.0.2.21"}), "each has one again")
    for address, owner in (("192.0.2.20", "other"), ("192.0.2.21", "other")):  # as after forget-host, or a backup
        pair.store.ctl("put", f"/mirrord/alloc/addr/flow0/{address}", json.dumps({"version": 1, "host": owner}))
    pair.store.kill()
    pair.store.start()
    pair.ctl("network", "set", "flow0", "--addresses", "192.0.2.20-192.0.2.23/24")
    wait_for(lambda: len(pair.keys("alloc/addr/")) == 4, "each has another", 20)
    pair.ctl("forget-host", "other")
    wait_for(lambda: taken({"192.0.2.22", "192.0.2.23"}), "those of the other are free")
    with_device = pair.b.file.read_text()
    pair.b.file.write_text(with_device.replace("flow0 =", "other ="))
    for text in (with_device, ""):
        assert pair.b.stop() == 0
        pair.b.start()
        wait_for(lambda: len(pair.keys("alloc/addr/")) == (1 if text else 2), "as its devices say")  # noqa: B023
        pair.b.file.write_text(text or with_device)


def test_neither_broken_http_nor_a_wrong_signal_ends_it_or_fills_its_log(pair: Pair) -> None:
    head = "PUT /v1/mirrors/m HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    for text in (
        "BREW /v1/status HTTP/1.1\r\n\r\n",
        f"GET /{'x' * 10_000} HTTP/1.1\r\n\r\n",
        f"{head}Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{{}}",
        f"{head}Transfer-Encoding: chunked\r\n\r\n{{}}\r\n\r\n",
    ):
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(10)
            one.connect(str(pair.a.socket))
            one.sendall(text.encode())
            assert b" 400 " in one.recv(100), text
    os.kill(pair.a.pid, signal.SIGHUP)
    wait_for(lambda: "restart the agent" in pair.a.output(), "it is told what to do")
    client = Client(str(pair.a.socket))
    client.create_mirror("core", {})
    for wrong in (None, 5, ["x"], "a/b"):
        with pytest.raises(AnsweredError, match="expected a name"):
            client.change_mirror("core", {"name": wrong})


def test_where_no_agent_answers_it_is_told_what_to_do(tmp_path: Path) -> None:
    told = ctl(tmp_path / "none.sock", "--cluster", "hosts", status=3)
    assert "systemctl status mirrord-agent" in told
    assert "mirrorctl --cluster hosts" in ctl(tmp_path / "none.sock", "hosts", status=2)
    assert "without --cluster" in ctl(tmp_path / "none.sock", "--cluster", "doctor", status=2)


def test_a_store_that_hangs_is_told_and_nothing_is_forgotten(pair: Pair) -> None:
    pair.ctl("create", "core")
    pair.store.freeze()
    try:
        assert "no answer in time" in pair.ctl("create", "more", status=1)
        wait_for(lambda: not pair.a.metrics().total("mirrord_cluster_connected"), "it is told", 40)
        assert [one["name"] for one in pair.json("list")] == ["core"]
    finally:
        pair.store.thaw()
    for agent in (pair.a, pair.b):
        wait_for(lambda: connected(agent), "the agent follows the store again", 40)  # noqa: B023 (called here)
    pair.ctl("create", "another")
    for at in (pair.a, pair.b):  # of "more" nobody was told whether it was made

        def names(at: Agent = at) -> set[str]:
            return {one["name"] for one in pair.json("list", at=at)} - {"more"}

        wait_for(lambda: names() == {"core", "another"}, "both know")


WRONG = {
    **{f"config/filters/wrong{number}": text for number, text in enumerate((
        "no JSON", "[" * 50_000, '{"version":2,"rules":[]}', '{"version":1,"rules":[],"newer":1}', "[1]",
        '{"version":1,"description":"\\ud800"}', '{"version":1,"version":1}', '{"version":1,"description":NaN}',
    ))},
    "config/filters/a name": '{"version":1,"rules":[{"priority":1,"action":"accept"}]}',
    "config/filters/": '{"version":1,"rules":[{"priority":1,"action":"accept"}]}',
    "config/mirrors/x/y": '{"version":1}',
    "config/mirrors/wrong": '{"version":1,"description":5}',
    "config/mirrors/second": '{"version":1,"flow_network":"flow0"}',
    "config/mirrors/without": '{"version":1,"flow_network":"nowhere"}',
    "config/flow_networks/wrong": '{"version":1,"addresses":"192.0.2.10-192.0.2.20/24","vnis":[1,2]}',
    "config/flow_networks/over": '{"version":1,"addresses":"192.0.2.15-192.0.2.30/24"}',
    "config/sessions/none/nic": '{"version":1,"source":"tap0","destination":{"type":"device","device":"tap1"}}',
    "config/sessions/core/newer": '{"version":1,"newer":1,"vni":5001,"source":"tap0","destination":{"type":"vm"}}',
    "config/sessions/core/named": '{"version":1,"name":"nic","source":"tap0","destination":{"type":"vm"}}',
    "config/sessions/core/same": json.dumps({
        "version": 1, "vni": 5000, "filter": "none", "source": {"type": "vm", "vm": "VM-3", "nic": 0},
        "destination": {"type": "vm", "vm": "VM-1", "nic": 1},
    }),
    "ends/b/core/nic": '{"version":1,"address":"no address"}', "ends/x": "x",
    "hosts/q": "no JSON", "hosts/r": '{"version":1,"since":"today","devices":5,"mirrord":{}}',
    "status/s": '{"version":1,"revision":"x","sessions":5,"unread":7,"left_out":"y","problem":{}}',
    "status/t": '{"version":1,"revision":1e400}',
    "status/u": '{"version":1,"unread":[5],"sessions":[5,{},{"mirror":1}]}',
    "alloc/addr/flow0/x": '{"version":1,"host":5}', "alloc/vni/flow0/x": "x",
    "audit/x": "x", "audit/00000000000000000001-x": '{"version":1}',
}  # fmt: skip


def test_records_that_are_wrong_hold_up_nobody(pair: Pair) -> None:
    """Written by hand, by a newer agent, or by a host that means harm."""
    pair.ctl("network", "create", "flow0", "--addresses", "192.0.2.10-192.0.2.20/24", "--vnis", "5000-5001")
    pair.ctl("create", "core", "--flow-network", "flow0")
    pair.ctl("session", "add", "core", "nic", "--source", VM, "--destination", TO_VM)
    for key, text in WRONG.items():
        pair.store.host.run("env", "ETCDCTL_API=3", "etcdctl", "put", f"/mirrord/{key}", stdin=text)
    newer = pair.keys("config/sessions/core/newer")
    for at in (pair.a, pair.b):
        wait_for(lambda: len(pair.json("status", at=at)["unread"]) > 14, "all are read", 10)  # noqa: B023 (called here)
        for words in (("status",), ("hosts",), ("list",), ("filter", "list"), ("network", "list"), ("show", "core")):
            pair.ctl(*words, at=at)
        pair.ctl("filter", "show", "wrong0", at=at)
        assert [row["object"] for row in pair.json("audit", at=at)][-1] == "nic"
    exported = pair.ctl("export")
    assert "wrong" not in exported
    assert "newer" not in exported
    pair.ctl("create", "other")
    pair.ctl("session", "add", "other", "nic", "--source", VM, "--destination", TO_VM)
    pair.ctl("disable", "core")
    pair.ctl("enable", "core")
    assert pair.keys("config/sessions/core/newer") == newer, "what a newer agent wrote stays as it is"
    assert "exists" in pair.ctl("create", "second", "--flow-network", "flow0", status=1)
    pair.ctl("delete", "second")
    assert "already used at mirrors.core" in pair.ctl("create", "second", "--flow-network", "flow0", status=1)
    pair.ctl("network", "set", "flow0", "--vnis", "5000-5009")
    assert "newer" in pair.ctl("set", "core", "--name", "renamed", status=1), "the new name would lose what it says"
    for name in ("newer", "named", "same"):
        pair.ctl("session", "delete", "core", name)
    for key in WRONG:
        pair.store.ctl("del", f"/mirrord/{key}")


def test_addresses_of_two_flow_networks_differ(pair: Pair) -> None:
    """Each gives out its own: two hosts could have the same."""
    pair.ctl("network", "create", "flow0", "--addresses", "192.0.2.10-192.0.2.20/24")
    again = ("--addresses", "192.0.2.20-192.0.2.30/24")
    assert "has addresses of flow network 'flow0'" in pair.ctl("network", "create", "flow1", *again, status=1)
    pair.ctl("network", "create", "flow1", "--addresses", "192.0.2.21-192.0.2.30/24")
    assert "has addresses of" in pair.ctl("network", "set", "flow0", *again, status=1)
    pair.ctl("network", "create", "flow2", "--addresses", "2001:db8::15-2001:db8::30/64")
