"""What no host says of a session by itself, from what all of them say."""

from __future__ import annotations

from typing import Any

import pytest

from mirrord.cluster import records
from mirrord.cluster.doubts import Told, nowhere, unheard
from mirrord.cluster.etcd import Found
from mirrord.cluster.keys import Keys
from mirrord.cluster.reader import snapshot_of
from mirrord.cluster.shown import Shown
from mirrord.cluster.snapshot import Snapshot

KEYS = Keys("/mirrord")
KEY = "core", "nic"
SENT, RECEIVED, BOTH = (Shown(*KEY, side, "tap0", "up", "") for side in ("source", "destination", "both"))
OF_VM, TO_VM = {"type": "vm", "vm": "VM-2", "nic": 0}, {"type": "vm", "vm": "VM-1", "nic": 1}


def snapshot(source: Any, destination: Any, **mirror: Any) -> Snapshot:
    one = {"source": source, "destination": destination, "vni": 5000}
    objects = {KEYS.object("mirrors", "core"): mirror, KEYS.object("sessions", "nic", "core"): one}
    return snapshot_of(KEYS, {key: Found(records.record(one), 1, 1, 0) for key, one in objects.items()})


def host(*sessions: Shown, alive: bool = True, left_out: int = 0, managers: tuple[str, ...] = ()) -> Told:
    return Told(alive, sessions, left_out, managers)


def on(name: str) -> dict[str, str]:
    return {"type": "device", "device": "tap0", "host": name}


@pytest.mark.parametrize(
    ("source", "hosts", "why"),
    [
        (OF_VM, {"a": host(), "b": host(RECEIVED)}, "VM 'VM-2' is on no host of the cluster that lives"),
        (OF_VM, {"a": host(managers=("no libvirt",)), "b": host(managers=("no libvirt",))}, "on a, b: no libvirt"),
        (on("host-x"), {"host-c": host()}, "there is no host 'host-x' in the cluster; did you mean 'host-c'?"),
        (on("b"), {"a": host(), "b": host(alive=False)}, "host 'b' is away"),
        (on("b"), {"b": host()}, "host 'b' has not told of it yet"),
        (on("b"), {"b": host(SENT)}, ""),
        (OF_VM, {"a": host(BOTH)}, ""),
        (OF_VM, {"a": host(left_out=1)}, ""),
    ],
)
def test_a_session_whose_source_is_nowhere_is_told(source: Any, hosts: dict[str, Told], why: str) -> None:
    found = [one.reason for one in nowhere(snapshot(source, TO_VM), hosts, 0)]
    assert bool(found) == bool(why)
    assert all(why in one for one in found)
    assert not [*nowhere(snapshot(source, TO_VM, enabled=False), hosts, 0)]


@pytest.mark.parametrize(
    ("destination", "hosts", "why"),
    [
        (TO_VM, {"a": host(SENT), "b": host()}, "VM 'VM-1' is on no host"),
        (on("b"), {"a": host(SENT), "b": host(RECEIVED, alive=False)}, "host 'b' is away"),
        (on("b"), {"a": host(SENT), "b": host(RECEIVED)}, ""),
        (on("b"), {"b": host(BOTH)}, ""),
        ({"type": "vxlan", "remote": "192.0.2.1", "vni": 1}, {"a": host(SENT)}, ""),
    ],
)
def test_copies_that_nobody_receives_are_told(destination: Any, hosts: dict[str, Told], why: str) -> None:
    found = unheard(snapshot(OF_VM, destination), hosts)
    assert found.keys() == ({KEY} if why else set())
    assert why in found.get(KEY, "")
