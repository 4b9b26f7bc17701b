"""Rows -> what `status` and `mirrors` say in JSON. The names are the metrics' own, without prefix and `_total`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mirrord.control.planning.plan import Key
from mirrord.control.reporting.metrics import READ, REASONS, SIMPLE, Row
from mirrord.dataplane.counters import Slot

Rates = dict[Key, tuple[float, float]]
"""Mirrored frames and sent bits a second."""

RemoteRates = Mapping[Key, Mapping[str, float]]
"""Sent bits a second by collector, of those sessions and sources that have several."""


def session(row: Row, rates: Rates, remote_rates: RemoteRates) -> dict[str, Any]:
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
        **({"remotes": list(_remotes(row, bits, remote_rates))} if row.entry.remotes else {}),
        **({} if row.flows is None else {"flows": row.flows}),
        **({} if row.sampling_rate is None else {"sampling_rate": row.sampling_rate}),
        **({} if row.clients is None else {"clients": row.clients, "queued_frames": row.queued}),
        **({"rules": {str(rule): count for rule, count in row.rules.items()}} if row.rules else {}),
    }


def _remotes(row: Row, all_bits: float, remote_rates: RemoteRates) -> Iterator[dict[str, Any]]:
    """How each of its collectors is, and what it was sent."""
    several = remote_rates.get(row.entry.key, {})
    for one in row.entry.remotes:
        packets, octets = row.sent.get(one.remote, (0, 0))
        bits = several.get(one.remote, 0.0) if len(row.entry.remotes) > 1 else all_bits
        yield {
            "remote": one.remote,
            "up": one.up,
            "reason": one.reason,
            "bits_per_second": round(bits, 1),
            "sent_packets": packets,
            "sent_bytes": octets,
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


def remote_rates(gains: Mapping[Key, Mapping[str, int]], seconds: float) -> RemoteRates:
    """The same by collector, from bytes."""
    return {key: {remote: octets * 8 / seconds for remote, octets in gained.items()} for key, gained in gains.items()}
