"""Frames to copies: the step in the middle of every session, and the definition of what the native core must do.

It is pure: a captured frame goes in, and out come the packets to send, or the reason why there are none. It reads no
clock (a frame's capture time is the only time there is) and knows no socket. Its state is the token bucket of a rate
limit.

The steps, in order: exact match (where the kernel ran a coarse filter), sampling, the frame as the wire carried it,
snaplen, path MTU, header, rate limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mirrord.dataplane.counters import Slot
from mirrord.dataplane.encap import Template
from mirrord.dataplane.filter import Selection, accepts
from mirrord.dataplane.frame import TAG, Frame, rebuild
from mirrord.dataplane.headers import ETH_HEADER, flow_hash, parse
from mirrord.dataplane.segment import MalformedError

SOURCE_PORTS = 49152
"""The first of the 16384 dynamic ports (RFC 6335 6) that RFC 7348 5 wants for the outer source port."""

BURST_NANOSECONDS = 20_000_000
BURST_BYTES = 65536
"""A rate limit's bucket holds 20 ms of its rate, and 64 KiB at least."""

_BYTE = 8 * 1_000_000_000
"""A byte in the bucket's unit: bits times nanoseconds a second, which makes rate times time a whole number."""


@dataclass(frozen=True, slots=True)
class ForwardPlan:
    """What becomes of a captured frame. Lengths are in bytes."""

    template: Template
    snaplen: int = 0  # of the mirrored frame, outer headers not included; 0: all
    frame_limit: int = 0  # the longest frame that the path MTU lets a copy carry; 0: no limit
    on_mtu_exceeded: str = "truncate"  # or "fragment", "drop"
    sampling_rate: int = 1  # 1 in n flows
    rate_limit: int = 0  # bits a second of sent bytes; 0: none
    overhead: int = 0  # what the kernel adds to a copy, outer Ethernet header included, counted as sent
    exact: Selection | None = None  # match it here, since the kernel ran a coarser filter


class Copy(NamedTuple):
    """One packet to send, and the flow it belongs to."""

    data: bytes
    flow: int

    @property
    def source_port(self) -> int:
        """The outer UDP source port: 49152-65535, the same for both directions of a conversation."""
        return SOURCE_PORTS + (self.flow >> 32 & 0x3FFF)


class Outcome(NamedTuple):
    """The copies of one frame, or why there are none; and how many of them were altered."""

    copies: tuple[Copy, ...] = ()
    reason: Slot | None = None
    truncated: int = 0  # copies cut by snaplen or the path MTU
    segmented: int = 0  # 1 when a super-frame was split
    fragmented: int = 0  # copies that leave in more than one IP fragment


class Forward:
    """The step for one pipeline."""

    def __init__(self, plan: ForwardPlan) -> None:
        self.plan = plan
        self._tokens = _depth(plan.rate_limit)
        self._filled = 0

    def __call__(self, frame: Frame) -> Outcome:
        plan = self.plan
        headers = parse(frame.data, frame.tag)
        if plan.exact is not None and not accepts(plan.exact, headers, egress=frame.egress):
            return Outcome(reason=Slot.skipped_unmatched)
        flow = flow_hash(headers)
        if plan.sampling_rate > 1 and (flow & 0xFFFFFFFF) % plan.sampling_rate:
            return Outcome(reason=Slot.skipped_sampled_out)
        if len(frame.data) < ETH_HEADER:
            return Outcome(reason=Slot.dropped_malformed)
        try:
            frames = rebuild(frame, headers)
        except MalformedError:
            return Outcome(reason=Slot.dropped_malformed)
        copies, truncated, fragmented = [], 0, 0
        for data in frames:
            kept = data[: plan.snaplen] if plan.snaplen else data
            limit = plan.frame_limit
            if limit and not plan.template.header and kept[12:14] == b"\x81\x00":
                limit += TAG  # a device takes one 802.1Q tag over its MTU, see packet_snd in the kernel
            if limit and len(kept) > limit:
                if plan.on_mtu_exceeded == "drop":
                    return Outcome(reason=Slot.dropped_mtu_exceeded)
                if plan.on_mtu_exceeded == "truncate":
                    kept = kept[:limit]
                else:
                    fragmented += 1
            truncated += len(kept) < len(data) or len(frame.data) < frame.length
            copies.append(Copy(plan.template.header + kept, flow))
        if plan.rate_limit and not self._take(sum(len(c.data) + plan.overhead for c in copies), frame.time):
            return Outcome(reason=Slot.skipped_rate_limited)
        return Outcome(tuple(copies), None, truncated, int(len(copies) > 1), fragmented)

    def _take(self, size: int, time: int) -> bool:
        """Take a frame's bytes out of the bucket: allowed while it is not empty, so that it may fall below zero."""
        rate = self.plan.rate_limit
        self._tokens = min(self._tokens + max(time - self._filled, 0) * rate, _depth(rate))
        self._filled = time
        if self._tokens <= 0:
            return False
        self._tokens -= size * _BYTE
        return True


def _depth(rate: int) -> int:
    return max(rate * BURST_NANOSECONDS, BURST_BYTES * _BYTE)
