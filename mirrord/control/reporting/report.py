"""Rows -> what `status` and `mirrors` say in JSON. The names are the metrics' own, without prefix and `_total`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mirrord.control.planning.plan import Key
from mirrord.control.reporting.metrics import READ, REASONS, SIMPLE, Row
from mirrord.dataplane.counters import Slot

Counted = Mapping[Key, Sequence[int]]
"""The counters, by Slot, of sessions and sources."""

Rates = dict[Key, tuple[float, float]]
"""Mirrored frames and sent bits a second."""


def session(row: Row, rates: Rates) -> dict[str, Any]:
    """One session on one source device."""
    frames, bits = rates.get(row.entry.key, (0.0, 0.0))
    return {
        **row.entry.key._asdict(),
        "state": row.state,
        "reason": row.reason,
        "warnings": [*(row.entry.warnings if row.state == "up" else ()), *row.entry.notes],
        **row.about,
        "frames_per_second": round(frames, 1),
        "bits_per_second": round(bits, 1),
        "counters": counters(row),
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


def rates(before: Counted, after: Counted, seconds: float) -> Rates:
    """How fast each session and source counted between two looks at it."""
    return {
        key: (
            (counters[Slot.mirrored] - counted[Slot.mirrored]) / seconds,
            (counters[Slot.sent_bytes] - counted[Slot.sent_bytes]) * 8 / seconds,
        )
        for key, counters in after.items()
        if (counted := before.get(key)) is not None
    }
