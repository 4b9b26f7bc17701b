"""Pipelines, and the threads that run them.

A pipeline is one source of one session: a capture, a forward step, a transmit, and the counters of what became of
each frame. A worker is a thread that waits for all of its pipelines at once and runs those that have frames. What it
is told (a pipeline to add or to take out) it does itself, between two rounds, so that nothing in a pipeline needs a
lock.

To take a pipeline out is to reject everything first, then to forward what was already captured, then to close:
nothing is lost uncounted. To open and to close a capture takes the kernel milliseconds, so a second thread, the
worker's helper, does it while frames go on.

A capture that moves ("auto") is forwarded to its end, while its successor holds what comes meanwhile.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mirrord.dataplane.capture import BLOCK_SIZE, Capture, CapturePlan
from mirrord.dataplane.counters import Counters, RuleCounters, Slot
from mirrord.dataplane.fanout import BY_FLOW, Group
from mirrord.dataplane.file import FilePlan, FileTransmit
from mirrord.dataplane.forward import Forward, ForwardPlan
from mirrord.dataplane.frame import TAG
from mirrord.dataplane.listen import Listener, ListenPlan
from mirrord.dataplane.load import Load
from mirrord.dataplane.native import core, matcher
from mirrord.dataplane.peak import Peak
from mirrord.dataplane.stream import StreamPlan, StreamTransmit
from mirrord.dataplane.transmit import DevicePlan, Transmit, TunnelPlan

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrord.dataplane.frame import Frame

DRAIN_SECONDS = 0.5
"""How long a pipeline that is taken out may go on with what it had captured."""

ROUND_SECONDS = 1.0
"""The longest wait of a worker, after which it looks at every pipeline that may have news."""

RETRY_SECONDS = 10.0
"""How long after a failure a capture is tried to be moved again."""


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
    limit and sequence numbers it shares. They take frames when all are open and each was told to `begin`, so that a
    flow comes to the same one from its first frame on.

    Raises OSError, as Capture and Transmit do, when it cannot be opened.
    """

    def __init__(self, plan: PipelinePlan, *, native: bool, beside: Pipeline | None = None) -> None:
        self.group: Group | None = beside.group if beside else Group(BY_FLOW) if plan.workers > 1 else None
        self.counters = Counters()
        self.rule_counters = RuleCounters()
        self.failure = ""
        self._ring_fill = Peak()
        self.transmit = _way_out(plan.transmit)
        try:
            self.capture = _open(plan.capture, self.group)
        except BaseException:
            self.transmit.close()
            raise
        self.stirred = True  # it ran since it was last looked at
        self.trouble = ""  # why its capture could not be moved
        self._successor: Capture | None = None
        self._stays_until = 0.0
        self._load = Load(self.counters, time.monotonic())
        self.plan = self._matched(plan)
        self._forward = Forward(self.plan.forward, self.rule_counters.row)
        self._native = None
        if native:
            self._native = core.Pipeline(
                self.plan.forward,
                matcher(self.plan.forward, self.rule_counters.row),
                self.capture.fileno(),
                self.capture.ring,
                BLOCK_SIZE,
                self.transmit.native(),
                self.counters.row,
                *_listens(self.capture),
                *(() if isinstance(self.transmit, Transmit) else (self.transmit.output, self.transmit.next_file)),
            )
        if beside is not None:
            self._share(beside)

    def _share(self, beside: Pipeline) -> None:
        self._forward.state = beside._forward.state
        if self._native is not None:
            self._native.share(beside._native)

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
        if self._native is not None:
            self._native.replace(
                self.plan.forward, matcher(self.plan.forward, self.rule_counters.row), self.transmit.native()
            )

    def run(self) -> None:
        """Forward what has been captured: at most a few blocks, so that other pipelines get their turn."""
        self.stirred = True
        if self._in_ring is not None:
            self._ring_fill.see(self._in_ring.fill(), time.monotonic())
        self.transmit.tend()
        if self._native is not None:
            self._native.run()
        else:
            for frame in self.capture.read():
                self._forward_one(frame)
        self.update()

    def update(self) -> None:
        """Bring the count of captured frames up to date. After the last frame was read it is exact."""
        self.transmit.tend()
        captured, ring_full, malformed = self.capture.statistics()
        if captured:
            self.failure = ""
        self.counters.add(Slot.captured, captured)
        self.counters.add(Slot.dropped_ring_full, ring_full)
        self.counters.add(Slot.dropped_malformed, malformed)

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
        native = self._native  # which close() takes away, in another thread
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
        return None if self._in_ring is None else self._ring_fill.last(time.monotonic())

    # --- a capture that moves ---

    def _movable(self) -> Capture | None:
        capture = self.capture
        return capture if isinstance(capture, Capture) and capture.plan.mode == "auto" else None

    @property
    def captures_by(self) -> str:
        """Which way of capturing is in use, where the plan leaves it open; "" where it does not."""
        capture = self._movable()
        if capture is None:
            return ""
        return f"auto ({capture.mode}{f', cannot move: {self.trouble}' if self.trouble else ''})"

    @property
    def moves_to(self) -> str:
        """The mode of capture that it is to move to; "" to stay."""
        capture, now = self._movable(), time.monotonic()
        if capture is None or self._successor is not None or now < self._stays_until:
            return ""
        mode = self._load.fitting(capture.mode, now)
        return "" if mode == capture.mode else mode

    def prepare(self, mode: str) -> Capture:
        """Open the capture to move to, which gets all frames from now on. OSError; takes long: not for the worker."""
        capture = self._movable()
        assert capture is not None  # moves_to said so
        return capture.successor(mode)

    def expect(self, successor: Capture) -> None:
        """The capture gets no more frames, this one does. OSError when it cannot take what the other was told."""
        self._successor = successor
        capture = self._movable()
        assert capture is not None  # moves_to said so
        successor.follow(capture)

    def stay(self, reason: str) -> None:
        """The capture could not be moved."""
        self.trouble, self._stays_until = reason, time.monotonic() + RETRY_SECONDS

    def succeed(self) -> Capture | Listener:
        """Go on with the successor. Gives the capture that ends, drained, for the caller to close."""
        assert self._successor is not None  # expected
        ended, self.capture, self._successor = self.capture, self._successor, None
        self.trouble = ""
        self._load.moved(time.monotonic())
        if self._native is not None:
            self._native.move(self.capture.fileno(), self.capture.ring, BLOCK_SIZE)
        if self.capture.exact != ended.exact:
            self._go_by(self.plan)
        return ended

    def close(self) -> None:
        if self._native is not None:
            self._native.move(-1, None, BLOCK_SIZE)  # it holds on to the ring, and others may on to it
            self._native = None
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


def open_pipelines(plan: PipelinePlan, *, native: bool) -> list[Pipeline]:
    """As many pipelines as the plan has workers, ready to run. OSError when one cannot be opened: then none is."""
    pipelines: list[Pipeline] = []
    try:
        while len(pipelines) < plan.workers:
            pipelines.append(Pipeline(plan, native=native, beside=pipelines[0] if pipelines else None))
        if plan.workers > 1:
            for pipeline in pipelines:
                pipeline.begin()
    except BaseException:
        for pipeline in pipelines:
            pipeline.close()
        raise
    return pipelines


def _open(plan: CapturePlan | ListenPlan, group: Group | None) -> Capture | Listener:
    return Listener(plan) if isinstance(plan, ListenPlan) else Capture(plan, group=group)


def _listens(capture: Capture | Listener) -> tuple[int, bool]:
    """For the native core: the tunnel, 0 for none, and whether its packets begin with an IP header."""
    return (capture.plan.tunnel, capture.plan.local.version == 4) if isinstance(capture, Listener) else (0, False)


class Worker:
    """A thread that runs pipelines. `progress` is the monotonic time of its last round, for a watchdog."""

    def __init__(self, name: str, nice: int = 0) -> None:
        self.pipelines: list[Pipeline] = []
        self.progress = time.monotonic()
        self._nice = nice
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._bell, select.EPOLLIN)
        self._by_descriptor: dict[int, Pipeline] = {}
        self._draining: dict[Pipeline, tuple[float, threading.Event]] = {}
        self._awaited: set[Pipeline] = set()  # a successor of their capture is being opened
        self._succeeding: set[Pipeline] = set()  # it is there; their capture is read to its end
        self._helper = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-helper")
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, pipeline: Pipeline) -> None:
        """Run this pipeline from now on."""
        self._order(lambda: self._add(pipeline))

    def replace(self, pipeline: Pipeline, plan: PipelinePlan) -> None:
        """Have a pipeline go on by another plan, soon."""
        self._order(lambda: pipeline.replace(plan))

    def remove(self, pipeline: Pipeline) -> None:
        """Capture no more, forward what was captured, close. Returns when that is done, within a second."""
        done = threading.Event()
        self._order(lambda: self._drain(pipeline, done))
        while not done.wait(DRAIN_SECONDS) and self._thread.is_alive():
            pass

    def stop(self) -> None:
        """Remove every pipeline and end the thread."""
        for pipeline in list(self.pipelines):
            self.remove(pipeline)
        self._order(self._stop)
        self._thread.join()
        self._helper.shutdown()
        self._epoll.close()
        os.close(self._bell)

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.put(order)
        os.eventfd_write(self._bell, 1)

    def _add(self, pipeline: Pipeline) -> None:
        self.pipelines.append(pipeline)
        self._register(pipeline)

    def _drain(self, pipeline: Pipeline, done: threading.Event) -> None:
        pipeline.capture.reject_all()
        self._draining[pipeline] = (time.monotonic() + DRAIN_SECONDS, done)

    def _stop(self) -> None:
        self._stopping = True

    def _loop(self) -> None:
        look_at = self.progress
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # no system call here is to be interrupted
        if self._nice:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._nice)
        while not self._stopping:
            events = self._epoll.poll(0.001 if self._draining or self._succeeding else ROUND_SECONDS)
            self.progress = time.monotonic()
            for descriptor, event in events:
                if descriptor == self._bell:
                    os.eventfd_read(self._bell)
                    continue
                pipeline = self._by_descriptor[descriptor]
                if event & select.EPOLLERR:
                    pipeline.update()  # first count what was captured before: what comes after clears the error
                    pipeline.note_error()
                pipeline.run()
                self._move(pipeline)
            if self.progress >= look_at:
                look_at = self.progress + ROUND_SECONDS
                self._look_round()
            while not self._orders.empty():
                self._orders.get()()
            self._finish_succeeding()
            self._finish_drained()

    def _look_round(self) -> None:
        for pipeline in self.pipelines:
            if not pipeline.quiet():
                pipeline.stirred = False
                pipeline.update()
                self._move(pipeline)

    def _move(self, pipeline: Pipeline) -> None:
        """Begin to move its capture, if that is the time."""
        mode = "" if pipeline in self._awaited or pipeline in self._draining else pipeline.moves_to
        if mode:
            self._awaited.add(pipeline)
            self._helper.submit(self._open_successor, pipeline, mode)

    def _open_successor(self, pipeline: Pipeline, mode: str) -> None:
        """On the helper's thread, after the one that this capture came after was closed."""
        try:
            successor = pipeline.prepare(mode)
        except OSError as error:
            reason = error.strerror or str(error)
            self._order(lambda: self._stay(pipeline, reason))
        else:
            self._order(lambda: self._expect(pipeline, successor))

    def _stay(self, pipeline: Pipeline, reason: str) -> None:
        self._awaited.discard(pipeline)
        pipeline.stay(reason)

    def _expect(self, pipeline: Pipeline, successor: Capture) -> None:
        self._awaited.discard(pipeline)
        self._succeeding.add(pipeline)
        try:
            pipeline.expect(successor)
        except OSError as error:
            pipeline.failure = error.strerror or str(error)

    def _finish_succeeding(self) -> None:
        for pipeline in list(self._succeeding):
            pipeline.update()
            if not pipeline.drained():
                continue
            self._succeeding.discard(pipeline)
            self._unregister(pipeline)
            ended = pipeline.succeed()
            self._register(pipeline)
            self._helper.submit(ended.close)

    def _register(self, pipeline: Pipeline) -> None:
        self._by_descriptor[pipeline.capture.fileno()] = pipeline
        self._epoll.register(pipeline.capture.fileno(), select.EPOLLIN)

    def _unregister(self, pipeline: Pipeline) -> None:
        del self._by_descriptor[pipeline.capture.fileno()]
        self._epoll.unregister(pipeline.capture.fileno())

    def _finish_drained(self) -> None:
        for pipeline, (deadline, done) in list(self._draining.items()):
            if pipeline in self._awaited:
                continue
            pipeline.update()
            drained = pipeline.drained() and pipeline not in self._succeeding
            if drained or self.progress >= deadline:
                del self._draining[pipeline]
                self._succeeding.discard(pipeline)
                self._unregister(pipeline)
                self.pipelines.remove(pipeline)
                self._helper.submit(self._close, pipeline, done)

    @staticmethod
    def _close(pipeline: Pipeline, done: threading.Event) -> None:
        try:
            pipeline.close()
        finally:
            done.set()
