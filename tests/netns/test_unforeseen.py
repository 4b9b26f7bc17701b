"""Errors that nobody foresaw, in the control plane: one session fails, or one turn, and all else goes on.

On a device that leads nowhere: d0 [source] ---- d1 [destination]
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from mirrord.control import service as services
from mirrord.control.planning.plan import Entry, Key
from mirrord.control.running.pipelines import Pipelines
from mirrord.dataplane import tap as taps
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.filter.rules import Direction, Selection
from mirrord.dataplane.forward import encap
from mirrord.dataplane.pipeline import Pipeline
from mirrord.plans import CapturePlan, DevicePlan, ForwardPlan, PipelinePlan
from tests.support.send import UNANSWERED, send
from tests.support.service import Turning, in_host
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

A, B = Key("m", "a", "d0"), Key("m", "b", "d0")
FRAMES = 20
SNAPLEN = 77  # of A's copies: tells its pipeline from B's
REASON = "internal error: KeyError: 'nobody'"
SESSION = """
[[mirrors.m.sessions]]
name = "s"
source = "d0"
destination = {type = "device", device = "d1"}
"""


@pytest.fixture
def host(net: Topology) -> Host:
    host = net.host("host")
    host.ip("link add d0 index 10 type veth peer name d1 index 11")
    host.ip("link set d0 up")
    host.ip("link set d1 up")
    return host


def explode(*_: object, **__: object) -> Any:
    raise KeyError("nobody")


def plan(snaplen: int = 0) -> PipelinePlan:
    capture = CapturePlan("d0", 10, Selection(Direction.EGRESS), mode="socket")
    return PipelinePlan(capture, ForwardPlan(encap.bare(), snaplen=snaplen), DevicePlan("d1", 11))


def in_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its way out open."""
    sound = Pipeline._set_up

    def set_up(pipeline: Pipeline, plan: PipelinePlan, *rest: Any, **words: Any) -> None:
        sound(pipeline, plan, *rest, **words)
        if plan.forward.snaplen == SNAPLEN:
            explode()

    monkeypatch.setattr(Pipeline, "_set_up", set_up)


def in_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its source open."""
    sound = taps.Tap.begin

    def begin(tap: taps.Tap) -> None:
        sound(tap)
        if any(one.plan.forward.snaplen == SNAPLEN for one in tap.pipelines):
            explode()

    monkeypatch.setattr(taps.Tap, "begin", begin)


@pytest.fixture
def pipelines(host: Host, dataplane: str) -> Iterator[Pipelines]:
    made = host.call(lambda: Pipelines(native=dataplane == "native"))
    yield made
    host.call(made.stop)


@pytest.mark.parametrize("where", [in_set_up, in_capture])
def test_a_session_that_fails_to_open_fails_alone(
    host: Host, pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch, where: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """It is told once, and tried again with each plan."""
    entries = {A: Entry(A, "up", pipeline=plan(SNAPLEN)), B: Entry(B, "up", pipeline=plan())}
    if where is in_capture:  # sessions that share a source share its fate: here A's is its own
        apart = CapturePlan("d0", 10, Selection(Direction.EGRESS), mode="socket", promiscuous=True)
        entries[A] = Entry(A, "up", pipeline=PipelinePlan(apart, plan(SNAPLEN).forward, DevicePlan("d1", 11)))

    def states() -> dict[str, tuple[str, str]]:
        return {key.session: state for key, state in pipelines.states().items()}

    with monkeypatch.context() as broken, capture_logs() as logs:
        where(broken)
        for _ in range(3):
            host.call(lambda: pipelines.apply(entries))
            assert states() == {"a": ("failed", REASON), "b": ("up", "")}
            assert pipelines.failing()
    told = [one for one in logs if one["event"] == "session failed"]
    assert [(one["log_level"], one["session"], one["reason"]) for one in told] == [("error", "a", REASON)]
    assert told[0]["exc_info"].__traceback__ is not None

    host.call(lambda: pipelines.apply(entries))
    assert states() == {"a": ("up", ""), "b": ("up", "")}
    send(host, "d0", UNANSWERED, FRAMES)

    def mirrored() -> list[int]:
        return [row.counters[Slot.mirrored] for row in pipelines.rows()]

    wait_for(lambda: mirrored() == [FRAMES, FRAMES], "both mirror")


async def until(condition: Callable[[], object], what: str) -> None:
    await asyncio.to_thread(wait_for, condition, what)


@pytest.mark.parametrize("step", ["plan", "act"])
def test_a_turn_that_fails_is_tried_again(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr(services, "TICK_SECONDS", 0.1)
    monkeypatch.setattr(services, "RETRY_SECONDS", 0.1)
    calls = list[int]()

    def failing(*_: object, **__: object) -> None:
        calls.append(1)
        explode()

    file = tmp_path / "mirrord.toml"
    file.write_text(f'[daemon]\nstate = "{tmp_path}/state.db"\n{SESSION}')

    async def scenario() -> None:
        with capture_logs() as logs:
            async with Turning(file) as turning:
                assert turning.states() == ["up"]
                with monkeypatch.context() as broken:
                    owner, name = (turning.service._planner, "make") if step == "plan" else (turning.pipelines, "apply")
                    broken.setattr(owner, name, failing)
                    with pytest.raises(KeyError):
                        await turning.service.reload()
                    assert turning.service.last_reload.problems == [REASON]
                    host.ip("link set d1 down")  # the turns fail that follow from it, and one that was put off
                    await until(lambda: turning.service._turns.caught == REASON, "a turn has failed")
                    failed = len(calls)
                    await until(lambda: len(calls) >= failed + 2, "others, too")
                await until(lambda: not turning.service._turns.caught, "a turn has gone well")
                await turning.service.reload()
                assert turning.service.last_reload.problems == []
        told = [one for one in logs if one["event"].startswith("cannot follow the host")]
        assert [(one["log_level"], one["reason"]) for one in told] == [("error", REASON)]
        assert told[0]["exc_info"].__traceback__ is not None

    in_host(host, scenario)


@pytest.mark.parametrize("step", ["history", "breaker", "watcher"])
def test_a_look_that_fails_stops_neither_turns_nor_watchdog(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    file = tmp_path / "mirrord.toml"
    file.write_text(f'[daemon]\nstate = "{tmp_path}/state.db"\n{SESSION}')
    monkeypatch.setattr(services, "TICK_SECONDS", 0.1)
    monkeypatch.setenv("WATCHDOG_USEC", "20000000")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    manager.setblocking(False)

    def fed() -> int:
        count = 0
        try:
            while True:
                count += manager.recv(100) == b"WATCHDOG=1"
        except BlockingIOError:
            return count

    async def scenario() -> None:
        told = list[int]()
        with capture_logs() as logs:
            async with Turning(file) as turning:
                service = turning.service
                with monkeypatch.context() as broken:
                    if step == "history":
                        broken.setattr(service.history, "look", explode)
                    elif step == "breaker":
                        broken.setattr(service._breaker, "look", explode)
                    else:
                        broken.setattr(service, "watchers", {explode})
                    await until(lambda: service._looks.caught == REASON, "a look has failed")
                    fed()
                    await until(lambda: fed() > 0, "the watchdog is fed")
                    host.ip("link delete d0")
                    await until(lambda: turning.states() == ["waiting"], "the host is followed")
                service.watchers.add(lambda: told.append(1))
                await until(lambda: told, "all goes on")
        failed = [one for one in logs if one["event"].startswith("cannot look at what runs")]
        assert [(one["log_level"], one["reason"]) for one in failed] == [("error", REASON)]
        assert failed[0]["exc_info"].__traceback__ is not None

    with manager:
        in_host(host, scenario)
