"""One running session and source: its pipelines, the workers that run them, and the plan that they follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mirrord.control.running.totals import Counts, RuleCounts
from mirrord.control.running.workers import stall
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.pipeline import Pipeline
from mirrord.dataplane.worker import Worker
from mirrord.plans import PipelinePlan


@dataclass(slots=True)
class Running:
    """What is `placed`: a pipeline and its worker; where workers divide a source, one for each of them."""

    plan: PipelinePlan  # as made: the pipelines' own is another while they pause
    placed: list[tuple[Pipeline, Worker]]
    _sent: tuple[list[int], ...] = field(default=([], []), repr=False)  # copies, at the last two calls of `told`

    def follow(self, plan: PipelinePlan) -> None:
        """Give the pipelines another plan, which they follow soon."""
        for pipeline, worker in self.placed:
            worker.replace(pipeline, plan)

    # --- how it does ---

    @property
    def failure(self) -> str:
        """Why no frames come; "" where they do."""
        return next((pipeline.failure for pipeline, _ in self.placed if pipeline.failure), "")

    @property
    def gone(self) -> str:
        """Why nobody takes its copies any more, until when it waits; "" where somebody does, or none is asked."""
        return next((pipeline.transmit.gone for pipeline, _ in self.placed if pipeline.transmit.gone), "")

    @property
    def clients(self) -> int | None:
        """How many take its copies; None where that is not known."""
        return self.placed[0][0].transmit.clients

    @property
    def queued(self) -> int | None:
        """Frames that a client has not got yet; None where there are no clients."""
        if self.clients is None:
            return None
        return sum(pipeline.transmit.queued for pipeline, _ in self.placed)

    @property
    def trouble(self) -> str:
        """Why copies do not get out; "" where they do."""
        for pipeline, worker in self.placed:
            if failure := pipeline.transmit.failure or stall(pipeline, worker):
                return failure
        return ""

    @property
    def resumes(self) -> bool:
        """Whether copies are about to be made again: a worker has not heard of it yet, and counts frames as lost."""
        blocked = {pipeline.plan.forward.blocked for pipeline, _ in self.placed}
        return bool(blocked - {None, Slot.skipped_paused})

    @property
    def gso_refused(self) -> bool:
        """Whether the kernel refuses to cut joined copies."""
        return any(pipeline.gso_refused() for pipeline, _ in self.placed)

    @property
    def short_ring(self) -> str:
        """How much of the ring could be had, where not all of it could; else ""."""
        source = self.placed[0][0].source
        return source.short_ring if source is not None else ""

    @property
    def short_table(self) -> bool:
        """Whether there was no memory for its table of flows."""
        return any(pipeline.tables.short for pipeline, _ in self.placed)

    @property
    def short_duplicates(self) -> bool:
        """Whether there was no memory for what was copied."""
        return any(pipeline.place is not None and pipeline.place.duplicates is None for pipeline, _ in self.placed)

    @property
    def short_connections(self) -> bool:
        """Whether there was no memory for the connections that it is to follow."""
        return any(pipeline.connections.short for pipeline, _ in self.placed)

    @property
    def sampling_rate(self) -> int:
        """The one in force."""
        return max(pipeline.sampling_rate for pipeline, _ in self.placed)

    @property
    def thinned(self) -> bool:
        """Whether fewer conversations are mirrored than planned."""
        return self.sampling_rate > self.plan.forward.sampling_rate

    @property
    def short_recorder(self) -> bool:
        """Whether there was no memory for its recorder."""
        return any(pipeline.recorder.short for pipeline, _ in self.placed)

    @property
    def flows(self) -> int | None:
        """How many flows are known; None where none is limited."""
        limited = self.plan.forward.flow_limit is not None
        return sum(pipeline.flows for pipeline, _ in self.placed) if limited else None

    @property
    def captures_by(self) -> str:
        """Which way of capturing is in use, where the plan leaves it open; else ""."""
        sources = [pipeline.source for pipeline, _ in self.placed if pipeline.source is not None]
        return sources[0].captures_by if sources else ""

    @property
    def ring_fill(self) -> float | None:
        """The largest share of a ring's blocks that waited lately; None without a ring."""
        sources = [pipeline.source for pipeline, _ in self.placed if pipeline.source is not None]
        return max((fill for source in sources if (fill := source.ring_fill) is not None), default=None)

    def told(self) -> bool:
        """Whether a router has had something to say about copies since this was last asked.

        It is asked where copies have left lately: what a router says comes a while after a copy.
        """
        now = [pipeline.counters[Slot.sent_packets] for pipeline, _ in self.placed]
        last, before_last = self._sent
        self._sent = now, last
        if now == last == before_last:
            return False
        told = [pipeline.transmit.told() for pipeline, _ in self.placed]  # each is to be asked
        return any(told)

    # --- what it counts ---

    @property
    def rows(self) -> list[Sequence[int]]:
        """The live counters of each pipeline."""
        return [pipeline.counters.row for pipeline, _ in self.placed]

    def counters(self) -> list[Counts]:
        """The counters of each pipeline as they are now."""
        return [pipeline.counters.snapshot() for pipeline, _ in self.placed]

    def rule_counts(self) -> list[RuleCounts]:
        """What the rules of each pipeline matched."""
        return [pipeline.rule_counters.snapshot() for pipeline, _ in self.placed]
