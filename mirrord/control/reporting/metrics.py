"""Prometheus's view of the counters, made at each scrape (DESIGN section 5 names every series).

Nothing is kept here: a scrape reads the slots that the workers write, so a metric costs the data plane nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mirrord import __version__
from mirrord.control.planning.plan import Entry
from mirrord.control.reporting.exposition import Family, labels
from mirrord.dataplane.counters import DROPPED, LATENCY_BOUNDS, SKIPPED, Slot
from mirrord.plans import ListenPlan


@dataclass(frozen=True, slots=True)
class Row:
    """One session on one source device: what was planned, how it does, and its counters since the daemon's start."""

    entry: Entry
    state: str
    reason: str
    counters: Sequence[int]  # by Slot
    rules: Mapping[int, int] = field(default_factory=dict)  # frames by priority; of accept rules that are counted
    capture: str = ""  # how frames are captured now, where that is not for the plan to say
    ring_fill: float | None = None  # None where there is no ring
    flows: int | None = None  # that are known; None where none is limited
    sampling_rate: int | None = None  # in force; None where it does not run
    clients: int | None = None  # of a stream; None where there is none, or it does not run
    queued: int | None = None  # frames that wait for a client to take them; None: the same
    remarks: tuple[str, ...] = ()  # what is not as planned
    sent: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # copies and bytes, by a tunnel's collector
    memory: int = 0  # bytes of its rings, which others may share, tables and recorder

    @property
    def about(self) -> dict[str, str]:
        """The session in words."""
        about = dict(self.entry.about)
        return about | {"capture": self.capture} if self.capture else about


@dataclass(slots=True)
class Reload:
    """How the last reload went."""

    successful: bool = True
    succeeded_at: float = 0.0  # seconds since 1970
    problems: list[str] = field(default_factory=list)


class WorkerState(NamedTuple):
    """How the workers do."""

    stalled: int = 0  # make no progress now
    failures: int = 0  # errors that ended a session's work, or a worker
    used: float = 0.0  # seconds of processor time
    rested: float = 0.0  # seconds that they rested for cpu_limit
    cpu_limit: float = 0.0  # processors; 0: none
    memory: int = 0  # bytes of all rings, tables and recorders
    memory_limit: int = 0  # 0: none
    left_out: int = 0  # frames that there was no room for during rests, of the sources that there are


# name without prefix and `_total`, slot, help
SIMPLE = (
    ("captured_frames", Slot.captured, "Frames that passed the filter, those the ring had no room for included."),
    ("mirrored_frames", Slot.mirrored, "Frames all of whose copies were accepted by the queue, driver or file."),
    ("sent_packets", Slot.sent_packets, "Copies accepted."),
    ("sent_bytes", Slot.sent_bytes, "Bytes of accepted copies, outer Ethernet header included, FCS not."),
    ("truncated_frames", Slot.truncated, "Copies cut to the snaplen or to the path MTU."),
    ("segmented_frames", Slot.segmented, "Super-frames split into the frames that the wire carried."),
    ("fragmented_frames", Slot.fragmented, "Copies sent in outer IP fragments."),
    ("zeroed_frames", Slot.zeroed, "Copies whose payload was overwritten with zeros, or a part of it."),
    ("unfollowed_frames", Slot.unfollowed, "Frames of these whose TCP connection was not seen from its SYN on."),
    ("unplaced_frames", Slot.unplaced, "Later fragments placed by addresses alone: their first one was not seen."),
    ("flow_table_full", Slot.flow_table_full, "Frames that flow_limit let pass because their flow found no place."),
)
READ = {
    "read_frames": (Slot.read_ingress_frames, Slot.read_egress_frames, "Frames taken out of the ring or socket."),
    "read_bytes": (Slot.read_ingress_bytes, Slot.read_egress_bytes, "Bytes of frames taken out of the ring or socket."),
}
REASONS = {
    "skipped": (SKIPPED, "Frames left out on purpose."),
    "dropped": (DROPPED, "Frames lost."),
}


class Counts:
    """Every series about sessions, the build and the last reload."""

    def __init__(
        self,
        rows: Callable[[], Sequence[Row]],
        reload: Reload,
        dataplane: str,
        rules: Callable[[], Mapping[tuple[str, int], int]] = dict,
        workers: Callable[[], WorkerState] = WorkerState,
        lost: Callable[[], Mapping[str, int]] = dict,
        ends: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self._rows, self._reload, self._dataplane, self._rules = rows, reload, dataplane, rules
        self._workers, self._lost, self._ends = workers, lost, ends

    def collect(self) -> Iterator[Family]:
        rows = self._rows()
        heads = [labels(row.entry.key._asdict())[:-1] for row in rows]  # more labels may follow
        yield from _counters(rows, heads)
        yield _capture_lost(self._lost())
        yield _rule_matches(self._rules())
        yield _latency(rows, heads)
        up = (f"mirrord_session_up{head}}} {row.state == 'up':d}" for row, head in zip(rows, heads, strict=True))
        yield Family("mirrord_session_up", "gauge", "1 running, 0 waiting or failed.", up)
        yield from _remotes(rows, heads)
        yield _missing(rows, heads)
        yield _bypassed(rows, heads)
        yield _ring_fill(rows, heads)
        yield _flows(rows, heads)
        yield _sampling_rate(rows, heads)
        yield from _streams(rows, heads)
        ends = (
            f"mirrord_mirror_expires_timestamp_seconds{labels({'mirror': n})} {at!r}" for n, at in self._ends().items()
        )
        yield Family("mirrord_mirror_expires_timestamp_seconds", "gauge", "When a mirror ends, or has ended.", ends)
        about = (
            {**row.entry.key._asdict(), "state": row.state, "reason": row.reason, **dict(row.entry.about)}
            for row in rows
        )
        yield _info("mirrord_session", "How a session does, and what it was told to do.", about)
        build = {"version": __version__, "dataplane": self._dataplane}
        yield _info("mirrord_build", "The running program; dataplane is native or python.", [build])
        workers = self._workers()
        yield _gauge("mirrord_worker_stalled", "Workers that make no progress.", workers.stalled)
        name, text = "mirrord_worker_failures", "Errors that ended a session's work, or a worker; it was begun anew."
        yield Family(name, "counter", text, [f"{name}_total {workers.failures}"])
        yield from _costs(workers)
        yield _gauge(
            "mirrord_config_last_reload_successful",
            "Whether the last configuration reload was taken over.",
            int(self._reload.successful),
        )
        yield _gauge(
            "mirrord_config_last_reload_success_timestamp_seconds",
            "When a configuration was last taken over.",
            self._reload.succeeded_at,
        )


def _costs(workers: WorkerState) -> Iterator[Family]:
    for name, text, seconds in (
        ("mirrord_worker_cpu_seconds", "Processor time of all workers.", workers.used),
        ("mirrord_worker_rested_seconds", "How long workers rested since they had used up cpu_limit.", workers.rested),
    ):
        yield Family(name, "counter", text, [f"{name}_total {seconds!r}"])
    yield _gauge("mirrord_cpu_limit_cores", "daemon.cpu_limit, in processors; 0: none.", workers.cpu_limit)
    yield _gauge("mirrord_memory_bytes", "Memory of all rings, tables and recorders.", workers.memory)
    yield _gauge("mirrord_memory_limit_bytes", "daemon.memory_limit; 0: none.", workers.memory_limit)


def _gauge(name: str, text: str, value: float) -> Family:
    return Family(name, "gauge", text, [f"{name} {value!r}"])


def _info(name: str, text: str, series: Iterable[dict[str, str]]) -> Family:
    return Family(name, "info", text, (f"{name}_info{labels(one)} 1" for one in series))


def _counters(rows: Sequence[Row], heads: Sequence[str]) -> Iterator[Family]:
    both = list(zip(rows, heads, strict=True))
    for name, slot, text in SIMPLE:
        lines = (f"mirrord_{name}_total{head}}} {row.counters[slot]}" for row, head in both)
        yield Family(f"mirrord_{name}", "counter", text, lines)
    for name, (ingress, egress, text) in READ.items():
        yield Family(f"mirrord_{name}", "counter", text, _read(f"mirrord_{name}_total", both, (ingress, egress)))
    for kind, (reasons, text) in REASONS.items():
        slots = [(reason, Slot[f"{kind}_{reason}"]) for reason in reasons]
        lines = (
            f'mirrord_{kind}_frames_total{head},reason="{reason}"}} {row.counters[slot]}'
            for row, head in both
            for reason, slot in slots
        )
        yield Family(f"mirrord_{kind}_frames", "counter", text, lines)


def _capture_lost(lost: Mapping[str, int]) -> Family:
    name = "mirrord_capture_lost_frames"
    text = "Frames of a source that there was no room for, each once, whichever sessions they were for."
    lines = [f"{name}_total{labels({'source': source})} {count}" for source, count in sorted(lost.items())]
    return Family(name, "counter", text, lines)


def _read(name: str, rows: Sequence[tuple[Row, str]], slots: tuple[Slot, Slot]) -> Iterator[str]:
    for row, head in rows:
        received, sent = reversed(slots) if row.entry.guest else slots  # as the session sees it
        yield f'{name}{head},direction="ingress"}} {row.counters[received]}'
        yield f'{name}{head},direction="egress"}} {row.counters[sent]}'


def _rule_matches(rules: Mapping[tuple[str, int], int]) -> Family:
    name = "mirrord_rule_matched_frames"
    text = "Frames that an accept rule was the first to match, of all sessions with count_rules; before sampling."
    counted = sorted(rules.items())
    lines = [f"{name}_total{labels({'filter': of, 'rule': str(rule)})} {count}" for (of, rule), count in counted]
    return Family(name, "counter", text, lines)


def _latency(rows: Sequence[Row], heads: Sequence[str]) -> Family:
    name = "mirrord_forward_latency_seconds"
    return Family(name, "histogram", "Capture time to send.", _buckets(name, zip(rows, heads, strict=True)))


def _buckets(name: str, rows: Iterable[tuple[Row, str]]) -> Iterator[str]:
    bounds = [*(repr(bound / 1e9) for bound in LATENCY_BOUNDS), "+Inf"]
    for row, head in rows:
        below = 0
        for bound, count in zip(bounds, row.counters[Slot.latency_bucket :], strict=True):
            below += count
            yield f'{name}_bucket{head},le="{bound}"}} {below}'
        yield f"{name}_count{head}}} {below}"
        yield f"{name}_sum{head}}} {row.counters[Slot.latency_sum] / 1e9!r}"


def _remotes(rows: Sequence[Row], heads: Sequence[str]) -> Iterator[Family]:
    both = list(zip(rows, heads, strict=True))
    name = "mirrord_remote_up"
    up = (f'{name}{head},remote="{one.remote}"}} {one.up:d}' for row, head in both for one in row.entry.remotes)
    yield Family(name, "gauge", "1 while a tunnel's collector is alive, as far as its liveness tells.", up)
    name = "mirrord_remote_sent_packets"
    sent = (
        f'{name}_total{head},remote="{one.remote}"}} {row.sent.get(one.remote, (0, 0))[0]}'
        for row, head in both
        for one in row.entry.remotes
    )
    yield Family(name, "counter", "Copies accepted for a tunnel's collector.", sent)


def _missing(rows: Sequence[Row], heads: Sequence[str]) -> Family:
    name = "mirrord_tunnel_missing_packets"
    text = "Packets of a tunnel source that did not come, by the numbers in those that did."
    numbered = (
        (row, head)
        for row, head in zip(rows, heads, strict=True)
        if row.entry.pipeline is not None
        and isinstance(row.entry.pipeline.capture, ListenPlan)
        and row.entry.pipeline.capture.tunnel.numbers
    )
    lines = (f"{name}_total{head}}} {row.counters[Slot.missing]}" for row, head in numbered)
    return Family(name, "counter", text, lines)


def _bypassed(rows: Sequence[Row], heads: Sequence[str]) -> Family:
    name = "mirrord_source_bypassed"
    text = (
        "1 where frames of the source do not come to the tap (XDP, SR-IOV, ...): a warning of the session says which."
    )
    both = zip(rows, heads, strict=True)
    return Family(name, "gauge", text, (f"{name}{head}}} {row.entry.bypassed:d}" for row, head in both))


def _ring_fill(rows: Sequence[Row], heads: Sequence[str]) -> Family:
    name = "mirrord_ring_fill_ratio"
    text = "The largest share of a ring's blocks that waited to be read, in the last 15 to 30 seconds."
    both = zip(rows, heads, strict=True)
    lines = (f"{name}{head}}} {row.ring_fill!r}" for row, head in both if row.ring_fill is not None)
    return Family(name, "gauge", text, lines)


def _flows(rows: Sequence[Row], heads: Sequence[str]) -> Family:
    name = "mirrord_flow_table_flows"
    both = zip(rows, heads, strict=True)
    lines = (f"{name}{head}}} {row.flows}" for row, head in both if row.flows is not None)
    return Family(name, "gauge", "Flows that are known, of a session with flow_limit.", lines)


def _sampling_rate(rows: Sequence[Row], heads: Sequence[str]) -> Family:
    name = "mirrord_sampling_rate"
    both = zip(rows, heads, strict=True)
    lines = (f"{name}{head}}} {row.sampling_rate}" for row, head in both if row.sampling_rate is not None)
    return Family(name, "gauge", "One in so many conversations is mirrored now: what is planned, or more.", lines)


def _streams(rows: Sequence[Row], heads: Sequence[str]) -> Iterator[Family]:
    both = list(zip(rows, heads, strict=True))
    name, text = "mirrord_stream_clients", "Clients that take the copies of a pcap destination."
    yield Family(
        name, "gauge", text, (f"{name}{head}}} {row.clients}" for row, head in both if row.clients is not None)
    )
    name = "mirrord_queued_frames"
    text = "Frames that count as mirrored, and that a client of the pcap destination has not got yet."
    yield Family(name, "gauge", text, (f"{name}{head}}} {row.queued}" for row, head in both if row.queued is not None))
