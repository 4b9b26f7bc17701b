"""The forward step of either data plane, called in one way."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import NamedTuple

from mirrord.dataplane.counters import Slot
from mirrord.dataplane.forward.own_copies import NO_GUARDS, Guards
from mirrord.dataplane.forward.step import Forward
from mirrord.dataplane.frame.headers import flow_hash, parse
from mirrord.dataplane.frame.wire import Frame
from mirrord.dataplane.native import core, matcher
from mirrord.dataplane.transmit.recorder import Ring
from mirrord.plans import ForwardPlan


class Result(NamedTuple):
    """What one frame became: an Outcome, its copies as bytes alone, and the frame's flow."""

    copies: list[bytes]
    flow: int
    reason: Slot | None
    truncated: int
    segmented: int
    fragmented: int
    zeroed: int
    unfollowed: int
    unplaced: int
    flow_table_full: int
    to: tuple[int, ...]


Step = Callable[[Frame], Result]


def step(
    plan: ForwardPlan,
    dataplane: str,
    matches: array[int] | None = None,
    ring: Ring | None = None,
    guards: Guards = NO_GUARDS,
) -> Step:
    """A new forward step, whose rate limit's bucket is full; `matches` counts by rule, `ring` keeps the copies."""
    return (_python if dataplane == "python" else _native)(plan, matches, ring, guards)


def _python(plan: ForwardPlan, matches: array[int] | None, ring: Ring | None, guards: Guards) -> Step:
    forward = Forward(plan, matches, recorder=ring)
    forward.guards = guards

    def run(frame: Frame) -> Result:
        outcome = forward(frame)
        copies, reason = outcome.copies, outcome.reason
        flow = copies[0].flow if copies else flow_hash(parse(frame.data, frame.tag))
        assert {copy.flow for copy in copies} <= {flow}
        return Result([copy.data for copy in copies], flow, reason, *outcome[2:])

    return run


def _native(plan: ForwardPlan, matches: array[int] | None, ring: Ring | None, guards: Guards) -> Step:
    forward = core.Forward(plan, matcher(plan, matches), ring)
    forward.guard(guards.packed)

    def run(frame: Frame) -> Result:
        outcome = forward(frame)
        reason = None if outcome.reason is None else Slot(outcome.reason)
        return Result(outcome.copies, outcome.flow, reason, *outcome[3:])

    return run
