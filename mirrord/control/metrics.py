"""Prometheus's view of the counters, made at each scrape (DESIGN section 5 names every series).

Nothing is kept here: a scrape reads the slots that the workers write, so a metric costs the data plane nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.aiohttp import make_aiohttp_handler
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from mirrord import __version__
from mirrord.control.plan import Entry
from mirrord.dataplane.counters import DROPPED, LATENCY_BOUNDS, SKIPPED, Slot

LABELS = ("mirror", "session", "source")


@dataclass(frozen=True, slots=True)
class Row:
    """One session on one source device: what was planned, how it does, and its counters since the daemon's start."""

    entry: Entry
    state: str
    reason: str
    counters: Sequence[int]  # by Slot
    rules: Mapping[int, int] = field(default_factory=dict)  # frames by priority; of accept rules that are counted
    capture: str = ""  # how frames are captured now, where that is not for the plan to say

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


# name without prefix and `_total`, slot, help
SIMPLE = (
    ("captured_frames", Slot.captured, "Frames that passed the filter, those the ring had no room for included."),
    ("mirrored_frames", Slot.mirrored, "Frames all of whose copies were accepted by the queue, driver or file."),
    ("sent_packets", Slot.sent_packets, "Copies accepted."),
    ("sent_bytes", Slot.sent_bytes, "Bytes of accepted copies, outer Ethernet header included, FCS not."),
    ("truncated_frames", Slot.truncated, "Copies cut to the snaplen or to the path MTU."),
    ("segmented_frames", Slot.segmented, "Super-frames split into the frames that the wire carried."),
    ("fragmented_frames", Slot.fragmented, "Copies sent in outer IP fragments."),
)
READ = {
    "read_frames": (Slot.read_ingress_frames, Slot.read_egress_frames, "Frames taken out of the ring or socket."),
    "read_bytes": (Slot.read_ingress_bytes, Slot.read_egress_bytes, "Bytes of frames taken out of the ring or socket."),
}
REASONS = {
    "skipped": (SKIPPED, "Frames left out on purpose."),
    "dropped": (DROPPED, "Frames lost."),
}


class Counts(Collector):
    """Every series about sessions, the build and the last reload."""

    def __init__(
        self,
        rows: Callable[[], Sequence[Row]],
        reload: Reload,
        dataplane: str,
        rules: Callable[[], Mapping[tuple[str, int], int]] = dict,
    ) -> None:
        self._rows, self._reload, self._dataplane, self._rules = rows, reload, dataplane, rules

    def collect(self) -> Iterator[Metric]:
        rows = self._rows()
        yield from _counters(rows)
        yield _rule_matches(self._rules())
        yield _latency(rows)
        yield from _sessions(rows)
        yield InfoMetricFamily(
            "mirrord_build",
            "The running program; dataplane is native or python.",
            {"version": __version__, "dataplane": self._dataplane},
        )
        yield GaugeMetricFamily(
            "mirrord_config_last_reload_successful",
            "Whether the last configuration reload was taken over.",
            int(self._reload.successful),
        )
        yield GaugeMetricFamily(
            "mirrord_config_last_reload_success_timestamp_seconds",
            "When a configuration was last taken over.",
            self._reload.succeeded_at,
        )


def _labels(row: Row) -> list[str]:
    return list(row.entry.key)


def _counters(rows: Sequence[Row]) -> Iterator[Metric]:
    for name, slot, text in SIMPLE:
        family = CounterMetricFamily(f"mirrord_{name}", text, labels=LABELS)
        for row in rows:
            family.add_metric(_labels(row), row.counters[slot])
        yield family
    for name, (ingress, egress, text) in READ.items():
        family = CounterMetricFamily(f"mirrord_{name}", text, labels=(*LABELS, "direction"))
        for row in rows:
            received, sent = (egress, ingress) if row.entry.guest else (ingress, egress)  # as the session sees it
            family.add_metric([*_labels(row), "ingress"], row.counters[received])
            family.add_metric([*_labels(row), "egress"], row.counters[sent])
        yield family
    for kind, (reasons, text) in REASONS.items():
        family = CounterMetricFamily(f"mirrord_{kind}_frames", text, labels=(*LABELS, "reason"))
        for row in rows:
            for reason in reasons:
                family.add_metric([*_labels(row), reason], row.counters[Slot[f"{kind}_{reason}"]])
        yield family


def _rule_matches(rules: Mapping[tuple[str, int], int]) -> Metric:
    text = "Frames that an accept rule was the first to match, of all sessions with count_rules; before sampling."
    family = CounterMetricFamily("mirrord_rule_matched_frames", text, labels=("filter", "rule"))
    for (name, priority), count in sorted(rules.items()):
        family.add_metric([name, str(priority)], count)
    return family


def _latency(rows: Sequence[Row]) -> Metric:
    bounds = [*(repr(bound / 1e9) for bound in LATENCY_BOUNDS), "+Inf"]
    family = HistogramMetricFamily("mirrord_forward_latency_seconds", "Capture time to send.", labels=LABELS)
    for row in rows:
        buckets, below = [], 0
        for bound, count in zip(bounds, row.counters[Slot.latency_bucket :], strict=True):
            below += count
            buckets.append((bound, float(below)))
        family.add_metric(_labels(row), buckets, row.counters[Slot.latency_sum] / 1e9)
    return family


def _sessions(rows: Sequence[Row]) -> Iterator[Metric]:
    up = GaugeMetricFamily("mirrord_session_up", "1 running, 0 waiting or failed.", labels=LABELS)
    info = InfoMetricFamily("mirrord_session", "How a session does, and what it was told to do.", labels=LABELS)
    for row in rows:
        up.add_metric(_labels(row), int(row.state == "up"))
        info.add_metric(_labels(row), {"state": row.state, "reason": row.reason, **row.about})
    yield up
    yield info


def application(counts: Counts) -> web.Application:
    """The web application that serves `/metrics`, in OpenMetrics to who asks for it."""
    registry = CollectorRegistry()
    registry.register(counts)
    ProcessCollector(registry=registry)
    app = web.Application()
    app.router.add_get("/metrics", make_aiohttp_handler(registry))
    return app
