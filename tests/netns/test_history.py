"""What was counted in the last hour, kept by the daemon itself.

client eth0 ---- nic [source] uplink ---- eth0 [collector] vxlan0
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from mirrord.control.planning.plan import Key
from mirrord.control.reporting.history import HOUR, MOST_SESSIONS, History
from mirrord.dataplane.counters import SLOTS, Slot
from tests.conftest import MakeDaemon
from tests.support.api import Api
from tests.support.send import FRAME, send
from tests.support.source import session, source_and_collector
from tests.support.topology import Topology
from tests.support.wait import wait_for

FRAMES = 200


def test_what_was_counted_is_told(net: Topology, daemon: MakeDaemon) -> None:
    client, source, _ = source_and_collector(net)
    mirrord = daemon(source, "[mirrors.m]\n" + session())
    api = Api(mirrord.socket)
    wait_for(lambda: len(api("GET", "history").body["time"]) > 1, "the first seconds")
    send(client, "eth0", FRAME, FRAMES)
    mirrord.settle(FRAMES)

    def step() -> list[dict[str, Any]]:
        answer = api("GET", "history?mirror=m&session=s").body
        assert answer["step_seconds"] == 10
        found: list[dict[str, Any]] = answer["sessions"]
        return found

    (its,) = wait_for(step, "ten seconds", 30)
    assert (its["mirror"], its["session"], its["source"]) == ("m", "s", "nic")
    assert sum(its["mirrored_frames"]) > 0
    history = api("GET", "history").body
    assert history["step_seconds"] == 1
    assert history["time"] == sorted(history["time"])
    seconds = [after - before for before, after in pairwise(history["time"])]
    counted = sum(rate * second for rate, second in zip(history["mirrored_frames"][1:], seconds, strict=True))
    assert counted == pytest.approx(FRAMES, rel=0.2)  # rates are by another clock than times
    assert 0 < max(history["latency_p99_seconds"]) < 1
    assert len({len(column) for name, column in history.items() if name != "step_seconds"}) == 1
    assert api("GET", "history?session=s").body["error"]["message"] == "session: goes with mirror"
    assert api("GET", "history?mirror=none").body == {"step_seconds": 10, "sessions": []}


def test_history_is_bounded() -> None:
    """More sessions than have a place, for more than an hour: those that counted last are there."""
    history, gain = History(), [0] * SLOTS
    gain[Slot.captured] = gain[Slot.mirrored] = 5
    gain[Slot.latency_bucket + 2] = 5
    keys = [Key("m", f"s{n}", "tap0") for n in range(MOST_SESSIONS + 50)]
    for second in range(HOUR + 20):
        history.add(dict.fromkeys(keys[:50] if second < 10 else keys[50:] if second < 20 else keys[-1:], gain), {}, 1.0)
    whole = history.of_daemon()
    assert {len(column) for name, column in whole.items() if name != "step_seconds"} == {HOUR}
    assert (whole["captured_frames"][-1], whole["latency_p99_seconds"][-1]) == (5.0, 0.0002)
    found = {one["session"]: one for one in history.of_sessions("m")["sessions"]}
    assert found.keys() == {key.session for key in keys[50:]}
    assert found[keys[-1].session]["captured_frames"] == [5.0] * (HOUR // 10)
    assert sum(found[keys[50].session]["captured_frames"]) == 0.0  # an hour ago
    assert history.of_sessions("m", "none")["sessions"] == []
