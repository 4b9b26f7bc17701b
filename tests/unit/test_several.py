"""What several selections take together: the program against the matcher, by the kernel and in Python."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from mirrord.dataplane.filter.bpf import compile_selection
from mirrord.dataplane.filter.rules import Direction, Rule, Selection, accepts
from mirrord.dataplane.filter.several import attach, compile_selections, compile_sets
from mirrord.dataplane.frame.headers import Tag, parse
from tests.support.interpreter import interpret
from tests.support.programs import METADATA, Pair, steps
from tests.support.selections import MARK, frames, selections


def alike(several: list[Selection]) -> tuple[Selection, ...]:
    """As a daemon makes them: one mark, and one that comes before another."""
    first = several[0]
    made = [replace(one, mark_mask=first.mark_mask) for one in several]
    return (*made, replace(made[-1], before=(replace(made[0], before=()),)))


@pytest.mark.no_cover
@given(
    several=st.lists(selections(), min_size=1, max_size=5),
    similar=st.booleans(),
    sent=st.lists(st.tuples(frames(), METADATA), min_size=1, max_size=8),
)
def test_any_of_them(
    pair: Pair, several: list[Selection], *, similar: bool, sent: list[tuple[bytes, tuple[Tag | None, bool, int]]]
) -> None:
    wanted = alike(several) if similar else tuple(several)
    program = compile_selections(wanted)
    attached = attach(pair.far, *wanted)
    for data, (tag, egress, mark) in sent:
        headers = parse(data, tag)
        expected = any(accepts(one, headers, egress=egress, mark=mark) for one in wanted)
        assert bool(interpret(program, data, tag, egress=egress, mark=mark)) == expected, data.hex()
        if tag is None and not egress and not mark:  # a Unix socket has nothing beside the bytes
            assert pair.passes(data) == expected or not (attached or expected), data.hex()


@pytest.mark.no_cover
@given(
    several=st.lists(selections(), min_size=1, max_size=8),
    similar=st.booleans(),
    sent=st.lists(st.tuples(frames(), METADATA), min_size=1, max_size=8),
)
def test_whose_a_frame_may_be(
    several: list[Selection], *, similar: bool, sent: list[tuple[bytes, tuple[Tag | None, bool, int]]]
) -> None:
    wanted = alike(several) if similar else tuple(several)
    program, sets = compile_sets(wanted)
    for data, (tag, egress, _) in sent:
        headers = parse(data, tag)
        want = {n for n, one in enumerate(wanted) if accepts(one, headers, egress=egress)}
        candidates = sets[interpret(program, data, tag, egress=egress)]
        assert want <= {one.place for one in candidates}, data.hex()
        assert {one.place for one in candidates if one.certain} <= want, data.hex()


def test_few_are_asked_of_many() -> None:
    many = tuple(on_port(1000 + 7 * n) for n in range(400))
    program, sets = compile_sets(many)
    for port in (9, 1000, 1007, 2400, 60000):
        frame = tcp_frame(("02:00:00:00:00:01", "10.0.0.1", 9), ("02:00:00:00:00:02", "10.0.0.2", port))
        assert len(sets[interpret(program, frame)]) <= 4
        assert steps(program, frame) < 80


def test_who_asks_nothing_wants_a_frame_for_certain() -> None:
    every = (replace(on_port(80), rules=None),) * 2
    program, sets = compile_sets(every)
    frame = tcp_frame(("02:00:00:00:00:01", "10.0.0.1", 9), ("02:00:00:00:00:02", "10.0.0.2", 80))
    assert sets[interpret(program, frame)] == ((0, True), (1, True))


def tcp_frame(source: tuple[str, str, int], destination: tuple[str, str, int]) -> bytes:
    (source_mac, source_address, source_port), (mac, address, port) = source, destination
    layers = Ether(src=source_mac, dst=mac) / IP(src=source_address, dst=address) / TCP(sport=source_port, dport=port)
    return bytes(layers)


def cost(several: tuple[Selection, ...], port: int) -> int:
    """How many instructions a frame to this port takes."""
    ends = ("02:00:00:00:00:01", "10.0.0.1", 9), ("02:00:00:00:00:02", "10.0.0.2", port)
    return steps(compile_selections(several), tcp_frame(*ends))


def on_port(port: int, **more: object) -> Selection:
    rule = Rule(1, accept=True, protocol=6, destination_ports=((port, port),))
    selection = Selection(rules=(rule,), mark=MARK, mark_mask=MARK)
    return replace(selection, **more)  # type: ignore[arg-type]


def test_its_cost_does_not_grow_with_the_number_of_sessions() -> None:
    one, fifty, many = (tuple(on_port(1000 + 7 * n) for n in range(count)) for count in (1, 50, 400))
    alone = cost(one, 9)
    assert cost(fifty, 9) <= alone + 8
    assert cost(many, 9) <= alone + 12


@pytest.mark.parametrize(
    "more",
    [
        {"direction": Direction.INGRESS},
        {"vlans": frozenset({5})},
        {"rules": (Rule(1, True, sources=(IPv4Network("10.0.0.0/8"),)),)},
    ],
    ids=["direction", "vlan", "prefix"],
)
def test_a_session_of_another_kind_adds_a_few_steps(more: dict[str, object]) -> None:
    fifty = tuple(on_port(1000 + 7 * n) for n in range(50))
    assert cost((*fifty, on_port(9, **more)), 10) <= cost(fifty, 10) + 16


def test_what_another_takes_anyway_is_not_asked_about() -> None:
    first, second = on_port(80), on_port(443)
    assert compile_selections((first, replace(second, before=(first,)))) == compile_selections((first, second))
    assert compile_selections((first, first)) == compile_selection(first)
