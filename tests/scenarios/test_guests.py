"""Document 000 by the names that people use: real VMs and containers, found through libvirt and Podman."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.ctl import complete, ctl
from tests.support.daemon import Daemon
from tests.support.guests import Hypervisor, Podman
from tests.support.process import Process
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

VM1 = "52:54:00:00:01:00", "52:54:00:00:01:01"
VM2 = "52:54:00:00:02:00"
PLUGGED = "52:54:00:00:02:01"
ADDRESS = "10.1.225.37"

pytestmark = pytest.mark.alone  # a machine under software emulation takes a processor for itself


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


def test_a_vm_that_migrates_in_is_mirrored_from_its_first_frame(
    hypervisor: Hypervisor, net: Topology, daemon: MakeDaemon
) -> None:
    host = hypervisor.host
    with closing(Hypervisor(net.host("hv2"))) as other:
        other.host.add_bridge("br0")
        net.link(host, "trunk", other.host, "trunk")
        for each in (host, other.host):
            each.ip("link set dev trunk master br0")
        net.link(other.host, "out", net.host("collector"), "in")
        text = configuration(other, f'"{VM2}"').splitlines()[:-1]
        text.append('destination = { type = "device", device = "out" }')
        mirrord = daemon(other.host, "\n".join(text), up=False)
        wait_for(lambda: source(mirrord)[2] == "there is no VM VM-2 here", "it waits")
        ping = host.spawn("ping", "-q", "-i", "0.01", ADDRESS)
        hypervisor.migrate("VM-2", other)
        tap = other.device("VM-2", VM2)
        wait_for(lambda: mirrored(mirrord).get(tap, 0) > 200, "the VM is mirrored", 30)
        ping.stop(2)
        wait_for(lambda: mirrored(mirrord)[tap] == seen(other.host, tap), "every frame was captured")
        other.migrate("VM-2", hypervisor)
        wait_for(lambda: source(mirrord)[1] == "waiting", "it is gone")
        host.ip("link delete dev trunk")


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


RESTARTS = 20
WEB = "10.88.211.7", "02:00:00:00:58:07"

LOAD = """
import itertools, socket, struct, sys, time
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in itertools.count():
    now = time.time_ns()
    out.sendto(struct.pack("!QQ", number, now), (sys.argv[1], 9))
    print(number, now, flush=True)
    time.sleep(0.002)
"""


def container_session(engine: str, chosen: str) -> str:
    return f"""
[[mirrors.web.sessions]]
name = "all"
direction = "ingress"
source = {{ type = "container", {chosen}, engine = "{engine}" }}
destination = {{ type = "device", device = "out" }}
"""


def test_a_container_is_mirrored_by_its_label_over_restarts_under_load(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon
) -> None:
    """What a container receives is mirrored from 200 ms after its veth is up on, at the latest; what passed before is
    reported, as the veth's own counter has it.
    """
    host, collector = net.host("host"), net.host("collector")
    net.link(host, "out", collector, "in")
    with closing(Podman(host)) as engine:
        mirrord = daemon(host, container_session(str(engine.socket), 'label = "app=web"'), up=False)
        wait_for(lambda: source(mirrord)[2] == "no container with the label app=web runs", "it waits")
        engine.run("other", app="db")  # or else the bridge would go with the container
        engine.run("web", "--ip", WEB[0], "--mac-address", WEB[1], app="web")
        wait_for(lambda: source(mirrord)[1] == "up", "the container is mirrored")
        device = source(mirrord)[0]
        host.ip(f"neighbour replace {WEB[0]} lladdr {WEB[1]} dev podman0 nud permanent")
        received = sniff(collector, "in", "udp port 9")
        links = host.spawn("ip", "-ts", "-oneline", "monitor", "link")
        load = host.spawn(sys.executable, "-c", LOAD, WEB[0])
        ends: list[float] = []
        passed: list[int] = []
        for _ in range(RESTARTS):
            engine.podman("restart", "--time", "0", "web")
            wait_for(lambda: host.counter(device, "tx", "packets") >= 200, "traffic to the container")
            passed.append(host.counter(device, "tx", "packets"))
            ends.append(time.time())
        wait_for(lambda: sent(load)[-1][1] > ends[-1], "the last is sent")
        load.stop()
        numbers = sent(load)
        copied = {int.from_bytes(frame[42:50], "big") for frame in received.stop().frames()}
        spans = list(zip(came_up(links, device), ends, strict=True))
    copies = [sum(number in copied for number, at in numbers if up <= at <= end) for up, end in spans]
    unseen = [there - some for there, some in zip(passed, copies, strict=True)]
    print("by the veth's counter, and not mirrored, at each restart:", unseen)
    due = {number for up, end in spans for number, at in numbers if up + 0.2 <= at <= end}
    assert len(due) > 20 * RESTARTS
    assert not due - copied, sorted(due - copied)


def sent(load: Process) -> list[tuple[int, float]]:
    """Number and time of what LOAD has sent."""
    rows = [line.split() for line in load.output().splitlines(keepends=True) if line.endswith("\n")]
    return [(int(number), int(at) / 1e9) for number, at in rows]


def came_up(links: Process, device: str) -> list[float]:
    """When a device of this name, each time another one, first had a carrier."""
    found: dict[str, float] = {}
    for line in links.output().splitlines():
        told = re.match(rf"\[(\S+)\] (\d+): {device}@\S+ <.*\bLOWER_UP\b", line)
        if told:
            found.setdefault(told[2], datetime.fromisoformat(told[1]).timestamp())
    return list(found.values())


def test_a_container_is_found_in_the_cache_of_cni(net: Topology, sniff: MakeSniffer, daemon: MakeDaemon) -> None:
    host, collector = net.host("host"), net.host("collector")
    net.link(host, "out", collector, "in")
    with closing(Podman(host, cni=True)) as engine:
        engine.run("web")
        engine.podman("stop", "--time", "0", "web")
        mirrord = daemon(host, container_session("/var/lib/cni/results", f'container = "{engine.id("web")}"'), up=False)
        wait_for(lambda: source(mirrord)[1] == "waiting", "it waits")
        received = sniff(collector, "in", "icmp")
        for count in (2, 4):
            engine.podman("restart", "--time", "0", "web")
            wait_for(lambda: source(mirrord)[1] == "up", "the container is mirrored")
            host.run("ping", "-c", "2", "-i", "0.2", engine.address("web"))
            wait_for(lambda: len(received.lines()) >= count, "the requests arrive")  # noqa: B023 (called here)
    assert all("echo request" in line for line in received.stop().lines())  # what it receives, and not what it sends


def test_a_container_whose_nic_has_no_end_on_the_host_is_mirrored_from_within(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon
) -> None:
    host, peer, collector = net.host("host"), net.host("peer"), net.host("collector")
    net.link(host, "uplink", peer, "eth0", ("", "10.89.9.1/24"))
    net.link(host, "out", collector, "in")
    with closing(Podman(host)) as engine:
        engine.podman(
            "network", "create", "--driver", "macvlan", "--opt", "parent=uplink", "--subnet", "10.89.9.0/24", "mv"
        )
        engine.run("web", "--network", "mv", "--ip", "10.89.9.7", "--mac-address", WEB[1], app="web")
        engine.run("shared", "--network", "host", app="shared")
        text = container_session(str(engine.socket), 'label = "app=web"')
        text += container_session(str(engine.socket), 'container = "shared"').replace(".web.", ".shared.")
        mirrord = daemon(host, text, up=False)
        received = sniff(collector, "in", "icmp")
        for count in (2, 4):
            wait_for(lambda: ("eth0", "") in sources_of(mirrord, "web"), "the container is mirrored")
            peer.run("ping", "-c", "2", "-i", "0.2", "10.89.9.7")
            wait_for(lambda: len(received.lines()) >= count, "the requests arrive")  # noqa: B023 (called here)
            if count == 2:
                engine.podman("restart", "--time", "0", "web")
        ((_, why),) = sources_of(mirrord, "shared")
        assert why.startswith("shared has no NIC eth0: it is in the network namespace of the host")
    assert all("echo request" in line for line in received.stop().lines())  # what it receives, and not what it sends


def sources_of(mirrord: Daemon, mirror: str) -> list[tuple[str, str]]:
    """The sources of a mirror's sessions, and why each is not up."""
    rows = json.loads(ctl(mirrord.socket, "--json", "status"))["sessions"]
    return [(row["source"], row["reason"]) for row in rows if row["mirror"] == mirror]
