"""Document 004: every operation on a port mirroring, by the API, on live traffic, with its audit row.

VM-2 eth0 ---- tap-vm2 [host] tap-vm1 ---- eth1 VM-1
"""

from __future__ import annotations

import getpass
import os

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.api import Api
from tests.support.topology import Topology
from tests.support.watched import EVERY_OPERATION, Watched, machines

SESSION = {
    "name": "nic",
    "direction": "both",
    "source": {"type": "device", "device": "tap-vm2", "perspective": "guest"},
    "destination": {"type": "device", "device": "tap-vm1"},
}


def test_every_operation(net: Topology, sniff: MakeSniffer, daemon: MakeDaemon) -> None:
    host, vm1, vm2 = machines(net)
    mirrord = daemon(host, "", up=False)
    api = Api(mirrord.socket)
    watched = Watched(vm2, sniff(vm1, "eth1", "icmp"))

    assert api("PUT", "mirrors/vm-2", {"description": "VM-2", "enabled": False}).status == 201
    assert api("POST", "mirrors/vm-2/sessions", SESSION).status == 201
    watched.ping(mirrored=False)
    assert api("POST", "mirrors/vm-2/enable").status == 200
    watched.ping(mirrored=True)
    assert api("PATCH", "mirrors/vm-2", {"description": "core business"}).status == 200
    watched.ping(mirrored=True)
    assert api("PATCH", "mirrors/vm-2", {"name": "core"}).status == 200
    watched.ping(mirrored=True)
    assert api("GET", "mirrors/vm-2").status == 404
    assert api("POST", "mirrors/core/disable").body["enabled"] is False
    watched.ping(mirrored=False)
    assert api("POST", "mirrors/core/enable").body["description"] == "core business"
    watched.ping(mirrored=True)
    assert api("DELETE", "mirrors/core/sessions/nic").status == 204
    watched.ping(mirrored=False)
    assert api("PUT", "mirrors/core/sessions/nic", SESSION).status == 201
    watched.ping(mirrored=True)
    assert api("DELETE", "mirrors/core").status == 204
    watched.ping(mirrored=False)
    assert api("PUT", "mirrors/core", {"sessions": [SESSION]}).status == 201  # with a session at once
    watched.ping(mirrored=True)
    assert api("GET", "mirrors").body["mirrors"] == [api("GET", "mirrors/core").body]

    rows = api.audit()
    assert [(row["operation"], row["kind"], row["object"], row["mirror"]) for row in rows] == EVERY_OPERATION
    who = {(row["uid"], row["gid"], row["pid"], row["user"], row["result"]) for row in rows}
    assert who == {(os.getuid(), os.getgid(), os.getpid(), getpass.getuser(), "done")}
    assert (rows[0]["old"], rows[0]["new"]) == (None, {"name": "vm-2", "description": "VM-2", "enabled": False})
    assert (rows[1]["old"], rows[1]["new"]) == (None, SESSION)
    assert [rows[4][key]["name"] for key in ("old", "new")] == ["vm-2", "core"]
    assert (rows[7]["old"], rows[7]["new"]) == (SESSION, None)
    assert api.audit("?mirror=core") == rows[4:]  # from its new name on
    assert api.audit(f"?mirror=vm-2&since={rows[2]['time']}&limit=2") == rows[3:5]
