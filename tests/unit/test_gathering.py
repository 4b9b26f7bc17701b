"""Which sources of different sessions are captured by one socket on all devices: many, alike, quiet ones."""

from __future__ import annotations

import ctypes
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from mirrord.control.planning.plan import Add, Key
from mirrord.control.running.gathering import (
    FEW,
    MOST_MEMBERS,
    Captured,
    Gathered,
    Source,
    alone,
    gathered,
    most_instructions,
)
from mirrord.dataplane.filter.by_device import Extent, Wanted, attach_wanted
from mirrord.dataplane.filter.rules import Rule, Selection
from mirrord.dataplane.forward import encap
from mirrord.plans import CapturePlan, DevicePlan, FilePlan, FlowLimit, ForwardPlan, Netns, PipelinePlan

MANY = FEW + 4


ANY = Selection()
CLONE_NEWNET = 0x40000000  # linux/sched.h


def on(port: int) -> Selection:
    return Selection(rules=(Rule(1, accept=True, protocol=17, destination_ports=((port, port),)),))


KINDS: list[Callable[[int], Selection]] = [
    on,
    lambda n: Selection(rules=(Rule(1, accept=True, sources=(IPv4Network((n << 16, 16)),)),)),
    lambda n: Selection(rules=(Rule(1, accept=True, vlan=n),)),
    lambda n: Selection(vlans=frozenset({n})),
    lambda _: ANY,
]


def add(number: int, session: str = "s", selection: Selection = ANY) -> Add:
    capture = CapturePlan(f"tap{number}", number, selection, mode="auto")
    plan = PipelinePlan(capture, ForwardPlan(encap.bare()), DevicePlan("span0", 99))
    return Add(Key("m", f"{session}{number}", f"tap{number}"), plan)


def captured(one: Add) -> CapturePlan:
    assert isinstance(one.pipeline.capture, CapturePlan)
    return one.pipeline.capture


def source(one: Add, mirror: str | None = None) -> Source:
    return Source(alone(captured(one)), mirror)


def nothing() -> Captured:
    return Captured(set(), {})


def together(adds: list[Add], there: Captured | None = None) -> set[str]:
    """The devices of those that are gathered."""
    chosen = gathered(adds, there or nothing(), frozenset(), {})
    assert [one.key for one in chosen] == [one.key for one in adds]
    return {captured(one).device for one in chosen if captured(one).together}


def with_capture(one: Add, **changes: object) -> Add:
    return replace(one, pipeline=replace(one.pipeline, capture=replace(captured(one), **changes)))  # type: ignore[arg-type]


def test_few_have_a_socket_each_and_many_one() -> None:
    assert together([add(number) for number in range(FEW)]) == set()
    assert together([add(number) for number in range(FEW + 1)]) == {f"tap{number}" for number in range(FEW + 1)}
    assert together([add(1, f"s{n}-") for n in range(MANY)]) == set()  # as many sessions, of one source


def test_those_that_are_captured_stay_where_they_are() -> None:
    there = Captured({source(add(number)) for number in range(FEW)}, {})
    assert together([add(0, "more"), add(50)], there) == {"tap50"}
    group = Gathered(1)
    group.program.add(60, ANY)
    there = Captured(set(), {source(add(0)).everywhere: group})
    assert together([add(60, "more"), add(61)], there) == {"tap60"}  # there are few, but that one is there


BUSY = FilePlan("/var/lib", "a.pcapng", "tap0")


@pytest.mark.parametrize(
    "unlike",
    [
        pytest.param(lambda one: with_capture(one, raw=True), id="without Ethernet"),
        pytest.param(lambda one: with_capture(one, mode="ring"), id="another capture"),
        pytest.param(lambda one: with_capture(one, ring_size=1 << 20), id="another ring_size"),
        pytest.param(lambda one: with_capture(one, promiscuous=True), id="promiscuous"),
        pytest.param(lambda one: with_capture(one, netns=Netns("/run/netns/a", 7)), id="another namespace"),
        pytest.param(lambda one: replace(one, pipeline=replace(one.pipeline, workers=2)), id="workers"),
        pytest.param(lambda one: replace(one, pipeline=replace(one.pipeline, duplicates_of="x")), id="duplicates"),
        pytest.param(lambda one: replace(one, pipeline=replace(one.pipeline, transmit=BUSY)), id="a file"),
        pytest.param(
            lambda one: replace(
                one, pipeline=replace(one.pipeline, forward=ForwardPlan(encap.bare(), flow_limit=FlowLimit(packets=9)))
            ),
            id="a limit by flow",
        ),
    ],
)
def test_what_is_captured_otherwise_is_apart(unlike: Callable[[Add], Add]) -> None:
    adds = [add(number) for number in range(MANY)]
    adds[3] = unlike(adds[3])
    assert together(adds) == {f"tap{number}" for number in range(MANY)} - {"tap3"}


def test_a_mirror_that_drops_duplicates_has_its_sources_gathered_apart_from_others() -> None:
    def drops(number: int, mirror: str) -> Add:
        one = add(number)
        return Add(one.key._replace(mirror=mirror), replace(one.pipeline, duplicates_of="x"))

    few, many = [drops(number, "few") for number in range(FEW)], [drops(50 + number, "many") for number in range(MANY)]
    others = [add(100 + number) for number in range(FEW)]
    assert together(few + many + others) == {f"tap{50 + number}" for number in range(MANY)}
    group = Gathered(1)
    group.program.add(60, ANY)
    there = Captured(set(), {source(few[0], "few").everywhere: group})
    chosen = gathered([drops(60, "few"), drops(60, "many"), add(60)], there, frozenset(), {})
    assert [captured(one).together for one in chosen] == [True, False, False]


def test_busy_sources_and_sessions_that_failed_are_apart() -> None:
    adds = [add(number) for number in range(MANY)]
    chosen = gathered(adds, nothing(), {(None, "tap1")}, {adds[2].key: [object()]})
    apart = [captured(one).device for one in chosen if not captured(one).together]
    assert apart == ["tap1", "tap2"]


def test_there_is_a_bound_of_sessions_and_of_the_program() -> None:
    sessions = [add(number, f"s{n}-") for number in range(MANY) for n in range(MOST_MEMBERS // 4)]
    assert together(sessions) == {f"tap{number}" for number in range(4)}

    extent, fit = Extent(), 0
    while extent.instructions < most_instructions():
        extent.add(fit, on(fit + 1))
        fit += 1
    some = MANY + fit
    assert len(together([add(number, selection=on(number + 1)) for number in range(some)])) == fit
    assert len(together([add(number, selection=on(1)) for number in range(some)])) == some


def test_what_is_gathered_the_kernel_runs_exactly() -> None:
    """Where there is as little room for filters as older kernels give, too."""
    exact = []

    def attach_in_little_room() -> None:
        assert ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) == 0
        Path("/proc/sys/net/core/optmem_max").write_text("20480")
        for kind in KINDS:
            chosen = gathered([add(2 * number, selection=kind(number)) for number in range(300)], nothing(), (), {})
            wanted = [Wanted(one.index, one.selection) for one in map(captured, chosen) if one.together]
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as tap:
                exact.append((attach_wanted(tap, tuple(wanted)), len(wanted) >= 30))

    thread = threading.Thread(target=attach_in_little_room)
    thread.start()
    thread.join()
    assert exact == [(True, True)] * len(KINDS)
