"""What a cluster wants of a host, asked of the daemon alone: all at once, as far as the host can take it.

sender eth0 ---- em02 [host] mon0 ---- mon1
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.api import Api
from tests.support.ctl import ctl
from tests.support.daemon import Daemon
from tests.support.packets import LINK
from tests.support.send import send
from tests.support.topology import Host, Topology, acquaint
from tests.support.wait import wait_for

FILE = """
[filters.ours]
rules = [{ priority = 1, action = "accept" }]
"""
RULES = {"rules": [{"priority": 1, "action": "accept"}]}
TO_MON = {"type": "device", "device": "mon0"}
RECEIVED = {
    "name": "s.in",
    "source": {"type": "vxlan", "flow_network": "flow0", "vni": 7},
    "direction": "ingress",
    "filter": "theirs",
    "destination": TO_MON,
}
WRONG = {"name": "wrong", "source": "x0", "destination": {"type": "vxlan", "remote": "nowhere", "vni": 1}}
WANTED: dict[str, Any] = {
    "generation": 5,
    "cluster_id": "c1",
    "flow_networks": {"flow0": {"device": "em02", "addresses": "10.99.0.2/24"}},
    "filters": {"ours": RULES, "theirs": RULES},
    "mirrors": {"m": {"flow_network": "flow0", "sessions": [RECEIVED, WRONG]}},
}


@pytest.fixture
def dataplane() -> str:
    """One is enough: how frames go is not the question."""
    return "native"


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host]:
    sender, host = net.host("sender"), net.host("host")
    net.link(sender, "eth0", host, "em02", ("10.99.0.1/24", ""))
    host.ip("link add mon0 type veth peer name mon1")
    for device in ("mon0", "mon1"):
        host.ip(f"link set dev {device} up")
    return sender, host


def frame(number: int) -> bytes:
    """Of an ethertype for experiments, which no host answers (RFC 9542, appendix B.2)."""
    return bytes(LINK)[:12] + b"\x88\xb6" + number.to_bytes(2, "big").ljust(46, b"\0")


class Sender:
    """Wraps frames by hand, as another host of the cluster does."""

    def __init__(self, sender: Host, host: Host) -> None:
        self._sender, self._to = sender, Ether(src=sender.mac("eth0"), dst=host.mac("em02"))

    def __call__(self, numbers: range, source: str = "10.99.0.1") -> None:
        outer = (
            IP(src=source, dst="10.99.0.2") / UDP(sport=50000, dport=4789, chksum=0) / VXLAN(vni=7, flags="Instance")
        )
        for number in numbers:
            send(self._sender, "eth0", bytes(self._to / outer / frame(number)))


def status(running: Daemon) -> Any:
    return json.loads(ctl(running.socket, "--json", "status"))


def wait_up(running: Daemon) -> None:
    wait_for(lambda: [one["state"] for one in status(running)["sessions"]] == ["up"], "the session to run")


def test_what_a_cluster_wants_runs_as_far_as_the_host_can_take_it(
    hosts: tuple[Host, Host], daemon: MakeDaemon, sniff: MakeSniffer
) -> None:
    sender, host = hosts
    running = daemon(host, FILE, up=False)
    out, sends, api = sniff(host, "mon1"), Sender(sender, host), Api(running.socket)
    seen = api("POST", "origins/cluster/check", WANTED)
    wrong = {("exists", "filters.ours"), ("invalid_config", "mirrors.m.sessions[wrong].destination.remote")}
    assert {(one["code"], one["path"]) for one in seen.body["problems"]} == wrong
    assert [(one["session"], one["effect"]) for one in seen.body["sessions"]] == [("s.in", "wait")]
    assert status(running)["cluster"] == {}
    assert not status(running)["sessions"]
    answer = api("PUT", "origins/cluster", WANTED)
    assert (answer.status, answer.body["generation"]) == (200, 5)
    left = {one["name"]: (one["code"], one["path"]) for one in answer.body["objects"] if not one["taken"]}
    assert left == {
        "ours": ("exists", "filters.ours"),
        "wrong": ("invalid_config", "mirrors.m.sessions[wrong].destination.remote"),
    }
    taken = {(one["kind"], one["name"]) for one in answer.body["objects"] if one["taken"]}
    assert taken == {("flow_network", "flow0"), ("filter", "theirs"), ("mirror", "m"), ("session", "s.in")}
    assert api("GET", "origins/cluster").body == answer.body
    wait_up(running)
    acquaint(sender, "eth0", "10.99.0.1", host, "em02", "10.99.0.2")
    (session,) = status(running)["sessions"]
    assert session["source"] == "vxlan:10.99.0.2:4789"
    assert any("carries frames of 1464 bytes, but those of mon0 have up to 1514" in one for one in session["warnings"])
    sends(range(5))
    sends(range(5, 8), source="10.98.0.1")  # is not in the flow network
    sends(range(8, 10))
    running.settle(captured=7)
    wanted = [frame(number) for number in (*range(5), 8, 9)]
    wait_for(lambda: len(out.wait_lines(7)) >= 7, "every frame of the flow network")

    shown = {one["name"]: one["origin"] for one in api("GET", "filters").body["filters"]}
    assert shown == {"ours": {"file": str(running.file)}, "theirs": {"cluster": True}}
    for words in (("disable", "m"), ("session", "delete", "m", "s.in"), ("filter", "delete", "theirs")):
        assert "is defined in the cluster" in ctl(running.socket, *words, status=1)
    assert "theirs" not in ctl(running.socket, "export")
    assert "cluster" in ctl(running.socket, "show", "m")

    assert api("PUT", "origins/cluster", {**WANTED, "generation": 6}).status == 200
    done = [one for one in api.audit() if one["result"] == "done"]
    assert [(one["operation"], one["object"]) for one in done] == [("apply", "cluster")]  # the other changed nothing
    assert done[0]["new"]["mirrors"]["m"]["sessions"] == [RECEIVED]
    assert api("PUT", "origins/cluster", WANTED).code == "stale"
    assert [one["code"] for one in api("POST", "origins/cluster/check", WANTED).body["problems"]] == ["stale"]
    assert api("POST", "origins/cluster/check", {}).body["problems"][0]["code"] == "invalid_config"
    assert api("PUT", "origins/cluster", {**WANTED, "cluster_id": "c2", "generation": 9}).code == "refused"
    assert status(running)["cluster"]["generation"] == 6
    assert api("PUT", "origins/cluster?replace=true", WANTED).status == 200
    for body in ({}, {**WANTED, "generation": True}, {**WANTED, "mirrors": []}, {**WANTED, "colour": 1}):
        assert api("PUT", "origins/cluster", body).code == "invalid_config"

    running.stop()
    assert out.stop().frames() == wanted
    again = Daemon(host, running.file.parent, FILE, up=False)
    try:
        wait_up(again)  # no agent has asked
        sends(range(3))
        again.settle(captured=3)
        files_go_before(again, sends)
        api = Api(again.socket)
        assert api("DELETE", "origins/cluster").status == 204
        assert status(again)["sessions"] == []
        assert status(again)["cluster"] == {}
        assert api("GET", "mirrors").body["mirrors"] == []
        last = api.audit()[-1]
        assert (last["operation"], last["object"], last["new"]) == ("delete", "cluster", {})
        assert last["old"]["mirrors"]["m"]["flow_network"] == "flow0"
        wait_for(lambda: "10.99.0.2" not in host.ip("address show dev em02"), "the address to be given back")
    finally:
        again.stop()


def files_go_before(running: Daemon, sends: Sender) -> None:
    """What a file defines goes before the cluster's of the same name; to try it touches nothing."""

    def left() -> set[str]:
        return {one["name"] for one in status(running)["cluster"]["left_out"]}

    before, text = left(), running.file.read_text()
    running.file.write_text(f"{text}\n[mirrors.m]\nenabled = false\n")
    assert "dry run" in ctl(running.socket, "reload", "--dry-run")
    assert left() == before
    ctl(running.socket, "reload")
    assert left() == {"ours", "m"}
    assert status(running)["sessions"] == []
    running.file.write_text(text)
    ctl(running.socket, "reload")
    assert left() == before
    wait_up(running)
    sends(range(2))
    running.settle(captured=2)
