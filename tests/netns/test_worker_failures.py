"""Errors that nobody foresaw, in a session's work or in a worker: noticed, counted, begun anew; nobody else minds.

On a device that leads nowhere: d0 [source] ---- d1 [destination]
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from mirrord.control.planning.plan import Entry, Key
from mirrord.control.reporting.metrics import Row
from mirrord.control.running.pipelines import Pipelines
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.filter.rules import Direction, Selection
from mirrord.dataplane.forward import encap
from mirrord.dataplane.helper import Helper
from mirrord.dataplane.pipeline import Pipeline
from mirrord.dataplane.worker import Worker
from mirrord.plans import CapturePlan, DevicePlan, FilePlan, ForwardPlan, PipelinePlan, TransmitPlan
from tests.support.alone import Alone
from tests.support.send import UNANSWERED, send
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

A, B = Key("m", "a", "d0"), Key("m", "b", "d0")
FRAMES = 50


@pytest.fixture
def host(net: Topology) -> Host:
    host = net.host("host")
    host.ip("link add d0 index 10 type veth peer name d1 index 11")
    host.ip("link set d0 up")
    host.ip("link set d1 up")
    return host


def plan(mode: str = "ring", transmit: TransmitPlan | None = None) -> PipelinePlan:
    capture = CapturePlan("d0", 10, Selection(Direction.EGRESS), mode=mode)
    return PipelinePlan(capture, ForwardPlan(encap.bare()), transmit or DevicePlan("d1", 11))


def explode() -> None:
    raise MemoryError("no room for it")


class Running:
    """Two sessions, as the daemon runs them: A into a file, B by a device."""

    def __init__(self, host: Host, dataplane: str, directory: Path) -> None:
        self.host = host
        self.pipelines = host.call(lambda: Pipelines(native=dataplane == "native"))
        plans = {A: plan(transmit=FilePlan(str(directory), "a.pcapng", "d0")), B: plan()}
        self._entries: Mapping[Key, Entry] = {key: Entry(key, "up", pipeline=one) for key, one in plans.items()}
        self.apply()

    def apply(self) -> None:
        self.host.call(lambda: self.pipelines.apply(self._entries))

    def row(self, key: Key) -> Row:
        return next(row for row in self.pipelines.rows() if row.entry.key == key)

    def of(self, key: Key) -> tuple[Pipeline, Worker]:
        return self.pipelines._running[key].placed[0]

    def breaks(self, key: Key) -> None:
        """Have A's work raise an error the next time: what a file has to do by time."""
        self.of(key)[0].transmit.tend = explode  # type: ignore[method-assign]
        self.noticed()

    def noticed(self) -> None:
        """What the daemon looks for each second."""
        wait_for(self.pipelines.tend_workers, "the error noticed")

    def captured(self, key: Key) -> int:
        return self.row(key).counters[Slot.captured]

    def takes_frames(self, *keys: Key) -> None:
        """Every frame of some is captured and mirrored by each of these."""
        before = {key: self.captured(key) for key in keys}
        send(self.host, "d0", UNANSWERED, FRAMES)
        after = {key: count + FRAMES for key, count in before.items()}
        wait_for(lambda: {key: self.captured(key) - self.rest(key) for key in keys} == after, f"{FRAMES} more frames")
        assert {key: self.captured(key) for key in keys} == after

    def rest(self, key: Key) -> int:
        counters = self.row(key).counters
        ends = sum(counters[slot] for slot in Slot if slot.name.startswith(("mirrored", "skipped_", "dropped_")))
        return counters[Slot.captured] - ends


@pytest.fixture
def running(host: Host, dataplane: str, tmp_path: Path) -> Running:
    return Running(host, dataplane, tmp_path)


def test_an_error_in_a_sessions_work_is_its_own(running: Running) -> None:
    running.takes_frames(A, B)
    worker = running.of(A)[1]
    running.breaks(A)
    assert running.pipelines.worker_failures() == 1
    assert (running.row(A).state, running.row(B).state) == ("failed", "up")
    assert running.row(A).reason == "an error in its work: MemoryError: no room for it"
    running.takes_frames(B)  # the kernel goes on counting what A does not take

    running.apply()
    assert running.row(A).state == "up"
    assert running.of(A)[1] is not worker
    running.takes_frames(A, B)
    assert (running.captured(A), running.captured(B)) == (3 * FRAMES, 3 * FRAMES)
    assert running.row(A).counters[Slot.dropped_ring_full] == FRAMES

    running.breaks(A)
    failed_at = time.monotonic()
    running.apply()
    assert running.row(A).state == "failed"  # not at once again

    def again() -> bool:
        running.apply()
        return running.row(A).state == "up"

    wait_for(again, "begun once more")
    assert time.monotonic() - failed_at >= 2 - 1.1  # of a second it is not known when it failed
    running.takes_frames(A, B)
    running.pipelines.stop()


def test_a_worker_that_ends_leaves_its_sessions_to_another(running: Running) -> None:
    threads = threading.active_count()
    running.takes_frames(A, B)
    _, worker = running.of(A)
    mates = [key for key in (A, B) if running.of(key)[1] is worker]
    worker.order(explode)
    running.noticed()
    wait_for(lambda: worker.ended, "the thread's end")  # it says why before it ends
    assert running.pipelines.worker_failures() == 1
    assert [running.row(key).reason for key in mates] == ["its worker ended: MemoryError: no room for it"] * len(mates)
    send(running.host, "d0", UNANSWERED, FRAMES)  # the kernel counts what nobody takes
    running.apply()
    for key in mates:
        assert (running.row(key).state, running.captured(key)) == ("up", 2 * FRAMES)
        assert running.row(key).counters[Slot.dropped_ring_full] == FRAMES
        assert running.of(key)[1] is not worker
    running.takes_frames(A, B)
    assert threading.active_count() <= threads
    running.pipelines.stop()


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), OSError(12, "Cannot allocate memory")])
def test_whatever_becomes_of_a_successor_the_pipeline_can_be_removed(
    host: Host, dataplane: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = host.call(lambda: Alone(plan("auto"), native=dataplane == "native"))
    pipeline, tap = one.pipeline, one.tap
    worker = Worker("worker")
    worker.start()
    assert tap.mode_switch is not None
    asked = threading.Event()

    def prepare(_mode: str) -> None:
        asked.set()
        raise error

    monkeypatch.setattr(tap.mode_switch, "prepare", prepare)
    monkeypatch.setattr(tap.mode_switch, "wanted", lambda _now: "" if asked.is_set() else "ring")
    worker.add(tap)
    send(host, "d0", UNANSWERED, FRAMES)
    wait_for(asked.is_set, "a ring asked for")
    assert worker.remove(pipeline, seconds=5)
    assert pipeline.counters[Slot.captured] == pipeline.counters[Slot.mirrored] == FRAMES
    assert str(tap.mode_switch) == f"auto (socket, cannot move: {getattr(error, 'strerror', None) or error})"
    assert worker.stop(5)


def test_a_helper_goes_on_after_any_error() -> None:
    helper, outcomes = Helper("helper"), list[object]()
    helper.start()

    def raises() -> None:
        raise RuntimeError("can't start new thread")

    def broken(_outcome: object) -> None:
        raise ValueError("nobody is there any more")

    work: Callable[[], int] = lambda: 7  # noqa: E731 (one of several)
    helper.submit(raises, outcomes.append)
    helper.submit(work, broken)
    helper.submit(work, outcomes.append)
    helper.stop()
    helper.join(5)
    assert [str(outcome) for outcome in outcomes] == ["can't start new thread", "7"]
