"""Document 004: every operation on a port mirroring, by mirrorctl, on live traffic, with its audit row.

VM-2 eth0 ---- tap-vm2 [host] tap-vm1 ---- eth1 VM-1
"""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.ctl import ctl
from tests.support.topology import Topology
from tests.support.watched import EVERY_OPERATION, Watched, machines

SOURCE = "type=device,device=tap-vm2,perspective=guest"
ENDS = ("--direction", "both", "--source", SOURCE, "--destination", "type=device,device=tap-vm1")
AT_ONCE = "name=nic,direction=both,source.type=device,source.device=tap-vm2,source.perspective=guest"
FILE = """
[filters.echo]
rules = [{ priority = 1, action = "accept", protocol = "icmp" }]

[mirrors.fixed]
enabled = false
"""


@pytest.fixture
def dataplane() -> str:
    """One is enough: how frames go is not the question."""
    return "native"


def answer(socket: Path, *arguments: str, status: int = 0) -> Any:
    return json.loads(ctl(socket, "--json", *arguments, status=status))


def test_every_operation(net: Topology, sniff: MakeSniffer, daemon: MakeDaemon) -> None:
    host, vm1, vm2 = machines(net)
    socket = daemon(host, FILE, up=False).socket
    watched = Watched(vm2, sniff(vm1, "eth1", "icmp"))

    said = ctl(socket, "create", "vm-2", "--description", "VM-2")
    assert said == "vm-2: created, disabled (mirrorctl enable vm-2 lets it run)\n"
    assert ctl(socket, "session", "add", "vm-2", "nic", *ENDS) == "vm-2/nic: added\n"
    watched.ping(mirrored=False)
    assert ctl(socket, "enable", "vm-2") == "vm-2: enabled\n"
    watched.ping(mirrored=True)
    ctl(socket, "set", "vm-2", "--description", "core business")
    watched.ping(mirrored=True)
    assert ctl(socket, "set", "vm-2", "--name", "core") == "vm-2: renamed to core\n"
    watched.ping(mirrored=True)
    assert answer(socket, "disable", "core")["enabled"] is False
    watched.ping(mirrored=False)
    assert answer(socket, "enable", "core")["description"] == "core business"
    watched.ping(mirrored=True)
    assert answer(socket, "session", "delete", "core", "nic") == {"deleted": "core/nic"}
    watched.ping(mirrored=False)
    ctl(socket, "session", "add", "core", "nic", *ENDS, "--filter", "echo")
    watched.ping(mirrored=True)
    assert ctl(socket, "delete", "core") == "core: deleted\n"
    watched.ping(mirrored=False)
    at_once = f"{AT_ONCE},destination.type=device,destination.device=tap-vm1"
    made = answer(socket, "create", "core", "--enable", "--session", at_once)
    assert (made["enabled"], made["origin"]) == (True, {"state": True})
    assert made["sessions"][0]["source"]["perspective"] == "guest"
    watched.ping(mirrored=True)

    rows = answer(socket, "audit")
    assert [(row["operation"], row["kind"], row["object"], row["mirror"]) for row in rows] == EVERY_OPERATION
    assert {(row["user"], row["result"]) for row in rows} == {(getpass.getuser(), "done")}
    assert answer(socket, "audit", "--mirror", "core", "--since", "1h") == rows[4:]
    assert answer(socket, "audit", "--mirror", "core", "--since", "2200-01-01T00:00:00Z") == []
    columns = ctl(socket, "audit").splitlines()[-1].split()[2:]
    assert columns == [getpass.getuser(), "create", "mirror", "core", "done"]


def test_each_refusal_has_its_status_and_says_what_to_do(net: Topology, daemon: MakeDaemon) -> None:
    host, _, _ = machines(net)
    running = daemon(host, FILE, up=False)
    socket = running.socket
    ctl(socket, "create", "core")
    ctl(socket, "session", "add", "core", "nic", *ENDS, "--filter", "echo")
    ctl(socket, "filter", "create", "web", "--rule", "priority=1,action=accept,vlan=5")

    for arguments, status, text in [
        (("create", "core"), 1, "mirror 'core' exists already"),
        (("show", "cora"), 1, "no such mirror: cora; did you mean 'core'?"),
        (("enable", "cora"), 1, "no such mirror: cora; did you mean 'core'?"),
        (("session", "delete", "core", "nci"), 1, "no such session: nci; did you mean 'nic'?"),
        (("filter", "show", "ehco"), 1, "no such filter: ehco; did you mean 'echo'?"),
        (("filter", "delete", "echo"), 1, str(running.file)),
        (("delete", "fixed"), 1, str(running.file)),
        (("session", "add", "core", "two", *ENDS, "--filter", "ecko"), 1, "no filter 'ecko'; did you mean 'echo'?"),
        (("session", "add", "core", "two", "--source", "tap-vm1", *ENDS[4:]), 1, "also the source"),
        (("network", "delete", "capture"), 1, "no such flow network: capture"),
        (("crate", "core"), 2, "no such command: crate; did you mean 'create'?"),
        (("session", "ad"), 2, "no such command: ad; did you mean 'add'?"),
        (("--jsn", "list"), 2, "--json"),
        (("session", "add", "core", "two", *ENDS, "--snaplen", "-1"), 2, "snaplen: expected a whole number"),
        (("session", "add", "core", "two", *ENDS, "--direction", "ingres"), 2, "did you mean 'ingress'?"),
        (("session", "add", "core", "two", *ENDS, "--on_mtu_exceeded", "dorp"), 2, "did you mean 'drop'?"),
        (("session", "add", "core", "two", "--source", "a,b", *ENDS[4:]), 2, "expected key=value, not 'a'"),
        (("session", "add", "core", "two", *ENDS[:4], "--destination", "type=vxla"), 2, "did you mean 'vxlan'?"),
        (("session", "add", "core", "two", *ENDS[:4], "--destination", "type=gre,remot=::1"), 2, "'remote'?"),
        (("filter", "create", "f"), 2, "--rule"),
        (("filter", "create", "f", "--rule", "priority=1,action=acept"), 2, "did you mean 'accept'?"),
        (("network", "create", "n", "--device", "em0", "--addresses", "10.0.0.1"), 2, "with its prefix length"),
        (("create", "a b"), 2, "expected a name"),
        (("set", "core"), 2, "nothing to set"),
        (("audit", "--since", "soon"), 2, "how long ago"),
    ]:
        assert text in ctl(socket, *arguments, status=status), arguments
    assert [one["name"] for one in answer(socket, "list")] == ["fixed", "core"]  # and nothing was changed
    assert [one["name"] for one in answer(socket, "show", "core")["sessions"]] == ["nic"]

    refused = ctl(socket, "--json", "delete", "fixed", status=1)
    assert json.loads(refused)["error"]["code"] == "read_only"
    rows = [row for row in answer(socket, "audit") if row["result"] == "refused"]
    assert {"exists", "not_found", "read_only", "invalid_config"} <= {row["code"] for row in rows}
    running.stop()
    gone = ctl(socket, "list", status=3)
    assert "the daemon cannot be reached" in gone
    assert "is the daemon running" in gone
