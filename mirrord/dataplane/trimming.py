"""Which flows' frames the kernel keeps but the headers of: the busiest of those that have had their share.

What a limit by flow (`flow_limit`) skips is captured to be counted, so that all is accounted for, and to know that the
flow goes on. For that its headers are enough: filter/trimmed.py. The rest would be copied into a ring by the sender's
own processor, or out of a socket by the worker's, 64 KiB at a time where it is bulk TCP.

What was trimmed had had its share when it was captured, and is skipped whatever has become of the flow or the session
since (forward/step.py). So a flow that pauses is to be kept whole again before it may begin anew: each look takes out
those that have sent little since the last one, and where `idle` is shorter than LEAST_IDLE nothing is trimmed.

Not where several sessions share the capture, or several devices, since another may want the frame whole; nor where
frames are matched once more behind the kernel, and by their length when a session joins, or where their payload is read
for more than copies (`payload = "tls"`, `inside`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirrord.dataplane.filter.trimmed import can_be_trimmed
from mirrord.plans import CapturePlan, Payload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirrord.dataplane.forward.flows import FlowKey
    from mirrord.plans import PipelinePlan

MOST = 8
"""Flows at a time: the kernel's program has 226 instructions then, 33 of which a frame comes by. To make it takes the
worker 6 ms, at most once a second.
"""

LEAST = 1 << 20
"""Bytes that a flow sends between two looks, a second, for which it is trimmed; half of it, and it stays so."""

LEAST_IDLE = 5_000_000_000
"""Nanoseconds: several looks."""


def may_trim(plan: PipelinePlan) -> bool:
    """Whether headers are enough of what its limit skips, for a pipeline that is alone with its capture, where the
    kernel matches exactly.
    """
    capture, forward, limit = plan.capture, plan.forward, plan.forward.flow_limit
    if limit is None or limit.headers or limit.idle < LEAST_IDLE or not isinstance(capture, CapturePlan):
        return False
    if capture.raw or plan.count_rules_of or forward.payload is Payload.tls or forward.inside is not None:
        return False
    asked = capture.selection, *capture.selection.before
    return not any(rule.lengths for one in asked for rule in one.rules or ())


def chosen(skipped: Mapping[FlowKey, int], before: frozenset[FlowKey]) -> frozenset[FlowKey]:
    """The flows to trim from now on, of those of which so many bytes were skipped since the last look."""
    steady = {flow for flow in before if skipped.get(flow, 0) >= LEAST // 2}
    others = [flow for flow, octets in skipped.items() if octets >= LEAST and flow not in steady]
    others = sorted(filter(can_be_trimmed, others), key=lambda flow: skipped[flow], reverse=True)
    return frozenset([*steady, *others[: MOST - len(steady)]])
