"""A pipeline: the frames that one session wants of one source, through the forward step to its transmit.

Where they come from is its tap's, which it may share with other sessions' pipelines, see tap.py. Beside the two stand
the counters of what became of each frame. Whoever runs a tap does all of it on one thread, also what it is told
meanwhile, so that nothing in it needs a lock.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from mirrord.dataplane.counters import Counters, RuleCounters, Slot
from mirrord.dataplane.forward.duplicates import Place
from mirrord.dataplane.forward.own_copies import NO_GUARDS, Guards
from mirrord.dataplane.forward.step import Forward, Numbering
from mirrord.dataplane.memory import Memory, Share
from mirrord.dataplane.native import core, foresee, matcher
from mirrord.dataplane.transmit.pcap_end import Ends
from mirrord.dataplane.transmit.recorder import Recorder
from mirrord.dataplane.ways_out import open_way_out
from mirrord.plans import CONNECTIONS_BYTES, FLOW_BYTES, CapturePlan, ForwardPlan, Payload, PipelinePlan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirrord.dataplane.filter.rules import Selection
    from mirrord.dataplane.forward.flows import FlowKey
    from mirrord.dataplane.forward.step import Copy
    from mirrord.dataplane.frame.wire import Frame
    from mirrord.dataplane.source import Source
    from mirrord.dataplane.transmit.tx_ring import TxRings
    from mirrord.dataplane.transmit.way_out import WayOut

ALTERED = (
    Slot.truncated,
    Slot.segmented,
    Slot.fragmented,
    Slot.zeroed,
    Slot.unfollowed,
    Slot.unplaced,
    Slot.flow_table_full,
)


class Match(NamedTuple):
    """What a pipeline's forward step has to match. `exact`: what comes is what is wanted, and only that. `shares`: what
    is not wanted is another's, and nothing to be counted; else it counts as skipped.
    """

    exact: bool
    shares: bool


class Pipeline:
    """An open pipeline. `source` is the tap where it gets its frames, once it has joined one, see tap.tap_of.

    Where the plan has several workers it is one of several, each at a tap of its own: `beside` another one, whose rate
    limit it shares. `memory` is what its tables come out of. What `recorder` keeps outlives it,
    and so does what is remembered at its `place`.

    The copies of another source of a session leave by the way of its `leader`, in the order in which frames came by the
    two: for that the same thread has to run both.

    Raises OSError when it cannot be opened.
    """

    def __init__(
        self,
        plan: PipelinePlan,
        *,
        native: bool,
        beside: Pipeline | None = None,
        numbering: Numbering | None = None,
        leader: Pipeline | None = None,
        recorder: Recorder | None = None,
        place: Place | None = None,
        memory: Memory | None = None,
        ends: Ends | None = None,
        guards: Guards = NO_GUARDS,
    ) -> None:
        self.plan, self.place = plan, place
        self._guards, self._guards_in_force = guards, NO_GUARDS
        self.recorder = recorder or Recorder(native=native)
        memory = memory or Memory()
        self.tables, self.connections = Share(memory), Share(memory)
        self._closed = False
        self.source: Source | None = None
        self.counters = Counters()
        self.rule_counters = RuleCounters()
        self._trouble = ""
        self.matches: Match | None = None
        self.native: core.Pipeline | None = None  # the core's part, which closing takes away, in another thread
        self.transmit: WayOut = (
            open_way_out(plan.transmit, ends or Ends()) if leader is None else leader.transmit.hold()
        )
        self.transmit.count_in(self.counters)
        try:
            self._set_up(plan, numbering or Numbering(), beside, leader, native=native)
        except BaseException:
            self.close()
            raise

    def _set_up(
        self,
        plan: PipelinePlan,
        numbering: Numbering,
        beside: Pipeline | None,
        leader: Pipeline | None,
        *,
        native: bool,
    ) -> None:
        self.rule_counters.begin(plan.count_rules_of, _counted(plan))
        forward = self._with_tables(plan.forward)
        self._forward = Forward(forward, self.rule_counters.row, numbering)
        if native:
            foresee(plan.forward)
            self.native = core.Pipeline(
                plan=forward,
                ways=self.transmit.native(),
                counters=self.counters.row,
                sequence=numbering.row,
                output=self.transmit.output,
                queues=self.transmit.queues,
                callback=self.transmit.callback,
            )
            if leader is not None and leader.native is not None:
                self.native.leave_with(leader.native)
        self.guard(self._guards)
        if beside is not None:
            self._share(beside)
        if self.place is not None and self.place.duplicates is not None:
            self._forward.watch(self.place.duplicates, self.place.number)
            if self.native is not None:
                self.native.watch(self.place.duplicates.native, self.place.number)

    @property
    def group(self) -> object:
        """Whose sources are to be read by the same worker; None: nobody's."""
        return None if self.place is None else self.place.group

    def _share(self, beside: Pipeline) -> None:
        self._forward.state = beside._forward.state
        if self.native is not None:
            assert beside.native is not None  # both are of one plane
            self.native.share(beside.native)

    def _with_tables(self, forward: ForwardPlan) -> ForwardPlan:
        """The step; where there is no memory, with no place in its table of flows, and with no payload at all where
        connections would have to be followed.
        """
        if not self.connections.want(CONNECTIONS_BYTES if forward.payload is Payload.tls else 0):
            forward = replace(forward, payload=Payload.zero)
        limit = forward.flow_limit
        if self.tables.want(limit.flows * FLOW_BYTES if limit else 0) or limit is None:
            return forward
        return replace(forward, flow_limit=replace(limit, flows=0))

    @property
    def selection(self) -> Selection:
        """What it wants of its source."""
        return self.plan.capture.selection

    @property
    def failure(self) -> str:
        """Why no frames come ("" while they may)."""
        return self._trouble or (self.source.failure if self.source is not None else "")

    @failure.setter
    def failure(self, reason: str) -> None:
        self._trouble = reason

    @property
    def read(self) -> int:
        """Frames that it got so far."""
        return self.counters[Slot.read_ingress_frames] + self.counters[Slot.read_egress_frames]

    def follow(self, plan: PipelinePlan) -> None:
        """Send by a new plan, which may differ in its selection, its forward step, a tunnel's next hop and what is
        counted. The tap has to be told to `match` then. OSError: it goes on by the plan before.
        """
        self.transmit.follow(plan.transmit)
        before, capture = self.plan.capture, plan.capture
        if isinstance(before, CapturePlan) and isinstance(capture, CapturePlan) and before.together != capture.together:
            plan = replace(plan, capture=replace(capture, together=before.together))  # it is captured as it was begun
        self.plan = plan

    def match(self, how: Match) -> None:
        """Forward by the plan from the next frame on. The forward step matches what the kernel did not, and what is
        counted. The mark only the kernel sees.
        """
        plan, self.matches = self.plan, how
        self.rule_counters.begin(plan.count_rules_of, _counted(plan))
        counts_here = plan.count_rules_of and plan.forward.inside is None
        exact = None if how.exact and not counts_here else replace(self.selection, mark_mask=0)
        forward = self._with_tables(plan.forward)
        self._forward.plan = forward if forward.exact == exact else replace(forward, exact=exact)
        self._forward.matches = self.rule_counters.row
        self._forward.recorder = self.recorder.ring
        if self.native is not None:
            exactly = matcher(self._forward.plan, self.rule_counters.row)
            ways, ring = self.transmit.native(), self._forward.recorder
            self.native.replace(plan=self._forward.plan, matcher=exactly, recorder=ring, ways=ways, shares=how.shares)
        self.guard(self._guards)

    def guard(self, guards: Guards) -> None:
        """Skip what these tell from the next frame on, if the plan has it so."""
        self._guards = guards
        in_force = guards if self.plan.forward.guarded else NO_GUARDS
        if in_force is self._guards_in_force:
            return
        self._guards_in_force = in_force
        if self.native is not None:
            self.native.guard(in_force.packed)
        else:
            self._forward.guards = in_force

    def block(self, reason: Slot) -> None:
        """Make no copies from now on: what is wanted counts as this."""
        self.plan = replace(self.plan, forward=replace(self.plan.forward, blocked=reason))
        if self.matches is not None:
            self.match(self.matches)

    def forward(self, frame: Frame) -> None:
        """Forward a frame of the tap, if it is wanted, and count what became of it."""
        counters = self.counters
        copies, reason, *altered, to = self._forward(frame)
        if reason is Slot.skipped_unmatched and self.matches is not None and self.matches.shares:
            return
        counters.add(Slot.captured)
        counters.add(Slot.read_egress_frames if frame.egress else Slot.read_ingress_frames)
        counters.add(Slot.read_egress_bytes if frame.egress else Slot.read_ingress_bytes, frame.length)
        for slot, count in zip(ALTERED, altered, strict=True):
            counters.add(slot, count)
        for place in to:
            lost = self._send(copies, place)
            reason = lost if reason is None else reason
        if reason is None:
            counters.observe_latency(time.time_ns() - frame.time)
        counters.add(Slot.mirrored if reason is None else reason)

    def _send(self, copies: Sequence[Copy], place: int) -> Slot | None:
        """Send to the collector at this place. What a frame counts as, one of whose copies was not accepted."""
        way, overhead = self.transmit.to(place), self.plan.forward.overhead_of(place)
        accepted, error = way.send(copies)
        self.counters.add_sent(place, accepted, sum(len(copy.data) + overhead for copy in copies[:accepted]))
        return way.lost(error) if error else None

    def lose(self, frames: int, reason: Slot = Slot.dropped_ring_full) -> None:
        """Count frames that may have been its, and that it never got."""
        self.counters.add(Slot.captured, frames)
        self.counters.add(reason, frames)

    def lose_begun(self) -> None:
        """Count as lost what its work was in the middle of when an error ended it."""
        self.counters.add(Slot.dropped_ring_full, max(self.counters.unaccounted(), 0))

    @property
    def sampling_rate(self) -> int:
        """The one in force: overload may raise it."""
        native = self.native
        return self._forward.sampling_rate if native is None else native.sampling_rate()

    def press(self) -> None:
        """The ring was found half full."""
        self._forward.press()

    @property
    def flows(self) -> int:
        """How many flows it knows, of those that a limit is for."""
        native = self.native
        return self._forward.flows if native is None else native.flows()

    def take_skipped(self) -> dict[FlowKey, int]:
        """How many bytes of each flow its limit has skipped since this was last asked; of the busiest at least."""
        if self.native is None:
            return self._forward.take_skipped()
        return {(protocol, one, other): octets for protocol, one, other, octets in self.native.take_skipped()}

    def gso_refused(self) -> int:
        """The errno that the kernel refused GSO with, after which copies leave one by one; or 0."""
        native = self.native
        return 0 if native is None else native.gso_refused()

    def new_tx_ring(self) -> TxRings | None:
        """A TX ring for what leaves here, where that pays: frames that come by a ring are many. Takes long.

        The native plane's alone. None also where the copies have no use for one, or there is no memory.
        """
        busy = self.native is not None and self.source is not None and self.source.fills_tx_rings
        return self.transmit.new_ring() if busy else None

    def leave_by(self, ring: TxRings | None) -> TxRings | None:
        """Send copies from this ring from now on, or from none. Gives the one before, for the caller to close."""
        before, self.transmit.ring = self.transmit.ring, ring
        if ring is not before and self.matches is not None:
            self.match(self.matches)
        return before

    @property
    def exclusive(self) -> bool:
        """Whether it writes to what can be open only once: a file."""
        return self.transmit.exclusive

    def close(self) -> None:
        """Close the way out. The pipeline must have left its tap."""
        if self._closed:
            return
        self._closed, self.native = True, None
        self.tables.want(0)
        self.connections.want(0)
        self.transmit.close()


def _counted(plan: PipelinePlan) -> tuple[Any, ...]:
    selection = plan.capture.selection if plan.forward.inside is None else plan.forward.inside.selection
    return selection.rules or () if plan.count_rules_of else ()


def open_pipelines(
    plan: PipelinePlan,
    numbering: Numbering,
    recorder: Recorder | None = None,
    place: Place | None = None,
    *,
    native: bool,
    leaders: Sequence[Pipeline] = (),
    memory: Memory | None = None,
    ends: Ends | None = None,
    guards: Guards = NO_GUARDS,
) -> list[Pipeline]:
    """As many pipelines as the plan has workers, each to join a tap; their copies take numbers from `numbering`, their
    tables come out of `memory`, `recorder` keeps their copies, which are remembered at `place`. They leave by the ways
    of the `leaders`, if there are any, each of whom runs on the same thread.

    OSError when one cannot be opened: then none is.
    """
    pipelines: list[Pipeline] = []
    try:
        while len(pipelines) < plan.workers:
            first = pipelines[0] if pipelines else None
            one = Pipeline(
                plan,
                native=native,
                beside=first,
                numbering=numbering,
                leader=leaders[len(pipelines)] if leaders else None,
                recorder=recorder,
                place=place,
                memory=memory,
                ends=ends,
                guards=guards,
            )
            pipelines.append(one)
    except BaseException:
        for pipeline in pipelines:
            pipeline.close()
        raise
    return pipelines
