"""What is wanted of several devices: the program for a socket on all of them against the matcher."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrord.dataplane.filter.by_device import Asked, Extent, Wanted, attach_wanted, compile_wanted
from mirrord.dataplane.filter.rules import Direction, Rule, Selection, accepts
from mirrord.dataplane.frame.headers import Tag, parse
from tests.support.interpreter import interpret
from tests.support.programs import METADATA, Pair, steps
from tests.support.selections import MARK, frames, selections
from tests.support.send import FRAME

DEVICES = st.sampled_from([1, 2, 3, 5, 9, 300, (1 << 31) - 1])


@pytest.mark.no_cover
@given(
    wanted=st.lists(st.builds(Wanted, DEVICES, selections()), min_size=1, max_size=6, unique=True),
    alike=st.booleans(),
    sent=st.lists(st.tuples(DEVICES, frames(), METADATA), min_size=1, max_size=5),
)
def test_each_device_gets_what_is_wanted_of_it(
    pair: Pair, wanted: list[Wanted], *, alike: bool, sent: list[tuple[int, bytes, tuple[Tag | None, bool, int]]]
) -> None:
    if alike:  # as a daemon makes them, with one mark
        wanted = [Wanted(device, replace(one, mark_mask=MARK)) for device, one in wanted]
    program = compile_wanted(tuple(wanted))
    for device, data, (tag, egress, mark) in sent:
        headers = parse(data, tag)
        those = [selection for index, selection in wanted if index == device]
        expected = any(accepts(one, headers, egress=egress, mark=mark) for one in those)
        assert bool(interpret(program, data, tag, egress=egress, mark=mark, device=device)) == expected, data.hex()
    attach_wanted(pair.far, tuple(wanted))  # and the kernel takes it


def on(n: int, **more: object) -> Selection:
    """The usual ones: a port of TCP, a prefix, a VLAN."""
    rules = (
        Rule(1, accept=True, protocol=6, destination_ports=((1000 + n, 1000 + n),)),
        Rule(1, accept=True, sources=(IPv4Network((n << 16, 16)),)),
        Rule(1, accept=True, vlan=n),
    )
    return replace(Selection(rules=(rules[n % 3],), mark=MARK, mark_mask=MARK), **more)  # type: ignore[arg-type]


def each_its_own(count: int) -> Asked:
    return tuple(Wanted(10 + 2 * n, on(n)) for n in range(count))


def test_a_filter_more_is_tens_of_instructions() -> None:
    three, many = compile_wanted(each_its_own(3)), compile_wanted(each_its_own(53))
    assert len(many) - len(three) < 50 * 20
    assert steps(many, FRAME) < 12  # of a device that nobody mirrors


def test_devices_that_are_mirrored_alike_share_all() -> None:
    one = compile_wanted((Wanted(10, on(1)),))
    assert len(compile_wanted(tuple(Wanted(10 + n, on(1)) for n in range(200)))) == len(one)
    ingress, egress = on(1, direction=Direction.INGRESS), on(1, direction=Direction.EGRESS)
    assert len(compile_wanted((Wanted(10, ingress), Wanted(11, egress)))) < len(one) + 16


@pytest.mark.parametrize("count", [1, 10, 100])
def test_the_extent_is_told_before(count: int) -> None:
    for wanted in (each_its_own(count), tuple(Wanted(10 + 2 * n, Selection()) for n in range(count))):
        extent = Extent()
        for device, selection in wanted:
            extent.add(device, selection)
        length = len(compile_wanted(wanted))
        assert length <= extent.instructions + 10 < 1.5 * length + 30
