"""Rows -> what `status` and `mirrors` say in JSON. The names are the metrics' own, without prefix and `_total`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mirrord.control.planning.plan import Key
from mirrord.control.reporting.metrics import READ, REASONS, SIMPLE, Row
from mirrord.dataplane.counters import Slot

Rates = dict[Key, tuple[float, float]]
"""Mirrored frames and sent bits a second."""


def session(row: Row, rates: Rates) -> dict[str, Any]:
    """One session on one source device."""
    told = (*(row.entry.warnings if row.state == "up" else ()), *row.entry.notes)
    frames, bits = rates.get(row.entry.key, (0.0, 0.0))
    return {
        **row.entry.key._asdict(),
        "state": row.state,
        "reason": row.reason,
        "warnings": [*(one.problem for one in told), *row.remarks],
        **row.about,
        "frames_per_second": round(frames, 1),
        "bits_per_second": round(bits, 1),
        "memory_bytes": row.memory,
        "counters": counters(row),
        **({} if row.flows is None else {"flows": row.flows}),
        **({} if row.sampling_rate is None else {"sampling_rate": row.sampling_rate}),
        **({} if row.clients is None else {"clients": row.clients, "queued_frames": row.queued}),
        **({"rules": {str(rule): count for rule, count in row.rules.items()}} if row.rules else {}),
    }


def counters(row: Row) -> dict[str, Any]:
    """What the row counted; directions as the session sees them."""
    counts: dict[str, Any] = {name: row.counters[slot] for name, slot, _ in SIMPLE}
    for name, (ingress, egress, _) in READ.items():
        received, sent = (egress, ingress) if row.entry.guest else (ingress, egress)
        counts[name] = {"ingress": row.counters[received], "egress": row.counters[sent]}
    for kind, (reasons, _) in REASONS.items():
        counts[f"{kind}_frames"] = {reason: row.counters[Slot[f"{kind}_{reason}"]] for reason in reasons}
    return counts


def rates(gains: Mapping[Key, Sequence[int]], seconds: float) -> Rates:
    """How fast each session and source counted between two looks at it; those that counted nothing are left out."""
    return {
        key: (max(gain[Slot.mirrored], 0) / seconds, gain[Slot.sent_bytes] * 8 / seconds) for key, gain in gains.items()
    }
