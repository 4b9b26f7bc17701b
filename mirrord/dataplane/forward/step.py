"""Frames to copies: the step in the middle of every session, and the definition of what the native core must do.

It is pure: a captured frame goes in, and out come the packets to send, or the reason why there are none. It reads no
clock (a frame's capture time is the only time there is) and knows no socket. Its state is the token buckets of the two
limits, the session's sequence numbers, the flows that are limited, and what the first fragments of datagrams told.

The steps, in order: exact match (where the kernel ran a coarse filter, or rules are counted; then of the frame inside
of a tunnel's packet, where that is meant), own copies, whether copies are made at all, sampling, the flow's limit, the
frame as the wire carried it, duplicates, payload, VLAN tag off and on, snaplen, path MTU, the two limits, header.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from mirrord.dataplane.counters import MOST_REMOTES, Slot
from mirrord.dataplane.filter.rules import Selection, decide
from mirrord.dataplane.forward.connections import EVERYTHING, NOTHING, Connections, Shown
from mirrord.dataplane.forward.conversation import Conversations
from mirrord.dataplane.forward.duplicates import Duplicates
from mirrord.dataplane.forward.encap import Facts
from mirrord.dataplane.forward.flows import Flow, FlowKey, Flows, passes
from mirrord.dataplane.forward.inside import frame_inside
from mirrord.dataplane.forward.overload import Thinning
from mirrord.dataplane.forward.own_copies import Guards, OwnCopies
from mirrord.dataplane.forward.payload import hide
from mirrord.dataplane.forward.remotes import recipients
from mirrord.dataplane.frame.extent import headers_end
from mirrord.dataplane.frame.headers import Headers, flow_hash, parse
from mirrord.dataplane.frame.segment import MalformedError
from mirrord.dataplane.frame.told import EGRESS
from mirrord.dataplane.frame.wire import ADDRESSES, CLOCK_STEP_NANOSECONDS, TAG, Frame, rebuild
from mirrord.plans import ForwardPlan, OnMtuExceeded, Payload
from mirrord.protocols import ETH_HEADER, TPIDS

if TYPE_CHECKING:
    from mirrord.dataplane.transmit.recorder import Ring

SOURCE_PORTS = 49152
"""The first of the 16384 dynamic ports (RFC 6335 6) that RFC 7348 5 wants for the outer source port."""

BURST_NANOSECONDS = 20_000_000
BURST_BYTES = 65536
BURST_PACKETS = 64
"""A limit's bucket holds 20 ms of its rate, and a super-frame at least: 64 KiB, or 64 copies."""

OVERLOAD_NANOSECONDS = 100_000_000
OVERLOAD_BYTES = 1 << 20
OVERLOAD_PACKETS = 1024
"""The same where conversations give way before it is empty."""

_TPIDS = [tpid.to_bytes(2, "big") for tpid in TPIDS]

_SECOND = 1_000_000_000
"""What a bit or a copy costs: a bucket counts in nanoseconds times its rate, so that all of it are whole numbers."""


class Copy(NamedTuple):
    """One packet to send, and the flow it belongs to."""

    data: bytes
    flow: int
    trailer: bytes = b""  # of a block in a file; not counted as sent

    @property
    def source_port(self) -> int:
        """The outer UDP source port: 49152-65535, the same for both directions of a flow."""
        return SOURCE_PORTS + (self.flow >> 32 & 0x3FFF)


class Outcome(NamedTuple):
    """The copies of one frame, or why there are none; and how many of them were altered."""

    copies: tuple[Copy, ...] = ()
    reason: Slot | None = None
    truncated: int = 0  # copies cut by snaplen or the path MTU
    segmented: int = 0  # 1 when a super-frame was split
    fragmented: int = 0  # copies that leave in more than one IP fragment
    zeroed: int = 0  # copies with payload overwritten
    unfollowed: int = 0  # 1 when that is because its connection's beginning, or a part of it, was not seen
    unplaced: int = 0  # 1 for a later fragment placed by a guess: its first one is not known
    flow_table_full: int = 0  # 1 for one that passed because its flow had no place
    to: tuple[int, ...] = ()  # the places of the collectors that each of the copies is for; (0,) where there is one


@dataclass(slots=True)
class State:
    """What changes from frame to frame. Pipelines of one session and source share it, each on a thread of its own."""

    bits: int
    packets: int
    filled: int = 0  # both
    thinning: Thinning = field(default_factory=Thinning)
    lock: Lock = field(default_factory=Lock)  # of all these


class Numbering:
    """Numbers for the copies of one session, one up with each, whichever of its pipelines makes it; for each of the
    collectors that conversations are spread over its own, and behind these for each again, for egress frames with an
    id of their own: so that none is missing there.
    """

    def __init__(self) -> None:
        self.numbers: defaultdict[int, count[int]] = defaultdict(count)  # each made when it is first used
        self.row = array("I", [0] * 2 * MOST_REMOTES)  # the native core's next ones


class _Parsed(NamedTuple):
    frame: Frame
    headers: Headers


class Forward:
    """The step for one pipeline. `matches` counts the frames that each rule accepts, by its place: the rules of
    `plan.inside`, or else of `plan.exact`; `recorder` keeps the copies.
    """

    def __init__(
        self,
        plan: ForwardPlan,
        matches: array[int] | None = None,
        numbering: Numbering | None = None,
        recorder: Ring | None = None,
    ) -> None:
        self.plan, self.matches, self.recorder = plan, matches, recorder
        self._numbers = (numbering or Numbering()).numbers
        self.state = State(_bits_depth(plan), _packets_depth(plan))
        self._conversations, self._own_copies = Conversations(), OwnCopies()
        self._connections: Connections | None = None
        self._flows: Flows | None = None
        self._duplicates: tuple[Duplicates, int] | None = None

    def __call__(self, frame: Frame) -> Outcome:
        plan = self.plan
        mirrored = meant = _Parsed(frame, parse(frame.data, frame.tag))
        if plan.exact is not None and not self._accepts(plan.exact, meant, counted=plan.inside is None):
            return Outcome(reason=Slot.skipped_unmatched)
        if plan.inside is not None:
            inner = frame_inside(plan.inside, *mirrored)
            if inner is None:
                return Outcome(reason=Slot.skipped_unmatched)
            meant = _Parsed(inner, parse(inner.data))
            if not self._accepts(plan.inside.selection, meant):
                return Outcome(reason=Slot.skipped_unmatched)
        if self._own_copies(mirrored.headers, frame.data):
            return Outcome(reason=Slot.skipped_own_copy)
        if plan.blocked is not None:
            if plan.inside is None:
                self._show(*mirrored)  # what comes after is to be known
            return Outcome(reason=plan.blocked)
        if plan.inside is not None and frame.trimmed:
            return Outcome(reason=Slot.skipped_flow_limit)
        unplaced, conversation = False, 0
        if plan.overload:
            with self.state.lock:
                self.state.thinning.tick(frame.time, (plan.rate_limit, plan.packet_limit))
        if plan.sampling_rate > 1 or plan.overload or (plan.remotes and not plan.spread_all):
            conversation, unplaced = self._conversations.hash(meant.headers)
            if (conversation & 0xFFFFFFFF) % self.sampling_rate:
                return Outcome(reason=Slot.skipped_sampled_out, unplaced=unplaced)
        to = recipients(plan, conversation)
        outcome = self._sampled_in(meant if plan.inside is not None and plan.inside.strip else mirrored, meant, to)
        return outcome._replace(unplaced=unplaced | outcome.unplaced) if unplaced else outcome

    @property
    def guards(self) -> Guards:
        """What tells copies that are not mirrored again."""
        return self._own_copies.guards

    @guards.setter
    def guards(self, guards: Guards) -> None:
        self._own_copies = OwnCopies(guards, self._own_copies.firsts)

    @property
    def sampling_rate(self) -> int:
        """The one in force."""
        plan = self.plan
        return self.state.thinning.rate(plan.sampling_rate, plan.least_level) if plan.overload else plan.sampling_rate

    def press(self) -> None:
        """The ring was found half full."""
        self.state.thinning.pressed = True

    @property
    def flows(self) -> int:
        """How many flows are known."""
        return 0 if self._flows is None else len(self._flows)

    def take_skipped(self) -> dict[FlowKey, int]:
        """How many bytes of each flow its limit has skipped since this was last asked."""
        return {} if self._flows is None else self._flows.take_skipped()

    def _sampled_in(self, mirrored: _Parsed, meant: _Parsed, to: tuple[int, ...]) -> Outcome:
        """What becomes of a frame, by the flow that what is meant is of, and for these of the collectors."""
        limit, (frame, headers) = self.plan.flow_limit, meant
        hashed, shown = flow_hash(headers), self._show(*mirrored)
        if limit is None:
            self._flows = None
            if frame.trimmed:
                return Outcome(reason=Slot.skipped_flow_limit)
            return self._copied(*mirrored, hashed, shown, None, to, spent=False)
        if self._flows is None:
            self._flows = Flows()
        flow, full, guessed = self._flows.find(limit, headers, frame.data, frame.time)
        spent = flow is not None and flow.spent(limit) and not passes(headers, frame.data)
        skips = spent and not limit.headers
        if skips and flow is not None:
            self._flows.skip(flow, frame.length)
        if skips or frame.trimmed:
            return Outcome(reason=Slot.skipped_flow_limit, unplaced=guessed, flow_table_full=full)
        outcome = self._copied(*mirrored, hashed, shown, flow, to, spent=spent)
        return outcome._replace(unplaced=guessed, flow_table_full=full)

    def _copied(
        self,
        frame: Frame,
        headers: Headers,
        hashed: int,
        shown: Shown,
        flow: Flow | None,
        to: tuple[int, ...],
        *,
        spent: bool,
    ) -> Outcome:
        """The copies of a frame; when its flow is spent, of its headers alone."""
        plan = self.plan
        frame_limit, longest = plan.bounds(to)
        if len(frame.data) < ETH_HEADER:
            return Outcome(reason=Slot.dropped_malformed)
        try:
            rebuilt = rebuild(frame, headers)
        except MalformedError:
            return Outcome(reason=Slot.dropped_malformed)
        if flow is not None:
            flow.count(len(rebuilt), frame.length)
        if plan.duplicate_window and self._is_duplicate(frame, rebuilt):
            return Outcome(reason=Slot.skipped_duplicate)
        zeroed = 0
        if shown.kept is not None:
            behind = range(0, len(rebuilt) * frame.vnet.gso_size + 1, frame.vnet.gso_size or 1)
            hidden = [hide(data, parse(data), max(shown.kept - n, 0)) for data, n in zip(rebuilt, behind, strict=False)]
            zeroed = sum(one is not other for one, other in zip(hidden, rebuilt, strict=True))
            rebuilt = hidden
        frames = [self._retagged(data) for data in rebuilt]
        kept = [data[: self._snaplen(data, before)] for data, before in zip(frames, rebuilt, strict=True)]
        if spent:
            kept = [
                data[: _headers_end(whole, before)] for data, whole, before in zip(kept, frames, rebuilt, strict=True)
            ]
        limits = [self._limit(data, frame_limit) for data in frames]
        over = [limit > 0 and len(data) > limit for data, limit in zip(kept, limits, strict=True)]
        if plan.on_mtu_exceeded is OnMtuExceeded.drop and any(over):
            return Outcome(reason=Slot.dropped_mtu_exceeded)
        if plan.on_mtu_exceeded is OnMtuExceeded.truncate:
            kept = [data[:limit] if limit else data for data, limit in zip(kept, limits, strict=True)]
        if 0 < longest < max(map(len, kept)):
            return Outcome(reason=Slot.dropped_mtu_exceeded)
        each = sum(map(len, kept)) + len(kept) * len(plan.template.header)
        size = len(to) * each + len(kept) * sum(map(plan.overhead_of, to))
        if (plan.rate_limit or plan.packet_limit) and not self._take(size, len(to) * len(kept), frame.time):
            return Outcome(reason=Slot.skipped_rate_limited)
        told = frame.told
        egress = told.direction == EGRESS if told.direction else frame.egress
        vlan = headers.tags[0].vid if headers.tags else None
        place = 0 if plan.spread_all else to[0]
        numbers = self._numbers[place + (MOST_REMOTES if egress and plan.template.two_ids else 0)]
        cut = [len(frame.data) < frame.length or len(k) < len(data) for k, data in zip(kept, frames, strict=True)]
        copies = []
        for data, before, truncated in zip(kept, frames, cut, strict=True):
            original = len(before) + max(frame.length - len(frame.data), 0)
            facts = Facts(next(numbers), vlan, truncated, egress, frame.time, len(data), original, told)
            if self.recorder is not None:
                self.recorder.add(data, facts)
            copies.append(Copy(plan.template.fill(facts) + data, hashed, plan.template.trailer(facts)))
        fragmented = sum(over) if plan.on_mtu_exceeded is OnMtuExceeded.fragment else 0
        return Outcome(
            tuple(copies), None, sum(cut), int(len(copies) > 1), fragmented, zeroed, int(shown.unfollowed), to=to
        )

    def _show(self, frame: Frame, headers: Headers) -> Shown:
        """How much of the payload may leave."""
        if self.plan.payload is Payload.tls:
            self._connections = self._connections or Connections()
            return self._connections.show(frame, headers)
        self._connections = None
        return EVERYTHING if self.plan.payload is Payload.keep else NOTHING

    def watch(self, duplicates: Duplicates, place: int) -> None:
        """Remember copies there, as of this source."""
        self._duplicates = duplicates, place

    def _is_duplicate(self, frame: Frame, packets: list[bytes]) -> bool:
        if self._duplicates is None:
            return False
        seen, place = self._duplicates
        cut = max(frame.length - len(frame.data), 0)
        return seen.all_seen(packets, cut, place, frame.time, self.plan.duplicate_window)

    def _accepts(self, exact: Selection, what: _Parsed, *, counted: bool = True) -> bool:
        decision = decide(exact, what.headers, egress=what.frame.egress)
        if counted and decision.accept and self.matches and exact.rules and decision.rule:
            self.matches[exact.rules.index(decision.rule)] += 1
        return decision.accept

    def _retagged(self, data: bytes) -> bytes:
        if self.plan.strip_tag and len(data) >= ADDRESSES + TAG and data[12:14] in _TPIDS:
            data = data[:ADDRESSES] + data[ADDRESSES + TAG :]
        if self.plan.tpid and data[ADDRESSES:ETH_HEADER] in _TPIDS:
            data = data[:ADDRESSES] + self.plan.tpid.to_bytes(2, "big") + data[ADDRESSES + 2 :]
        if self.plan.push_tag:
            data = data[:ADDRESSES] + _TPIDS[0] + self.plan.push_tag.to_bytes(2, "big") + data[ADDRESSES:]
        return data[ETH_HEADER:] if self.plan.strip_ethernet else data

    def _snaplen(self, data: bytes, before: bytes) -> int | None:
        """How much is kept; None: all. `before` is the frame before its tags were changed.

        A tag that was pushed is no part of the mirrored frame.
        """
        plan = self.plan
        if plan.past_headers is not None:
            end = _headers_end(data, before)
            return None if end is None else end + plan.past_headers
        return plan.snaplen + (TAG if plan.push_tag else 0) if plan.snaplen else None

    def _limit(self, data: bytes, frame_limit: int) -> int:
        """The longest frame for the path; a device takes one 802.1Q tag over its MTU (packet_snd in the kernel)."""
        plan = self.plan
        tagged = not plan.template.header and not plan.strip_ethernet and data[12:14] == _TPIDS[0]
        return frame_limit and frame_limit + (TAG if tagged else 0)

    def _take(self, size: int, packets: int, time: int) -> bool:
        """Take a frame's bytes and copies out of the buckets: allowed while none in force is empty, so that each may
        fall below zero. A frame that one of them refuses costs the other one nothing.
        """
        state, plan = self.state, self.plan
        with state.lock:
            elapsed = time - state.filled
            state.bits = min(state.bits + max(elapsed, 0) * plan.rate_limit, _bits_depth(plan))
            state.packets = min(state.packets + max(elapsed, 0) * plan.packet_limit, _packets_depth(plan))
            if elapsed > 0 or elapsed < -CLOCK_STEP_NANOSECONDS:
                state.filled = time
            if plan.overload:
                self._see_buckets(time)
            if (plan.rate_limit and state.bits <= 0) or (plan.packet_limit and state.packets <= 0):
                if plan.overload:
                    state.thinning.refused(time)
                return False
            if plan.rate_limit:
                state.bits -= size * 8 * _SECOND
                state.thinning.take(0, size * 8 * _SECOND)
            if plan.packet_limit:
                state.packets -= packets * _SECOND
                state.thinning.take(1, packets * _SECOND)
            return True

    def _see_buckets(self, time: int) -> None:
        state, plan = self.state, self.plan
        if plan.rate_limit:
            state.thinning.see(0, state.bits, _bits_depth(plan), time)
        if plan.packet_limit:
            state.thinning.see(1, state.packets, _packets_depth(plan), time)


def _headers_end(data: bytes, before: bytes) -> int | None:
    """Where the headers of a frame end, whose tags were changed; None: nobody knows."""
    end = headers_end(before, parse(before))
    return None if end is None else end + len(data) - len(before)


def _bits_depth(plan: ForwardPlan) -> int:
    time, least = (OVERLOAD_NANOSECONDS, OVERLOAD_BYTES) if plan.overload else (BURST_NANOSECONDS, BURST_BYTES)
    return max(plan.rate_limit * time, least * 8 * _SECOND)


def _packets_depth(plan: ForwardPlan) -> int:
    time, least = (OVERLOAD_NANOSECONDS, OVERLOAD_PACKETS) if plan.overload else (BURST_NANOSECONDS, BURST_PACKETS)
    return max(plan.packet_limit * time, least * _SECOND)
