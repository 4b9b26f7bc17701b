"""Every change of a session, a filter and a flow network by command alone, on live traffic.

What changes counts on; what does not change loses no frame; a dry run touches nothing.

guest eth0 ---- tap0 [host] out0 ---- out0 [collector]
      eth1 ---- tap1        out1 ---- out1
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.api import Api
from tests.support.ctl import ctl
from tests.support.daemon import Daemon
from tests.support.meanwhile import meanwhile
from tests.support.send import ENDS, send, udp_frame
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

FRAME = udp_frame(*ENDS, length=100)  # to port 2000
FILE = """
[[mirrors.steady.sessions]]
name = "all"
source = "tap1"
direction = "ingress"
destination = { type = "device", device = "out1" }
"""
RULE = "priority=1,action=accept,protocol=udp,destination_ports=53"
MORE = "priority=2,action=accept,protocol=udp,destination_ports=2000"
CHANGES = "change as it runs"
LOGGED = {
    "": [],
    "start": ["session up"],
    "stop": ["session down"],
    "begin anew": ["session down", "session up"],
    CHANGES: ["session changed"],
    "be renamed as it runs": ["session renamed"],
}
"""What the daemon logs of a session, by what it told that this would do."""
AT_ONCE = (
    "name=nic,source=tap0,direction=ingress,filter=dns,count_rules=true,destination.type=device,destination.device=out0"
)


@pytest.fixture
def dataplane() -> str:
    """One is enough: how frames go is not the question."""
    return "native"


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host, Host]:
    guest, host, collector = net.host("guest"), net.host("host"), net.host("collector")
    for n in range(2):
        net.link(guest, f"eth{n}", host, f"tap{n}")
        net.link(host, f"out{n}", collector, f"out{n}")
    return guest, host, collector


@contextmanager
def steady_traffic(guest: Host) -> Iterator[list[int]]:
    """Frames into tap1 until the block ends; what is given holds how many it were."""
    sent = [0]

    def send_some() -> None:
        send(guest, "eth1", FRAME, 20, rate=500)
        sent[0] += 20

    with meanwhile(send_some):
        yield sent


class Session:
    """core's session, by what mirrorctl says of it."""

    def __init__(self, running: Daemon, guest: Host) -> None:
        self.socket, self._guest, self.mirrored = running.socket, guest, 0

    def answer(self, *words: str) -> Any:
        return json.loads(ctl(self.socket, "--json", *words))

    def counted(self) -> int:
        """Frames mirrored since it was made."""
        return sum(
            one["counters"]["mirrored_frames"] for one in self.answer("status")["sessions"] if one["mirror"] != "steady"
        )

    def sends(self, count: int, *, mirrored: bool) -> None:
        """Frames into tap0, all of them mirrored or none; what was counted before is counted still."""
        assert self.counted() == self.mirrored
        send(self._guest, "eth0", FRAME, count)
        send(self._guest, "eth0", udp_frame(*(ENDS[0], (*ENDS[1][:2], 53)), length=100))  # always one that is
        self.mirrored += 1 + count * mirrored
        wait_for(lambda: self.counted() >= self.mirrored, f"{self.mirrored} frames mirrored")
        assert self.counted() == self.mirrored


def test_what_changes_counts_on_and_nothing_else_notices(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon, sniff: MakeSniffer, tmp_path: Path
) -> None:
    guest, host, collector = hosts
    running = daemon(host, FILE)
    steady = sniff(collector, "out1", "udp")
    session, api = Session(running, guest), Api(running.socket)

    def do(*words: str, said: str, would: str = "") -> None:
        """A change: first tried, which touches nothing, then made; then sessions do what was told."""
        before = [api("GET", section).body for section in ("mirrors", "filters", "flow_networks")]
        rows = api.audit()
        tried = ctl(running.socket, *words, "--dry-run")
        told, _, effects = tried.partition("\n")
        assert told == f"{said} (dry run: nothing was changed)"
        assert [line.partition(" on tap0 would ")[2] for line in effects.splitlines()] == [would] * bool(would)
        after = [api("GET", section).body for section in ("mirrors", "filters", "flow_networks")]
        assert [_without_counters(one) for one in after] == [_without_counters(one) for one in before]
        assert api.audit() == rows
        written = len(running.output())
        assert ctl(running.socket, *words) == f"{said}\n"
        assert re.findall(r"\bsession (?:up|down|changed|renamed)\b", running.output()[written:]) == LOGGED[would]

    with steady_traffic(guest) as sent:
        do("filter", "create", "dns", "--rule", RULE, "--description", "names", said="dns: created")
        made = "core: created, enabled"
        do("create", "core", "--enable", "--session", AT_ONCE, said=made, would="start")
        session.sends(10, mirrored=False)
        do("filter", "rule", "add", "dns", MORE, said="dns: rule 2 added", would=CHANGES)
        session.sends(10, mirrored=True)
        do("filter", "rule", "delete", "dns", "2", said="dns: rule 2 deleted", would=CHANGES)
        session.sends(10, mirrored=False)
        more = RULE.replace("=53", "=53,destination_ports=2000")
        do("filter", "rule", "add", "dns", "--replace", more, said="dns: rule 1 added", would=CHANGES)
        session.sends(10, mirrored=True)
        rules = "--rule", RULE, "--rule", MORE.replace("accept", "reject")
        do("filter", "set", "dns", *rules, "--description", "only names", said="dns: set", would=CHANGES)
        session.sends(10, mirrored=False)
        assert session.answer("filter", "show", "dns")["description"] == "only names"

        words = ("--unset", "filter", "--unset", "count_rules")
        do("session", "set", "core", "nic", *words, said="core/nic: set", would=CHANGES)
        session.sends(10, mirrored=True)
        words = ("--snaplen", "60", "--description", "short")
        do("session", "set", "core", "nic", *words, said="core/nic: set", would=CHANGES)
        session.sends(10, mirrored=True)
        do("session", "set", "core", "nic", "--filter", "dns", "--count-rules", said="core/nic: set", would=CHANGES)
        session.sends(10, mirrored=False)
        do("session", "rename", "core", "nic", "eth", said="core/nic: renamed to eth", would="be renamed as it runs")
        do("set", "core", "--name", "heart", said="core: renamed to heart", would="be renamed as it runs")
        session.sends(10, mirrored=False)
        do("session", "disable", "heart", "eth", said="heart/eth: disabled", would="stop")
        assert [one["mirror"] for one in session.answer("status")["sessions"]] == ["steady"]
        do("session", "enable", "heart", "eth", said="heart/eth: enabled", would="start")
        session.sends(10, mirrored=False)
        do("session", "set", "heart", "eth", "--destination", "vlan=7", said="heart/eth: set", would=CHANGES)
        do("session", "set", "heart", "eth", "--ring-size", "4MiB", said="heart/eth: set", would="begin anew")
        session.sends(10, mirrored=False)
        (shown,) = session.answer("show", "heart")["sessions"]
        assert (shown["destination"]["device"], shown["destination"]["vlan"], shown["snaplen"]) == ("out0", 7, 60)

        network = "--device", "em02", "--addresses", "192.0.2.1/24"
        do("network", "create", "spare", *network, said="spare: created")
        do("network", "set", "spare", "--gateway", "192.0.2.254", "--description", "later", said="spare: set")
        assert session.answer("network", "show", "spare")["gateway"] == "192.0.2.254"
        do("network", "set", "spare", "--gateway", "", said="spare: set")
        assert session.answer("network", "show", "spare")["gateway"] is None
        applied_and_exported(session, tmp_path / "objects.toml")
        do("network", "delete", "spare", said="spare: deleted")
        do("session", "delete", "heart", "eth", said="heart/eth: deleted", would="stop")
    running.settle(sent[0])
    counted = running.metrics().total("mirrord_mirrored_frames_total", mirror="steady")
    assert counted == sent[0]
    wait_for(lambda: len(steady.wait_lines(sent[0])) == sent[0], "every frame of the mirror that did not change")
    assert running.metrics().total("mirrord_dropped_frames_total") == 0


def applied_and_exported(session: Session, file: Path) -> None:
    """What is exported and applied again changes nothing; what is changed in between is changed, and no more."""
    text = ctl(session.socket, "export")
    assert ctl(session.socket, "export", "--all") != text
    file.write_text(text)
    every = ("apply", "-f", str(file))
    assert {one["operation"] for one in session.answer(*every)["objects"]} == {"same"}
    assert ctl(session.socket, "export") == text
    file.write_text(text.replace('"2000"', '"2000-2001"').replace('action = "reject"', 'action = "accept"'))
    rows = session.answer("audit")
    tried = session.answer(*every, "--dry-run")
    assert [one["operation"] for one in tried["objects"]] == ["same", "change", "same"]
    assert session.answer("audit") == rows
    session.sends(10, mirrored=False)
    assert session.answer(*every)["objects"] == tried["objects"]
    assert [(one["operation"], one["kind"], one["object"]) for one in session.answer("audit")[len(rows) :]] == [
        ("replace", "filter", "dns")
    ]
    session.sends(10, mirrored=True)
    file.write_text(text.replace("[mirrors.heart]", "[mirrors.heart]\ncolour = 1"))
    line = file.read_text().splitlines().index("colour = 1") + 1
    told = ctl(session.socket, *every, status=1)
    assert told == f"mirrorctl: {file}: mirrors.heart.colour: unknown key (line {line})\n"
    ctl(session.socket, "filter", "create", "left", "--rule", "priority=1,action=accept")
    file.write_text(text)
    tried = session.answer(*every, "--prune", "--dry-run")
    assert tried["objects"][-1] == {"kind": "filter", "name": "left", "operation": "delete"}
    ctl(session.socket, *every, "--prune")
    assert ctl(session.socket, "export") == text
    session.sends(10, mirrored=False)


def _without_counters(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_counters(one) for key, one in value.items() if key != "running"}
    return [_without_counters(one) for one in value] if isinstance(value, list) else value


def test_a_renamed_mirror_stays_in_its_place(hosts: Sequence[Host], daemon: MakeDaemon) -> None:
    running = daemon(hosts[1], FILE)
    for name in ("a", "b", "c"):
        ctl(running.socket, "create", name)
    ctl(running.socket, "set", "a", "--name", "z")
    named = [one["name"] for one in json.loads(ctl(running.socket, "--json", "list"))]
    assert named == ["steady", "z", "b", "c"]
    running.stop()
    again = Daemon(hosts[1], running.file.parent, FILE)
    try:
        assert [one["name"] for one in json.loads(ctl(again.socket, "--json", "list"))] == named
    finally:
        again.stop()


def test_a_reload_is_tried(hosts: Sequence[Host], daemon: MakeDaemon) -> None:
    running = daemon(hosts[1], FILE)
    right = running.file.read_text()
    tried = "the configuration would be taken over (dry run: nothing was changed)\n"
    assert ctl(running.socket, "reload", "--dry-run") == tried
    running.file.write_text(f"{right}\ncolour = 1\n")
    told = ctl(running.socket, "reload", "--dry-run", status=1)
    line = len(right.splitlines()) + 2
    assert f"{running.file}: mirrors.steady.sessions[0].colour: unknown key (line {line})\n" in told
    assert json.loads(ctl(running.socket, "--json", "status"))["config"]["problems"] == []
    assert json.loads(ctl(running.socket, "--json", "audit")) == []


def test_the_api_tells_what_would_come_of_an_object(hosts: Sequence[Host], daemon: MakeDaemon) -> None:
    running = daemon(hosts[1], FILE)
    api = Api(running.socket)
    end = {"type": "vxlan", "remote": "192.0.2.9", "vni": 1 << 24}
    wrong = {"sessions": [{"name": "s", "source": "tap0", "filter": "none", "destination": end}]}
    answer = api("POST", "mirrors/new/check", wrong)
    assert (answer.status, answer.body["warnings"]) == (200, [])
    assert [one["path"] for one in answer.body["problems"]] == [
        "mirrors.new.sessions[s].destination.vni",
        "mirrors.new.sessions[s].filter",
    ]
    right = {"sessions": [{"name": "s", "source": "gone0", "rate_limit": "10Mbps", "destination": {**end, "vni": 1}}]}
    answer = api("POST", "mirrors/new/check", right)
    assert answer.body["problems"] == []
    told = {one["path"]: one["message"] for one in answer.body["warnings"]}
    assert "10Mbps is 80Mbit a second" in told["mirrors.new.sessions[s].rate_limit"]
    assert "gone0" in told["mirrors.new.sessions[s]"]
    several = {"type": "device", "device": [f"gone{number}" for number in range(9)]}
    answer = api("POST", "mirrors/new/check", {"sessions": [{**right["sessions"][0], "source": several}]})
    waits = "waiting: no such device: the source (gone0, gone1, gone2, gone3, and 5 more)"
    assert [one["message"] for one in answer.body["warnings"]].count(waits) == 1
    assert len(answer.body["warnings"]) == 2
    assert api("GET", "mirrors/new").status == 404
    taken = api("POST", "mirrors/steady/check", {})
    assert [one["code"] for one in taken.body["problems"]] == ["read_only"]
    assert api("POST", "mirrors/x/check?dry_run=true", {}).code == "bad_request"  # nobody reads it there
    assert api("PUT", "mirrors/x?dry_run=maybe", {}).code == "bad_request"
    assert api.audit() == []
    every_change_can_be_tried(api)
    assert [one["operation"] for one in api.audit()] == ["create", "create"]  # what it really made
    assert ctl(running.socket, "session", "add", "none", "s", "--source", "tap0", "--dry-run",
               "--destination", "type=device,device=out0", status=1) == "mirrorctl: no such mirror: none\n"  # fmt: skip


def every_change_can_be_tried(api: Api) -> None:
    """Of the objects in `FILE`, and of ones made here and deleted again."""

    def told(resource: str, body: Any = None, **headers: str) -> tuple[list[str], list[tuple[str, str]]]:
        answer = api("POST", resource, body, **headers)
        assert answer.status == 200, answer
        codes = [one["code"] for one in answer.body["problems"]]
        return codes, [(one["session"], one["effect"]) for one in answer.body["sessions"]]

    session = {"name": "s", "source": "tap0", "destination": {"type": "device", "device": "out0"}}
    objects = {"mirrors": {"new": {"enabled": True, "sessions": [session]}}}
    assert told("mirrors/new/check", objects["mirrors"]["new"]) == ([], [("s", "start")])
    assert told("apply/check", objects) == ([], [("s", "start")])
    assert told("apply/check", {"mirrors": {"steady": {}}}) == (["read_only"], [])
    assert told("reload/check") == ([], [])
    assert told("mirrors/none/sessions/check", session) == (["not_found"], [])
    assert told("mirrors/steady/check?change=delete") == (["read_only"], [])
    assert api("PUT", "mirrors/new", {"sessions": []}).status == 201
    tag = api("GET", "mirrors/new").headers["ETag"]
    assert told("mirrors/new/sessions/check", session) == ([], [("s", "start")])
    waits = {**session, "source": "gone0"}
    assert told("mirrors/new/sessions/check", waits, If_Match=tag) == ([], [("s", "wait")])
    assert api("POST", "mirrors/new/sessions", session).status == 201
    assert told("mirrors/new/sessions/check", session) == (["refused"], [])
    assert told("mirrors/new/check?change=disable", If_Match=tag) == (["stale"], [])
    assert told("mirrors/new/check?change=disable") == ([], [("s", "stop")])
    assert told("mirrors/new/check?change=delete") == ([], [("s", "stop")])
    assert told("mirrors/new/check?change=patch", {"name": "newer"}) == ([], [("s", "rename")])
    assert told("mirrors/new/sessions/s/check?change=patch", {"snaplen": 60}) == ([], [("s", "change")])
    assert told("mirrors/new/sessions/s/check?change=patch", {"source": "gone0"}) == (
        [],
        [("s", "stop"), ("s", "wait")],
    )
    assert told("mirrors/new/sessions/s/check", {**session, "ring_size": "4MiB"}) == ([], [("s", "restart")])
    assert api("POST", "mirrors/new/check?change=put+on", {}).code == "bad_request"
    assert api("POST", "filters/f/check?change=enable").code == "bad_request"
    assert told("filters/f/check?change=delete") == (["not_found"], [])
