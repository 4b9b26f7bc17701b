"""A session's totals outlive its pipelines, yet names that never come again do not fill the memory."""

from __future__ import annotations

import socket

import pytest

from mirrord.control.planning.plan import Entry, Key
from mirrord.control.running import totals
from mirrord.control.running.pipelines import Pipelines
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.filter.rules import Direction, Selection
from mirrord.dataplane.forward import encap
from mirrord.plans import CapturePlan, DevicePlan, ForwardPlan, PipelinePlan
from tests.support.topology import Topology
from tests.support.wait import wait_for


def captured(names: str) -> dict[str, int]:
    """What each session captured in all, where one after the other captures one frame."""
    running = Pipelines(native=False)
    found = {}
    device = socket.if_nametoindex("d0")
    capture = CapturePlan("d0", device, Selection(Direction.EGRESS), mode="socket")
    plan = PipelinePlan(capture, ForwardPlan(encap.bare(), frame_limit=1514), DevicePlan("d1", device + 1))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind(("d0", 0))
        for number, name in enumerate(names, 1):
            running.apply({Key("m", "s", name): Entry(Key("m", "s", name), "up", pipeline=plan)})
            before = running.rows()[0].counters[Slot.captured]
            out.send(bytes(60))
            wait_for(lambda: running.rows()[0].counters[Slot.captured] > before, f"frame {number} captured")  # noqa: B023
            found[name] = running.rows()[0].counters[Slot.captured]
    running.stop()
    return found


def test_totals_are_kept_of_the_last_that_went(net: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals, "REMEMBERED", 2)
    host = net.host("host")
    host.ip("link add d0 index 10 type veth peer name d1 index 11")
    host.ip("link set d0 up")
    host.ip("link set d1 up")
    assert host.call(lambda: captured("abab")) == {"a": 2, "b": 2}
    assert host.call(lambda: captured("abcda")) == {"b": 1, "c": 1, "d": 1, "a": 1}
