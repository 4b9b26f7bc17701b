"""One running session and source: its pipelines, the workers that run them, and the plan that they follow."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import compress
from typing import NamedTuple

from mirrord.control.running.totals import Counts, RuleCounts
from mirrord.control.running.workers import stall
from mirrord.dataplane.counters import RemoteCounts, Slot
from mirrord.dataplane.memory import WHY_NOT
from mirrord.dataplane.pipeline import Pipeline
from mirrord.dataplane.source import Source
from mirrord.dataplane.worker import Worker
from mirrord.plans import PipelinePlan, RemotesPlan, TunnelPlan

NO_TABLE = f"no memory for its table of flows ({WHY_NOT}): every flow is mirrored whole"
NO_CONNECTIONS = f"no memory to follow connections in ({WHY_NOT}): all payload is zeros"
NO_RECORDER = f"no memory for its recorder ({WHY_NOT}): no frames are kept"
ALL_COPIED = f"no memory for what was copied ({WHY_NOT}): duplicates are copied, too"


class Condition(NamedTuple):
    """How a running session is, beside what it counts."""

    trouble: str = ""  # why copies do not get out
    gso_refused: bool = False  # whether the kernel refuses to cut joined copies
    thinned: int = 0  # the sampling rate in force, where fewer conversations are mirrored than planned
    short_ring: str = ""  # how much of the ring could be had, where not all of it could
    shortages: tuple[str, ...] = ()  # what there is no memory for


def remotes_of(plan: PipelinePlan) -> tuple[str, ...]:
    """The addresses of the collectors, by their places; none where copies go elsewhere."""
    transmit = plan.transmit
    if isinstance(transmit, TunnelPlan):
        return (transmit.remote,)
    return transmit.addresses if isinstance(transmit, RemotesPlan) else ()


WELL = Condition()
_SENT = int(Slot.sent_packets)


@dataclass(slots=True)
class Running:
    """What is `placed`: a pipeline and its worker; where workers divide a source, one for each of them."""

    plan: PipelinePlan  # as made: the pipelines' own is another while they pause
    placed: list[tuple[Pipeline, Worker]]
    _sent: tuple[int, int] = field(default=(-1, -1), repr=False)  # copies, at the last two calls of `told`

    # --- how it does ---

    @property
    def failure(self) -> str:
        """Why no frames come; "" where they do."""
        for pipeline, _ in self.placed:
            if failure := pipeline.failure:
                return failure
        return ""

    @property
    def gone(self) -> str:
        """Why nobody takes its copies any more, until when it waits; "" where somebody does, or none is asked."""
        for pipeline, _ in self.placed:
            if gone := pipeline.transmit.gone:
                return gone
        return ""

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
    def resumes(self) -> bool:
        """Whether copies are about to be made again: a worker has not heard of it yet, and counts frames as lost."""
        blocked = {pipeline.plan.forward.blocked for pipeline, _ in self.placed}
        return bool(blocked - {None, Slot.skipped_paused})

    def condition(self) -> Condition:
        """What may change by itself. Asked of each session each second, so it is one pass."""
        trouble, refused, rate = "", False, 0
        shortages: tuple[str, ...] = ()
        for pipeline, worker in self.placed:
            trouble = trouble or pipeline.transmit.failure or stall(pipeline, worker)
            refused = refused or pipeline.gso_refused() != 0
            rate = max(rate, pipeline.sampling_rate)
            shortages = shortages or _shortages(pipeline)
        if not (trouble or refused or shortages) and rate <= self.plan.forward.sampling_rate and not self.short_ring:
            return WELL
        thinned = rate if rate > self.plan.forward.sampling_rate else 0
        return Condition(trouble, refused, thinned, self.short_ring, shortages)

    @property
    def short_ring(self) -> str:
        """How much of the ring could be had, where not all of it could; else ""."""
        source = self.placed[0][0].source
        return source.short_ring if source is not None else ""

    @property
    def sampling_rate(self) -> int:
        """The one in force."""
        return max(pipeline.sampling_rate for pipeline, _ in self.placed)

    @property
    def waiting(self) -> int:
        """Frames of its sources that are still to be read, whichever session they are for."""
        return sum(one.source.seen.waiting for one, _ in self.placed if one.source is not None)

    @property
    def memory(self) -> int:
        """Bytes of its rings, which other sessions may share, tables, recorder, and queues."""
        rings = sum(one.source.ring_size for one, _ in self.placed if one.source is not None)
        tables = sum(one.tables.held + one.connections.held for one, _ in self.placed)
        queues = sum(one.transmit.memory for one, _ in self.placed)
        return rings + tables + queues + self.placed[0][0].recorder.size

    @property
    def flows(self) -> int | None:
        """How many flows are known; None where none is limited."""
        limited = self.plan.forward.flow_limit is not None
        return sum(pipeline.flows for pipeline, _ in self.placed) if limited else None

    @property
    def captures_by(self) -> str:
        """Which way of capturing is in use, where the plan leaves it open; else ""."""
        sources = self.sources
        return sources[0].captures_by if sources else ""

    @property
    def sources(self) -> list[Source]:
        """Where its frames are captured, which may be others' sources, too."""
        return [pipeline.source for pipeline, _ in self.placed if pipeline.source is not None]

    @property
    def ring_fill(self) -> float | None:
        """The largest share of a ring's blocks that waited lately; None without a ring."""
        return max((fill for source in self.sources if (fill := source.ring_fill) is not None), default=None)

    def told(self) -> bool:
        """Whether a router has had something to say about copies since this was last asked.

        It is asked where copies have left lately: what a router says comes a while after a copy.
        """
        now = 0
        for pipeline, _ in self.placed:
            now += pipeline.counters.row[_SENT]
        last, before_last = self._sent
        self._sent = now, last
        if now == last == before_last:
            return False
        told = [pipeline.transmit.told() for pipeline, _ in self.placed]  # each is to be asked
        return any(told)

    # --- what it counts ---

    @property
    def image(self) -> bytes:
        """The counters' memory, as it is now: the same as it was where nothing has counted."""
        if len(self.placed) > 1:
            return b"".join([pipeline.counters.row.tobytes() for pipeline, _ in self.placed])
        ((pipeline, _),) = self.placed
        return pipeline.counters.row.tobytes()

    def counters(self) -> list[Counts]:
        """The counters of each pipeline as they are now."""
        return [pipeline.counters.snapshot() for pipeline, _ in self.placed]

    def sent(self) -> list[RemoteCounts]:
        """What each pipeline sent to each collector."""
        remotes = remotes_of(self.plan)
        return [pipeline.counters.sent(remotes) for pipeline, _ in self.placed] if remotes else []

    def rule_counts(self) -> list[RuleCounts]:
        """What the rules of each pipeline matched."""
        return [pipeline.rule_counters.snapshot() for pipeline, _ in self.placed]


def _shortages(pipeline: Pipeline) -> tuple[str, ...]:
    tables, connections, recorder = pipeline.tables.short, pipeline.connections.short, pipeline.recorder.short
    copied = pipeline.place is not None and pipeline.place.duplicates is None
    if not (tables or connections or recorder or copied):
        return ()
    told = (NO_TABLE, NO_CONNECTIONS, NO_RECORDER, ALL_COPIED)
    return tuple(compress(told, (tables, connections, recorder, copied)))
