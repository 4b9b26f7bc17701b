"""Documents 000 and 004 in a cluster: a flow network, a mirror from VM-2's NIC to VM-1's, which are on two hosts.

Each host has its own daemon and agent; etcd is on a third one. A veth pair stands for a VM's NIC.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.browser import Browser
from tests.support.cluster import Cluster, member
from tests.support.console import Console
from tests.support.ctl import ctl
from tests.support.daemon import ROOT
from tests.support.etcd import Store
from tests.support.prometheus import Prometheus, filled
from tests.support.sniffer import Sniffer
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

FLOW = "192.168.29.10-192.168.29.20/24"


OWN = """
[[mirrors.core.sessions]]
name = "own"
source = "tap1"
destination = { type = "vxlan", remote = "10.0.0.3", vni = 7 }
"""
VM_2 = "type=device,device=tap2,host=a,perspective=guest"
VM_1 = "type=device,device=tap1,host=b"


@dataclass(frozen=True)
class Pair(Cluster):
    """Two hosts with a VM each, whose NIC's end there is tap2 and tap1."""

    vms: tuple[Host, ...]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two hosts with their VMs, and the store."""
    with Topology() as net:
        hosts = {name: net.host(name) for name in ("a", "b", "store")}
        net.lan({hosts["a"]: "10.0.0.1/24", hosts["b"]: "10.0.0.2/24", hosts["store"]: "10.0.0.3/24"})
        net.link(hosts["a"], "em02", hosts["b"], "em02", mtu=1600)
        quota = "--listen-peer-urls", "http://10.0.0.3:2380", "--quota-backend-bytes", "4000000"
        store = Store(hosts["store"], tmp_path_factory.mktemp("etcd"), *quota, address="10.0.0.3")
        store.start()
        members, vms = [], []
        for name, tap in (("a", "tap2"), ("b", "tap1")):
            addresses = f"10.9.{tap[-1]}.1/24", f"10.9.{tap[-1]}.2/24"
            vms.append(net.host(f"vm-{name}"))
            net.link(hosts[name], tap, vms[-1], "eth0", addresses)
            members.append(member(hosts[name], tmp_path_factory.mktemp(name), store, begin=name == "a"))
        yield Pair(store, tuple(members), tuple(vms))
        for each in members:
            each.stop()


@pytest.fixture
def cluster(made: Pair) -> Iterator[Pair]:
    """The same, without any object; at the end nothing is left of the test's, in the store or on a host."""
    wait_for(lambda: [one["alive"] for one in made.a.json("hosts")] == [True, True], "both are there", 40)
    yield made
    made.a.ctl("apply", "-f", "/dev/null", "--prune")
    made.settle()
    for below in ("alloc/addr/", "ends/"):
        wait_for(lambda: not made.keys(below), f"nothing is left below {below}", 10)  # noqa: B023 (called here)
    assert not {name for each in made.members for name in each.sessions()}
    assert not {one["session"] for one in made.keys("alloc/vni/").values()} - {""}


def mirror(cluster: Pair, name: str = "core") -> None:
    cluster.a.ctl("network", "create", "flow0", "--addresses", FLOW)
    cluster.a.ctl("create", name, "--flow-network", "flow0", "--description", "core business on VM-2", "--enable")
    cluster.a.ctl("session", "add", name, "nic", "--source", VM_2, "--destination", VM_1, "--direction", "both")


def up(cluster: Pair) -> bool:
    found = [one for each in cluster.members for name, one in each.sessions().items() if name.startswith("core")]
    return [one[1] for one in found] == ["up", "up"]


def wait_up(cluster: Pair) -> None:
    try:
        wait_for(lambda: up(cluster), "both halves are up", 20)
    except AssertionError as late:
        raise AssertionError(f"{late}\n{cluster.shown()}") from late


def pinged(cluster: Pair, tmp_path: Path, count: int = 5) -> list[str]:
    """What is seen at VM-1's NIC of so many pings of VM-2's."""
    sniffer = Sniffer(cluster.vms[1], "eth0", "icmp", tmp_path / "vm1.pcap")
    cluster.vms[0].run("ping", "-c", str(count), "-i", "0.05", "-q", "10.9.2.1")
    wait_for(lambda: at_rest(cluster), "every frame is accounted for")
    return sniffer.stop().lines()


def at_rest(cluster: Pair) -> bool:
    """Whether each frame that a host's sessions captured is mirrored, skipped or dropped."""
    pages = [each.daemon.metrics() for each in cluster.members]
    return all(page.unaccounted() == 0 for page in pages if page.select("mirrord_captured_frames_total"))


def test_vm_2s_nic_is_seen_at_vm_1s_on_another_host_and_every_operation_shows_in_traffic(
    cluster: Pair, tmp_path: Path
) -> None:
    mirror(cluster)
    wait_up(cluster)
    lines = pinged(cluster, tmp_path)
    assert len(lines) == 10, "\n".join(lines) + cluster.shown()
    assert all("ethertype IPv4 (0x0800), length 98: " in line for line in lines)
    assert [" echo request," in line for line in lines] == [True, False] * 5
    assert cluster.addresses().keys() == {"a", "b"}
    (vni,) = cluster.keys("alloc/vni/flow0/")
    told = cluster.b.ctl("capture", "nic", status=2)
    assert "on a, mirrorctl capture core/nic or on b, mirrorctl capture core/nic.in" in told
    sent = cluster.a.json("show", "core")["sessions"][0]
    assert vni.endswith(f"/{sent['vni']}")

    cluster.a.ctl("set", "core", "--name", "kernel")
    cluster.settle()
    assert {*cluster.a.sessions(), *cluster.b.sessions()} == {"kernel/nic", "kernel/nic.in"}
    cluster.b.ctl("session", "set", "kernel", "nic", "--direction", "egress")
    cluster.settle()
    wait_for(lambda: all(one[1] == "up" for each in cluster.members for one in each.sessions().values()), "up")
    assert [" echo request," in line for line in pinged(cluster, tmp_path)] == [True] * 5
    cluster.b.ctl("disable", "kernel")
    cluster.settle()
    assert not pinged(cluster, tmp_path)
    assert not cluster.a.sessions()
    cluster.a.ctl("enable", "kernel")
    cluster.settle()
    wait_for(lambda: all(one[1] == "up" for each in cluster.members for one in each.sessions().values()), "up", 20)
    assert len(pinged(cluster, tmp_path)) == 5
    cluster.a.ctl("delete", "kernel")
    cluster.settle()
    assert not pinged(cluster, tmp_path)
    cluster.a.ctl("network", "delete", "flow0")


def test_what_the_cluster_has_is_read_only_at_the_daemon_and_gives_way_to_a_file(cluster: Pair) -> None:
    mirror(cluster)
    wait_up(cluster)
    there = json.loads(ctl(cluster.b.daemon.socket, "--json", "show", "core"))
    assert there["origin"] == {"cluster": True}
    told = ctl(cluster.b.daemon.socket, "delete", "core", status=1)
    assert "is defined in the cluster: change it with mirrorctl --cluster" in told
    before = cluster.b.daemon.file.read_text()
    cluster.b.daemon.file.write_text(f"{before}\n{OWN}")
    ctl(cluster.b.daemon.socket, "reload")
    assert set(cluster.b.sessions()) == {"core/own"}
    wait_for(lambda: "refused" in states(cluster), "it is told", 10)
    assert "this host has another one of that name" in cluster.a.ctl("status")
    cluster.b.daemon.file.write_text(before)
    ctl(cluster.b.daemon.socket, "reload")
    wait_up(cluster)
    wait_for(lambda: states(cluster) == ["up", "up"], "it is told", 10)


@pytest.mark.timeout(400)  # a browser on a busy machine
def test_documents_000_and_004_in_the_console_of_the_whole_cluster(
    cluster: Pair, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A flow network, a mirror, a session from one host's device to another's; what a host's own console has of it."""
    console = Console(cluster.a.host, cluster.a.agent.socket, "--listen", "127.0.0.1:0", cluster=True)
    own = Console(cluster.a.host, cluster.a.daemon.socket, "--listen", "127.0.0.1:0")
    with Browser(cluster.a.host, tmp_path) as browser:
        browser.open(console.address)
        browser.click("nav a", "Hosts")
        browser.wait(lambda: browser.text("main tbody").count("up to date") == 2, "both hosts")
        assert not browser.barriers()
        if pictures := request.config.getoption("--pictures"):
            browser.screenshot(pictures / "hosts.png")
        menu = browser.text("nav ul").split("\n")
        assert menu == ["Overview", "Hosts", "Port mirroring", "Flow networks", "Filters", "Audit"]
        browser.click("nav a", "Flow networks")
        browser.click("main button", "Create flow network")
        fields = {"Name": "flow0", "Start IP": "192.168.29.10", "End IP": "192.168.29.20", "VNI": "6000-6999"}
        for label, text in fields.items():
            browser.field(label).write(text)
        browser.click("dialog button", "OK")
        browser.wait_text("flow0 was created")
        browser.click("nav a", "Port mirroring")
        browser.click("main button", "Create port mirroring")
        browser.field("Name").write("core")
        browser.choose("Flow network", "flow0 (192.168.29.10-192.168.29.20/24)")
        browser.click("dialog button", "OK")
        add_session(browser)
        browser.wait_text("complete", "main table", seconds=60)
        wait_up(cluster)
        assert len(pinged(cluster, tmp_path)) == 10
        cluster.b.ctl("set", "core", "--description", "theirs")
        browser.wait_text("theirs", "main .head")
        assert [row["user"] for row in cluster.a.json("audit")][-3:] == ["root"] * 3
        browser.open(own.address)
        browser.click("nav a", "Port mirroring")
        browser.wait_text("of the cluster", "main tbody")
        assert not browser.run("return [...document.querySelectorAll('td button')].length")  # it is changed there alone
        browser.open(f"{console.url}#/mirrors/core")  # the window has its key still
        browser.click("main .head button", "Disable")
        browser.click("dialog button", "Disable")
        browser.wait_text("core was disabled")
        cluster.settle()
        assert not pinged(cluster, tmp_path)
    for one in (console, own):
        assert one.stop() == 0


def add_session(browser: Browser) -> None:
    """Between devices of two hosts; a VM's first NIC would be refused, beside its field."""
    browser.find("dialog h2", "Add session")
    browser.field("Name").write("nic")
    browser.field("Host", within="Source port").write("a")
    browser.field("Device", within="Source port").write("tap2")
    browser.choose("Seen by", "guest", within="Source port")
    browser.choose("Kind", "VM instance", within="Destination port")
    browser.field("VM instance", within="Destination port").write("VM-1")
    browser.field("NIC", within="Destination port").write("0")
    browser.wait_text("is the first NIC of 'VM-1'", ".field.wrong")
    browser.choose("Kind", "Device", within="Destination port")
    browser.field("Host", within="Destination port").write("b")
    browser.field("Device", within="Destination port").write("tap1")
    browser.click("dialog button", "OK")
    browser.wait_text("nic was added")


def states(cluster: Pair) -> list[str]:
    return [one["state"] for one in cluster.a.json("status")["sessions"]]


def test_an_object_that_a_host_cannot_take_is_left_out_and_told_and_freezes_nobody(cluster: Pair) -> None:
    mirror(cluster)
    cluster.store.ctl("put", "/mirrord/config/filters/newer", '{"version":9,"rules":[]}')
    end = "type=device,device=tap2,host=a"
    told = cluster.a.ctl("session", "add", "core", "loop", "--source", end, "--destination", end, status=1)
    assert "'tap2' is also the source" in told
    cluster.a.ctl("session", "add", "core", "file", "--source", end, "--destination", "type=file,path=/etc/x")
    wait_for(lambda: sorted(states(cluster)) == ["refused", "up", "up"], "two are up, one is told", 20)
    told = cluster.a.ctl("status")
    assert "expected a file in one of capture_directories" in told
    assert "filters.newer.version: the record has version 9" in told
    cluster.store.ctl("del", "/mirrord/config/filters/newer")


def test_an_address_that_something_else_has_is_given_up_for_another(cluster: Pair, tmp_path: Path) -> None:
    cluster.store.ctl("put", "/mirrord/alloc/addr/flow0/192.168.29.10", '{"version":1,"host":"a"}')  # from before
    cluster.b.host.ip("address add 192.168.29.10/32 dev em02")
    mirror(cluster)
    wait_up(cluster)
    assert len(pinged(cluster, tmp_path)) == 10
    taken = cluster.addresses()
    assert taken["conflict"] == "192.168.29.10"
    assert taken["a"] not in (taken["b"], "192.168.29.10")
    (told,) = [one for one in cluster.a.json("hosts") if one["host"] == "conflict"]
    assert "something else on the link" in told["problem"]
    cluster.b.host.ip("address delete 192.168.29.10/32 dev em02")
    cluster.a.ctl("forget-host", "conflict")
    assert cluster.addresses().keys() == {"a", "b"}


def test_without_the_store_all_runs_on_and_restarts(cluster: Pair, tmp_path: Path) -> None:
    mirror(cluster)
    wait_up(cluster)
    wait_for(lambda: cluster.b.agent.kept() and cluster.b.agent.kept()["ends"], "kept")
    cluster.store.kill()
    wait_for(lambda: cluster.a.agent.metrics().total("mirrord_cluster_connected") == 0, "it is told", 30)
    assert len(pinged(cluster, tmp_path)) == 10
    assert "10.0.0.3:2379" in cluster.a.ctl("disable", "core", status=1)
    assert "not connected for" in cluster.a.ctl("status")
    before = [each.daemon.metrics().total("mirrord_mirrored_frames_total") for each in cluster.members]
    for each in cluster.members:
        each.agent.kill()
        each.agent.start()
    for each in cluster.members:
        wait_for(lambda: "the daemon runs this host's part" in each.agent.output(), "told again")  # noqa: B023
    assert len(pinged(cluster, tmp_path)) == 10
    after = [each.daemon.metrics().total("mirrord_mirrored_frames_total") for each in cluster.members]
    counted = [now - then for now, then in zip(after, before, strict=True)]
    assert all(one >= 10 for one in counted), "what ran was not touched"  # ARP may be asked again in between
    cluster.store.start()
    wait_for(lambda: all(one.agent.metrics().total("mirrord_cluster_connected") for one in cluster.members), "back", 30)
    cluster.settle()
    assert len(pinged(cluster, tmp_path)) == 10


def test_on_a_full_store_all_runs_on_is_told_what_to_do_and_converges_when_it_has_room(
    cluster: Pair, tmp_path: Path
) -> None:
    mirror(cluster)
    wait_up(cluster)
    for each in cluster.members:
        wait_for(lambda: (kept := each.agent.kept()) and kept["addresses"] and kept["ends"], "it is kept")  # noqa: B023
    cluster.store.fill()
    for each in cluster.members:  # what is to be known of a host is written anew
        each.agent.kill()
        each.agent.start()
        what = "what this host writes to the store: the store is full"
        wait_for(lambda: what in each.ctl("status"), "it is told", 20)  # noqa: B023
        assert "the store has the alarm NOSPACE" in each.ctl("status")
        assert each.agent.metrics().total("mirrord_cluster_own_written") == 0
        told = each.ctl("disable", "core", status=1)
        assert "the store is full (NOSPACE)" in told
        assert "`etcdctl defrag` each node, then `etcdctl alarm disarm`" in told
        assert "the store is full" in each.ctl("apply", "-f", "/dev/null", "--prune", status=1)
    assert len(pinged(cluster, tmp_path)) == 10
    cluster.store.room()
    for each in cluster.members:
        wait_for(lambda: each.agent.metrics().total("mirrord_cluster_own_written"), "it is in the store", 20)  # noqa: B023
        assert "NOSPACE" not in each.ctl("status")
    cluster.b.ctl("disable", "core")
    cluster.settle()
    assert not pinged(cluster, tmp_path)


def test_changes_made_while_an_agent_was_away_and_their_history_are_caught_up_with(cluster: Pair) -> None:
    mirror(cluster)
    wait_up(cluster)
    cluster.b.agent.kill()
    cluster.a.ctl("session", "add", "core", "two", "--source", VM_2, "--destination", "type=device,device=lo,host=b")
    cluster.a.ctl("session", "delete", "core", "nic")
    cluster.a.ctl("session", "delete", "core", "two")
    revision = json.loads(cluster.store.ctl("get", "x", "-w", "json"))["header"]["revision"]
    cluster.store.ctl("compact", str(revision))
    assert set(cluster.b.sessions()) == {"core/nic.in"}
    cluster.b.agent.start()
    wait_for(lambda: not cluster.b.sessions(), "what is not wanted any more ends", 20)


def test_an_empty_store_or_another_clusters_ends_nothing(cluster: Pair, tmp_path: Path) -> None:
    mirror(cluster)
    wait_up(cluster)
    snapshot = cluster.store.directory / "backup.db"
    cluster.store.ctl("snapshot", "save", str(snapshot))
    cluster.store.kill()
    cluster.store.wipe()
    cluster.store.start()
    wait_for(lambda: "the store is empty" in cluster.a.ctl("status"), "it is told", 30)
    assert len(pinged(cluster, tmp_path)) == 10
    for each in cluster.members:
        each.agent.kill()
        each.agent.start()
    wait_for(lambda: "the store is empty" in cluster.b.ctl("status"), "it is told after a restart, too", 30)
    assert len(pinged(cluster, tmp_path)) == 10
    cluster.store.kill()
    cluster.store.restore(snapshot)
    cluster.store.start()
    wait_for(lambda: all(one.agent.metrics().total("mirrord_cluster_connected") for one in cluster.members), "back", 30)
    cluster.settle()
    cluster.a.ctl("set", "core", "--description", "after the restore")
    cluster.settle()
    assert len(pinged(cluster, tmp_path)) == 10


def test_a_daemon_that_was_killed_comes_back_with_the_clusters_sessions_before_its_agent_does(
    cluster: Pair, tmp_path: Path
) -> None:
    mirror(cluster)
    wait_up(cluster)
    cluster.b.agent.kill()
    cluster.b.daemon.kill()
    cluster.b.daemon.start()
    wait_up(cluster)
    lines = pinged(cluster, tmp_path)
    assert len(lines) == 10
    cluster.b.agent.start()
    cluster.b.daemon.kill()
    cluster.b.daemon.start()
    wait_up(cluster)
    cluster.settle()
    assert len(pinged(cluster, tmp_path)) == 10
    assert cluster.addresses().keys() == {"a", "b"}


def test_every_query_of_the_clusters_dashboard_finds_data(cluster: Pair, tmp_path: Path) -> None:
    prometheus = Prometheus(cluster.a.host, tmp_path, ROOT / "config/prometheus/mirrord.rules.yml", "127.0.0.1:9819")
    told = json.loads((ROOT / "config/grafana/mirrord-cluster.json").read_text())
    wait_for(lambda: prometheus.query("count_over_time(mirrord_cluster_connected[1m]) > 2"), "a few scrapes", 20)
    (variable,) = [one for one in told["templating"]["list"] if one["type"] == "query"]
    assert prometheus.label_values("instance", variable["query"]["query"].split("(")[1].split(",")[0]) == {
        "127.0.0.1:9819"
    }
    for panel in told["panels"]:
        for target in panel["targets"]:
            found = prometheus.query(filled(target["expr"]))
            assert [one for one in found if one["value"][1] != "NaN"], (panel["title"], target["expr"])
    assert prometheus.firing() == set()
