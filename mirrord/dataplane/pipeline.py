"""A pipeline: one source of one session, from its capture through the forward step to its transmit.

Beside the three stand the counters of what became of each frame. Whoever runs a pipeline does all of it on one thread,
also what it is told meanwhile, so that nothing in it needs a lock.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mirrord.dataplane.capture.fanout import BY_FLOW, Group
from mirrord.dataplane.capture.listener import Listener, ListenPlan
from mirrord.dataplane.capture.mode_switch import ModeSwitch
from mirrord.dataplane.capture.packet_socket import BLOCK_SIZE, Capture, CapturePlan
from mirrord.dataplane.counters import Counters, RuleCounters, Slot
from mirrord.dataplane.forward.step import Forward, ForwardPlan, Numbering
from mirrord.dataplane.frame.wire import TAG
from mirrord.dataplane.native import core, matcher
from mirrord.dataplane.peak import Peak
from mirrord.dataplane.transmit.file import FilePlan, FileTransmit
from mirrord.dataplane.transmit.sockets import DevicePlan, Transmit, TunnelPlan
from mirrord.dataplane.transmit.stream import StreamPlan, StreamTransmit
from mirrord.dataplane.transmit.tx_ring import TxRing

if TYPE_CHECKING:
    from mirrord.dataplane.frame.wire import Frame


@dataclass(frozen=True, slots=True)
class PipelinePlan:
    """One source of one session."""

    capture: CapturePlan | ListenPlan
    forward: ForwardPlan
    transmit: DevicePlan | TunnelPlan | FilePlan | StreamPlan
    count_rules_of: str = ""  # the filter that the rules are of, to be counted; "": they are not
    workers: int = 1  # threads, which divide the source by flow


class Pipeline:
    """An open pipeline. `failure` says why no frames come ("" while they may).

    Where the plan has several workers it is one of several that divide the source: `beside` another one, whose rate
    limit it shares. They take frames when all are open and each was told to `begin`, so that a flow comes to the same
    one from its first frame on.

    A capture that may move begins as a ring when the source is known to be `busy`, else as a plain socket.

    Raises OSError, as Capture and Transmit do, when it cannot be opened.
    """

    def __init__(
        self,
        plan: PipelinePlan,
        *,
        native: bool,
        beside: Pipeline | None = None,
        numbering: Numbering | None = None,
        busy: bool = False,
    ) -> None:
        self.group: Group | None = beside.group if beside else Group(BY_FLOW) if plan.workers > 1 else None
        self.counters = Counters()
        self.rule_counters = RuleCounters()
        self.failure = ""
        self._ring_fill = Peak()
        self.transmit = _way_out(plan.transmit)
        try:
            self.capture = _open(plan.capture, self.group, busy=busy)
        except BaseException:
            self.transmit.close()
            raise
        self.stirred = True  # it ran since it was last looked at
        self.mode_switch: ModeSwitch | None = None
        if isinstance(self.capture, Capture) and self.capture.plan.mode == "auto":
            self.mode_switch = ModeSwitch(self.capture, self.counters)
        self.plan = self._matched(plan)
        numbering = numbering or Numbering()
        self._forward = Forward(self.plan.forward, self.rule_counters.row, numbering)
        self.native: Any = None  # the core's part, which closing takes away, in another thread
        self._captured = 0  # frames, when that was last looked at
        if native:
            self.native = core.Pipeline(
                self.plan.forward,
                matcher(self.plan.forward, self.rule_counters.row),
                self.capture.fileno(),
                self.capture.ring,
                BLOCK_SIZE,
                self.transmit.native(),
                self.counters.row,
                numbering.row,
                *_listens(self.capture),
                *_goes_on(self.transmit),
            )
        if beside is not None:
            self._share(beside)
        self.leave_by(self.new_tx_ring())

    def _share(self, beside: Pipeline) -> None:
        self._forward.state = beside._forward.state
        if self.native is not None:
            self.native.share(beside.native)

    def begin(self) -> None:
        """Take frames, now that all that divide the source are there. OSError when the filter cannot be had."""
        self.capture.select(self.capture.plan.selection)
        self._go_by(self.plan)

    def _matched(self, plan: PipelinePlan) -> PipelinePlan:
        """The forward step matches what the kernel could not, and what is counted. The mark only the kernel sees."""
        forward, selection = plan.forward, self.capture.plan.selection
        if isinstance(self.capture, Listener):
            self.capture.limit = max(forward.frame_limit - (TAG if forward.push_tag else 0), 0)
        self.rule_counters.begin(plan.count_rules_of, selection.rules or () if plan.count_rules_of else ())
        if self.capture.exact and not plan.count_rules_of:
            return plan
        return replace(plan, forward=replace(forward, exact=replace(selection, mark_mask=0)))

    def replace(self, plan: PipelinePlan) -> None:
        """Select and forward by a new plan from the next frame on. Ring, counters and the rate limit's bucket stay.

        The plan may differ in its selection, its forward step, a tunnel's next hop and what is counted. On the
        worker's thread, see Worker.replace.
        """
        try:
            if plan.capture.selection != self.capture.plan.selection:
                self.capture.select(plan.capture.selection)
            if isinstance(self.transmit, Transmit) and isinstance(plan.transmit, TunnelPlan):
                self.transmit.follow(plan.transmit)
        except OSError as error:
            self.failure = error.strerror or str(error)
            return
        self._go_by(plan)

    def _go_by(self, plan: PipelinePlan) -> None:
        self.plan = self._matched(plan)
        self._forward.plan, self._forward.matches = self.plan.forward, self.rule_counters.row
        if self.native is not None:
            self.native.replace(
                self.plan.forward, matcher(self.plan.forward, self.rule_counters.row), self.transmit.native()
            )

    def run(self) -> bool:
        """Forward what has been captured: at most a few blocks, so that other pipelines get their turn.

        Tells whether there is more.
        """
        if self.native is None:
            return self._run_reference()
        more = bool(self.native.run())
        self.ran()
        return more

    def ran(self) -> None:
        """See to what follows from its core's having run."""
        self.stirred = True
        if isinstance(self.capture, Listener):
            self.update()
        else:
            self._see_frames()
            self.transmit.tend()

    def _see_frames(self) -> None:
        """Where there are more frames than before, nothing keeps them away any more."""
        captured = self.counters[Slot.captured]
        if captured != self._captured:
            self._captured, self.failure = captured, ""

    def _run_reference(self) -> bool:
        self.stirred = True
        self.transmit.tend()
        if self._in_ring is not None:
            self._ring_fill.see(self._in_ring.fill(), time.monotonic())
        for frame in self.capture.read():
            self._forward_one(frame)
        self.update()
        self.note_error()  # the reading may have come upon one
        return self.counters.unaccounted() > 0

    def look(self) -> None:
        """See to what may have happened without a frame, from time to time."""
        self.stirred = False
        if self.native is not None and self._in_ring is not None:
            self._ring_fill.see(self.native.most_waiting(True) / self._in_ring.block_count, time.monotonic())
        self.update()

    def update(self) -> None:
        """Bring the count of captured frames up to date. After the last frame was read it is exact."""
        self.transmit.tend()
        captured, ring_full, malformed = self.capture.statistics()
        self.counters.add(Slot.captured, captured)
        self.counters.add(Slot.dropped_ring_full, ring_full)
        self.counters.add(Slot.dropped_malformed, malformed)
        self._see_frames()

    def _forward_one(self, frame: Frame) -> None:
        counters = self.counters
        counters.add(Slot.read_egress_frames if frame.egress else Slot.read_ingress_frames)
        counters.add(Slot.read_egress_bytes if frame.egress else Slot.read_ingress_bytes, frame.length)
        copies, reason, *altered = self._forward(frame)
        for slot, count in zip((Slot.truncated, Slot.segmented, Slot.fragmented), altered, strict=True):
            counters.add(slot, count)
        if reason is None:
            accepted, error = self.transmit.send(copies)
            counters.add(Slot.sent_packets, accepted)
            sent = sum(len(copy.data) + self.plan.forward.overhead for copy in copies[:accepted])
            counters.add(Slot.sent_bytes, sent)
            reason = self.transmit.lost(error) if error else None
        if reason is None:
            counters.observe_latency(time.time_ns() - frame.time)
        counters.add(Slot.mirrored if reason is None else reason)

    def gso_refused(self) -> int:
        """The errno that the kernel refused GSO with, after which copies leave one by one; or 0."""
        native = self.native
        return 0 if native is None else int(native.gso_refused())

    def note_error(self) -> None:
        """Ask the capture what is wrong with it."""
        error = self.capture.error()
        if error:
            self.failure = os.strerror(error)

    def drained(self) -> bool:
        """Whether every captured frame is accounted for."""
        return self.counters.unaccounted() == 0 and not self.capture.waiting()

    def quiet(self) -> bool:
        """Whether there can be no news: it did not run, and nothing of it acts by time."""
        return not self.stirred and self.capture.ring is None and not isinstance(self.transmit, FileTransmit)

    @property
    def _in_ring(self) -> Capture | None:
        capture = self.capture
        return capture if isinstance(capture, Capture) and capture.mode == "ring" else None

    @property
    def ring_fill(self) -> float | None:
        """The largest share of the ring's blocks that waited lately when it was their turn; None without a ring."""
        capture, native = self._in_ring, self.native
        if capture is None:
            return None
        lately = 0.0 if native is None else native.most_waiting(False) / capture.block_count
        return max(self._ring_fill.last(time.monotonic()), lately)

    @property
    def captures_by(self) -> str:
        """Which way of capturing is in use, where the plan leaves it open; "" where it does not."""
        return "" if self.mode_switch is None else str(self.mode_switch)

    def succeed(self) -> Capture | Listener:
        """Go on with the capture that this one moves to. Gives the one that ends, drained, for the caller to close."""
        assert self.mode_switch is not None  # it moves
        ended, self.capture = self.capture, self.mode_switch.succeed()
        if self.native is not None:
            self.native.move(self.capture.fileno(), self.capture.ring, BLOCK_SIZE)
        if self.capture.exact != ended.exact:
            self._go_by(self.plan)
        return ended

    def new_tx_ring(self) -> TxRing | None:
        """A TX ring for what leaves here, where frames come by a ring, too: then they are many. Takes long.

        The native plane's alone. None also where the copies have no use for one, or there is no memory.
        """
        busy = self.native is not None and self._in_ring is not None
        return self.transmit.new_ring() if busy and isinstance(self.transmit, Transmit) else None

    def leave_by(self, ring: TxRing | None) -> TxRing | None:
        """Send copies from this ring from now on, or from none. Gives the one before, for the caller to close."""
        if not isinstance(self.transmit, Transmit):
            return None
        before, self.transmit.ring = self.transmit.ring, ring
        if ring is not before:
            self._go_by(self.plan)
        return before

    def reject_all(self) -> None:
        """Take no more frames; those already taken can still be forwarded."""
        self.capture.reject_all()
        if self._successor is not None:
            self._successor.reject_all()

    def give_up(self) -> None:
        """Count also what a capture took that this one was to move to: it is not read any more."""
        if self._successor is not None:
            captured, ring_full, _ = self._successor.statistics()
            self.counters.add(Slot.captured, captured)
            self.counters.add(Slot.dropped_ring_full, ring_full)

    @property
    def _successor(self) -> Capture | None:
        return None if self.mode_switch is None else self.mode_switch.successor

    @property
    def exclusive(self) -> bool:
        """Whether it holds what can be held only once: an address that is listened at, a file that is written."""
        return not (isinstance(self.capture, Capture) and isinstance(self.transmit, Transmit))

    def close(self) -> None:
        if self.native is not None:
            self.native.move(-1, None, BLOCK_SIZE)  # it holds on to the ring, and others may on to it
            self.native = None
        self.capture.close()
        if self._successor is not None:
            self._successor.close()
        self.transmit.close()


def _way_out(plan: DevicePlan | TunnelPlan | FilePlan | StreamPlan) -> Transmit | FileTransmit | StreamTransmit:
    match plan:
        case FilePlan():
            return FileTransmit(plan)
        case StreamPlan():
            return StreamTransmit(plan)
        case _:
            return Transmit(plan)


def _goes_on(transmit: Transmit | FileTransmit | StreamTransmit) -> tuple[object, object]:
    """For the native core: the file's memory, None for no file, and what to call for the next file or lane."""
    return (None, transmit.lanes.native) if isinstance(transmit, Transmit) else (transmit.output, transmit.next_file)


def open_pipelines(plan: PipelinePlan, numbering: Numbering, *, native: bool, busy: bool = False) -> list[Pipeline]:
    """As many pipelines as the plan has workers, ready to run; their copies take numbers from `numbering`. `busy` as
    of Pipeline.

    OSError when one cannot be opened: then none is.
    """
    pipelines: list[Pipeline] = []
    try:
        while len(pipelines) < plan.workers:
            first = pipelines[0] if pipelines else None
            pipelines.append(Pipeline(plan, native=native, beside=first, numbering=numbering, busy=busy))
        if plan.workers > 1:
            for pipeline in pipelines:
                pipeline.begin()
    except BaseException:
        for pipeline in pipelines:
            pipeline.close()
        raise
    return pipelines


def _open(plan: CapturePlan | ListenPlan, group: Group | None, *, busy: bool) -> Capture | Listener:
    if isinstance(plan, ListenPlan):
        return Listener(plan)
    return Capture(plan, mode="ring" if busy and plan.mode == "auto" else "", group=group)


def _listens(capture: Capture | Listener) -> tuple[int, bool]:
    """For the native core: the tunnel, 0 for none, and whether its packets begin with an IP header."""
    return (capture.plan.tunnel, capture.plan.local.version == 4) if isinstance(capture, Listener) else (0, False)
