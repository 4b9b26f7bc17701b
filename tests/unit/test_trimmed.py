"""What the kernel keeps of frames whose flows are through, and which flows these are."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrord.dataplane.filter.bpf import attach_program, compile_selection
from mirrord.dataplane.filter.rules import Selection, accepts
from mirrord.dataplane.filter.trimmed import can_be_trimmed, trimmed
from mirrord.dataplane.forward.flows import FlowKey, flow_key, passes
from mirrord.dataplane.frame.headers import parse
from mirrord.dataplane.frame.wire import TRIMMED
from mirrord.dataplane.trimming import LEAST, MOST, chosen
from tests.support.programs import Pair
from tests.support.selections import frames, selections

PADDING = bytes(TRIMMED)
"""Behind each frame, so that there is something to leave out."""


@pytest.mark.no_cover  # measuring takes longer than the test
@given(selection=selections(), sent=st.lists(frames(), min_size=2, max_size=8), data=st.data())
def test_the_kernel_keeps_the_headers_of_these_flows(
    pair: Pair, selection: Selection, sent: list[bytes], data: st.DataObject
) -> None:
    known = {key for one in sent if can_be_trimmed(key := flow_key(parse(one)))}
    flows = data.draw(st.sets(st.sampled_from(sorted(known)))) if known else set()
    assert attach_program(pair.far, trimmed(compile_selection(selection), flows))
    for one in sent:
        whole = one + PADDING
        headers = parse(whole)
        through = headers.source_port is not None and flow_key(headers) in flows and not passes(headers, whole)
        wanted = None if not accepts(selection, headers, egress=False) else whole[:TRIMMED] if through else whole
        assert pair.kept(whole) == wanted, whole.hex()


def test_a_later_fragment_and_what_has_no_ports_are_no_flow_to_trim() -> None:
    ends = (b"\x0a\0\0\1", 1000), (b"\x0a\0\0\2", 53)
    assert can_be_trimmed((17, *ends))
    assert not can_be_trimmed((1, *ends))
    assert not can_be_trimmed((17, (b"\x0a\0\0\1", 0), (b"\x0a\0\0\2", 0)))


def flow(number: int) -> FlowKey:
    return 17, (IPv4Address(number).packed, 1), (IPv4Address(1 << 31).packed, 1)


def test_the_busiest_are_chosen_and_stay_until_they_send_little() -> None:
    skipped = {flow(n): LEAST + n for n in range(2 * MOST)}
    first = chosen(skipped, frozenset())
    assert first == {flow(n) for n in range(MOST, 2 * MOST)}
    others_busier = {**{flow(n): 9 * LEAST for n in range(MOST)}, **dict.fromkeys(first, LEAST // 2)}
    assert chosen(others_busier, first) == first
    assert chosen({flow(0): LEAST, flow(1): LEAST - 1, flow(MOST): LEAST // 2 - 1}, first) == {flow(0)}
    assert chosen({}, first) == frozenset()
