"""Pipelines, and the threads that run them.

A pipeline is one source of one session: a capture, a forward step, a transmit, and the counters of what became of
each frame. A worker is a thread that waits for all of its pipelines at once and runs those that have frames. What it
is told (a pipeline to add or to take out) it does itself, between two rounds, so that nothing in a pipeline needs a
lock.

To take a pipeline out is to reject everything first, then to forward what was already captured, then to close:
nothing is lost uncounted.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mirrord.dataplane.capture import BLOCK_SIZE, Capture, CapturePlan
from mirrord.dataplane.counters import Counters, Slot
from mirrord.dataplane.file import FilePlan, FileTransmit
from mirrord.dataplane.forward import Forward, ForwardPlan
from mirrord.dataplane.frame import TAG
from mirrord.dataplane.listen import Listener, ListenPlan
from mirrord.dataplane.native import core, program
from mirrord.dataplane.stream import StreamPlan, StreamTransmit
from mirrord.dataplane.transmit import DevicePlan, Transmit, TunnelPlan

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirrord.dataplane.frame import Frame

DRAIN_SECONDS = 0.5
"""How long a pipeline that is taken out may go on with what it had captured."""

ROUND_SECONDS = 1.0
"""The longest wait of a worker, after which it looks at the statistics of every pipeline."""


@dataclass(frozen=True, slots=True)
class PipelinePlan:
    """One source of one session."""

    capture: CapturePlan | ListenPlan
    forward: ForwardPlan
    transmit: DevicePlan | TunnelPlan | FilePlan | StreamPlan


class Pipeline:
    """An open pipeline. `failure` says why no frames come ("" while they may).

    Raises OSError, as Capture and Transmit do, when it cannot be opened.
    """

    def __init__(self, plan: PipelinePlan, *, native: bool) -> None:
        self.counters = Counters()
        self.failure = ""
        self.transmit = _way_out(plan.transmit)
        try:
            self.capture = _open(plan.capture)
        except BaseException:
            self.transmit.close()
            raise
        self.plan = replace(plan, forward=self._matched(plan.forward))
        self._forward = Forward(self.plan.forward)
        self._native = None
        if native:
            self._native = core.Pipeline(
                self.plan.forward,
                program(self.plan.forward),
                self.capture.fileno(),
                self.capture.ring,
                BLOCK_SIZE,
                tuple(sock.fileno() for sock in self.transmit.sockets),
                self.counters.row,
                *_listens(self.capture),
                *(() if isinstance(self.transmit, Transmit) else (self.transmit.output, self.transmit.next_file)),
            )

    def _matched(self, forward: ForwardPlan) -> ForwardPlan:
        """The forward step matches what the kernel could not. The mark it cannot see; the coarse filter did."""
        if isinstance(self.capture, Listener):
            self.capture.limit = max(forward.frame_limit - (TAG if forward.push_tag else 0), 0)
        if self.capture.exact:
            return forward
        return replace(forward, exact=replace(self.capture.plan.selection, mark_mask=0))

    def replace(self, plan: PipelinePlan) -> None:
        """Select and forward by a new plan from the next frame on. Ring, counters and the rate limit's bucket stay.

        The plan may differ in its selection and its forward step only. On the worker's thread, see Worker.replace.
        """
        try:
            if plan.capture.selection != self.capture.plan.selection:
                self.capture.select(plan.capture.selection)
        except OSError as error:
            self.failure = error.strerror or str(error)
            return
        self.plan = replace(plan, forward=self._matched(plan.forward))
        self._forward.plan = self.plan.forward
        if self._native is not None:
            self._native.replace(self.plan.forward, program(self.plan.forward))

    def run(self) -> None:
        """Forward what has been captured: at most a few blocks, so that other pipelines get their turn."""
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

    def note_error(self) -> None:
        """Ask the capture what is wrong with it."""
        error = self.capture.error()
        if error:
            self.failure = os.strerror(error)

    def drained(self) -> bool:
        """Whether every captured frame is accounted for."""
        return self.counters.unaccounted() == 0 and not self.capture.waiting()

    def close(self) -> None:
        self._native = None  # it holds on to the ring
        self.capture.close()
        self.transmit.close()


def _way_out(plan: DevicePlan | TunnelPlan | FilePlan | StreamPlan) -> Transmit | FileTransmit | StreamTransmit:
    match plan:
        case FilePlan():
            return FileTransmit(plan)
        case StreamPlan():
            return StreamTransmit(plan)
        case _:
            return Transmit(plan)


def _open(plan: CapturePlan | ListenPlan) -> Capture | Listener:
    return Listener(plan) if isinstance(plan, ListenPlan) else Capture(plan)


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
        self._epoll.close()
        os.close(self._bell)

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.put(order)
        os.eventfd_write(self._bell, 1)

    def _add(self, pipeline: Pipeline) -> None:
        self.pipelines.append(pipeline)
        self._by_descriptor[pipeline.capture.fileno()] = pipeline
        self._epoll.register(pipeline.capture.fileno(), select.EPOLLIN)

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
            events = self._epoll.poll(0.001 if self._draining else ROUND_SECONDS)
            self.progress = time.monotonic()
            for descriptor, event in events:
                if descriptor == self._bell:
                    os.eventfd_read(self._bell)
                    continue
                pipeline = self._by_descriptor[descriptor]
                if event & select.EPOLLERR:
                    pipeline.note_error()
                pipeline.run()
            if self.progress >= look_at:
                look_at = self.progress + ROUND_SECONDS
                for pipeline in self.pipelines:
                    pipeline.update()
            while not self._orders.empty():
                self._orders.get()()
            self._finish_drained()

    def _finish_drained(self) -> None:
        for pipeline, (deadline, done) in list(self._draining.items()):
            pipeline.update()
            if pipeline.drained() or self.progress >= deadline:
                del self._draining[pipeline]
                del self._by_descriptor[pipeline.capture.fileno()]
                self._epoll.unregister(pipeline.capture.fileno())
                self.pipelines.remove(pipeline)
                pipeline.close()
                done.set()
