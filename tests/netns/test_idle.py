"""What sessions cost that nothing comes to: a few descriptors each, and hardly a wake-up for all of them together."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.conftest import MakeDaemon
from tests.support.source import source_and_collector
from tests.support.topology import Topology
from tests.support.wait import wait_for

SESSIONS = 100
SECONDS = 2.0

SESSION = """
[[mirrors.m.sessions]]
name = "s{number}"
source = "nic"
destination = {{ type = "vxlan", remote = "10.99.0.2", vni = {number} }}
transmit = "{transmit}"
"""


def tasks(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/task").iterdir())


def waits(pid: int) -> int:
    """How often its threads, those of now, went to sleep so far (proc_pid_status(5))."""
    statuses = [(task / "status").read_text() for task in tasks(pid)]
    return sum(int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0]) for status in statuses)


@pytest.mark.parametrize("dataplane", ["native"])  # they differ in nothing that costs without frames
def test_idle_sessions_cost_next_to_nothing(net: Topology, daemon: MakeDaemon) -> None:
    _, source, _ = source_and_collector(net)
    ways = ["packet", "socket"] * (SESSIONS // 2)
    mirrord = daemon(source, "".join(SESSION.format(number=n, transmit=way) for n, way in enumerate(ways)))
    assert not mirrord.metrics().select("mirrord_ring_fill_ratio")
    assert len(list(Path(f"/proc/{mirrord.pid}/fd").iterdir())) <= 5 * SESSIONS
    assert len(tasks(mirrord.pid)) <= 16 + 4 * (os.cpu_count() or 1)

    def rests() -> bool:
        before = waits(mirrord.pid)
        time.sleep(SECONDS)
        return waits(mirrord.pid) - before < SESSIONS / 2

    wait_for(rests, "it has come to rest after the start", 5 * SECONDS)
