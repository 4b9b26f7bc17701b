"""Document 000 by the names that people use: containers, found through Podman and the cache of CNI."""

from __future__ import annotations

import json
import re
import sys
import time
from contextlib import closing
from datetime import datetime

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.ctl import ctl
from tests.support.daemon import Daemon
from tests.support.guests import Podman
from tests.support.process import Process
from tests.support.topology import Topology
from tests.support.wait import wait_for


@pytest.fixture
def dataplane() -> str:
    return "native"


def source(mirrord: Daemon) -> tuple[str, str, str]:
    """Of the only session: its source, state and reason."""
    (row,) = json.loads(ctl(mirrord.socket, "--json", "status"))["sessions"]
    return row["source"], row["state"], row["reason"]


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


@pytest.mark.alone
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
