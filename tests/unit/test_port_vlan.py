"""Frames of a port that is in a VLAN: which tag they get, in either data plane, and what the kernel's program takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrord.dataplane.filter.bpf import compile_selection
from mirrord.dataplane.filter.rules import Direction, Rule, Selection, accepts
from mirrord.dataplane.filter.several import compile_selections
from mirrord.dataplane.frame.headers import Tag, parse
from mirrord.dataplane.frame.port_vlan import classified
from mirrord.dataplane.frame.wire import Frame
from mirrord.dataplane.native import core
from tests.support.interpreter import interpret
from tests.support.programs import METADATA
from tests.support.selections import VLANS, frames, selections

UNTAGGED = bytes(12) + b"\x08\0" + bytes(46)
PVIDS = st.sampled_from([vlan for vlan in VLANS if 0 < vlan < 4095])


@pytest.mark.parametrize(
    ("data", "tag", "expected"),
    [
        (UNTAGGED, None, Tag(0x8100, 5)),
        (UNTAGGED, Tag(0x8100, 7), Tag(0x8100, 7)),
        (UNTAGGED, Tag(0x8100, 0xE000), Tag(0x8100, 0xE005)),  # IEEE 802.1Q-2022, 6.9.1: a priority alone
        (bytes(12) + b"\x81\0\0\7" + UNTAGGED[12:], None, None),  # its tag is in its bytes
        (b"", None, Tag(0x8100, 5)),
    ],
)
def test_what_has_no_tag_is_of_the_ports_vlan(data: bytes, tag: Tag | None, expected: Tag | None) -> None:
    assert classified(Frame(data, len(data), tag=tag), 5).tag == expected


@given(data=frames(), beside=METADATA, pvid=PVIDS)
def test_the_planes_agree(data: bytes, beside: tuple[Tag | None, bool, int], pvid: int) -> None:
    frame = Frame(data, len(data), tag=beside[0])
    assert core.classify(frame=frame, pvid=pvid) == classified(frame, pvid).tag


@pytest.mark.no_cover
@given(selection=selections(), other=selections(), data=frames(), beside=METADATA, pvid=PVIDS)
def test_the_kernels_program_takes_what_the_matcher_means(
    selection: Selection, other: Selection, data: bytes, beside: tuple[Tag | None, bool, int], pvid: int
) -> None:
    tag, egress, mark = beside
    frame = classified(Frame(data, len(data), tag=tag), pvid)
    headers = parse(frame.data, frame.tag)
    wanted = [accepts(one, headers, egress=egress, mark=mark) for one in (selection, other)]
    one, both = compile_selection(selection, pvid=pvid), compile_selections((selection, other), pvid=pvid)
    assert bool(interpret(one, data, tag, egress=egress, mark=mark)) == wanted[0]
    assert bool(interpret(both, data, tag, egress=egress, mark=mark)) == any(wanted)


def test_what_comes_before_leaves_with_both_directions_where_one_is_asked_for() -> None:
    """Found by hypothesis: all that is left to ask is of one direction, what comes before takes both."""
    sent = Selection(Direction.EGRESS, before=(Selection(),))
    nothing = Selection(Direction.EGRESS, vlans=frozenset())
    assert not interpret(compile_selections((nothing, sent)), UNTAGGED, egress=True)


def test_a_vlan_is_taken_in_either_form() -> None:
    chosen = Selection(vlans=frozenset({10}))
    ruled = Selection(rules=(Rule(1, accept=True, vlan=10),))
    for selection in (chosen, ruled, replace(chosen, rules=ruled.rules)):
        program = compile_selection(selection, pvid=10)
        assert interpret(program, UNTAGGED)
        assert interpret(program, UNTAGGED, Tag(0x8100, 10))
        assert not interpret(program, UNTAGGED, Tag(0x8100, 11))
