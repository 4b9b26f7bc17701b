"""Sources whose tap does not see everything: told by warning, metric and doctor, and as the kernel does it.

guest eth0 ---- tap0 [host] up0 ---- up0 [collector]
"""

from __future__ import annotations

import json

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.ctl import ctl
from tests.support.daemon import Daemon
from tests.support.send import send, udp_frame
from tests.support.topology import Topology
from tests.support.uplink import tapped, uplinked
from tests.support.wait import wait_for

OBJECTS = "/usr/lib/x86_64-linux-gnu/bpf"  # of Debian's libxdp1: xdp-filter's programs, without rules
DROPS, PASSES = f"{OBJECTS}/xdpfilt_dny_all.o", f"{OBJECTS}/xdpfilt_alw_all.o"
PASS_ALL = "1,6 0 0 4294967295"  # classic BPF: return TC_ACT_UNSPEC
ENDS = ("02:00:00:00:00:01", "10.1.0.1", 1000), ("02:00:00:00:00:02", "10.1.0.2", 2000)
RECEIVED, SENT = udp_frame(*ENDS, length=100), udp_frame(ENDS[1], ENDS[0], length=200)


def session(direction: str = "both") -> str:
    return f"""
[[mirrors.m.sessions]]
name = "s"
source = "tap0"
direction = "{direction}"
destination = {{ type = "vxlan", remote = "192.0.2.2", vni = 1 }}
"""


@pytest.fixture
def dataplane() -> str:
    """What the tap does not give, no data plane has."""
    return "native"


def findings(mirrord: Daemon) -> dict[str, tuple[str, str]]:
    """What doctor says of the session: problem and remedy by code."""
    found = json.loads(ctl(mirrord.socket, "--json", "doctor", "m"))
    its = (one for one in found if one["session"] and one["code"] != "unbound")  # nothing has to receive the copies
    return {one["code"]: (one["problem"], one["remedy"]) for one in its}


def bypassed(mirrord: Daemon) -> float:
    return mirrord.metrics().total("mirrord_source_bypassed", source="tap0")


@pytest.mark.parametrize(("mode", "words"), [("native", "in native mode"), ("skb", "in generic mode")])
def test_what_an_xdp_program_drops_the_tap_never_sees(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon, mode: str, words: str
) -> None:
    (host, _), guest = uplinked(net), net.host("guest")
    net.link(host, "tap0", guest, "eth0")
    mirrord = daemon(host, session())
    assert bypassed(mirrord) == 0
    assert findings(mirrord) == {}
    independent = sniff(host, "tap0", "udp")

    def attach(program: str) -> None:
        host.run("xdp-loader", "load", "-m", mode, "tap0", program)
        wait_for(lambda: bypassed(mirrord) == 1, "the metric")
        problem, remedy = findings(mirrord)["xdp"]
        assert f"tap0 has an XDP program {words}" in problem
        assert problem in mirrord.output()
        (row,) = json.loads(ctl(mirrord.socket, "--json", "status"))["sessions"]
        assert row["warnings"] == [problem]
        remedies.append(remedy)

    def detach() -> None:
        host.run(*remedies[-1].partition(",")[0].split())
        wait_for(lambda: bypassed(mirrord) == 0, "the metric")
        assert findings(mirrord) == {}

    remedies: list[str] = []
    attach(DROPS)
    received = host.counter("tap0", "rx", "packets")
    send(guest, "eth0", RECEIVED, 7)
    wait_for(lambda: host.counter("tap0", "rx", "packets") == received + 7, "the kernel has received them")
    send(host, "tap0", SENT, 4)
    assert mirrord.settle(4).total("mirrord_captured_frames_total") == 4  # all that it sends, nothing that it dropped
    detach()

    attach(PASSES)
    send(guest, "eth0", RECEIVED, 5)
    metrics = mirrord.settle(9)
    assert metrics.total("mirrord_read_frames_total", direction="ingress") == 5
    assert metrics.total("mirrord_captured_frames_total") == 9
    detach()
    frames = independent.stop().frames("udp")
    assert (frames.count(RECEIVED), frames.count(SENT)) == (5, 4)


def test_what_macvlan_children_send_each_other_counts_as_received_by_their_parent(
    net: Topology, daemon: MakeDaemon
) -> None:
    host, _ = tapped(net)
    for name, mac in (("child1", ENDS[0][0]), ("child2", ENDS[1][0])):
        host.ip(f"link add name {name} link tap0 address {mac} type macvlan mode bridge")
        host.ip(f"link set dev {name} up")
    mirrord = daemon(host, session())
    assert "tap0 has macvlan children" in findings(mirrord)["macvlan_parent"][0]
    host.run("tc", "qdisc", "add", "dev", "tap0", "ingress")
    host.run("tc", "filter", "add", "dev", "tap0", "ingress", "bpf", "da", "bytecode", PASS_ALL)  # not in hardware
    assert set(findings(mirrord)) == {"macvlan_parent"}
    assert bypassed(mirrord) == 0
    before = host.transmitted("tap0")
    send(host, "child1", RECEIVED, 3)
    send(host, "child2", SENT, 2)
    metrics = mirrord.settle(5)
    assert metrics.total("mirrord_read_frames_total", direction="ingress") == 5
    assert metrics.total("mirrord_read_frames_total", direction="egress") == 0
    assert host.transmitted("tap0") == before
