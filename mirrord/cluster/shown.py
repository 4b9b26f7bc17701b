"""How a host does with its part of the cluster: what goes into its status record, and what `status` shows. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mirrord.cluster.derive import DESTINATION, Half, Part
from mirrord.cluster.records import RECEIVING, SessionKey
from mirrord.cluster.snapshot import Unread

MOST_SESSIONS = 1000
"""Of one status record, which is small: those that do not run come first."""

MOST_UNREAD = 50


class Shown(NamedTuple):
    """A half of a session on a source device of a host. Frames are since the daemon's start."""

    mirror: str
    session: str
    side: str
    source: str
    state: str  # up, waiting, failed, paused; refused by the daemon
    reason: str
    destination: str = ""
    mirrored: int = 0
    dropped: int = 0
    frames_per_second: float = 0.0
    bits_per_second: float = 0.0

    def without_counters(self) -> tuple[str, ...]:
        return self[:-4]


def shown_of(written: Any) -> Shown | None:
    """What another host wrote of a half; None for what is none of it."""
    if not isinstance(written, dict) or written.keys() != set(Shown._fields):
        return None
    texts, numbers = Shown._fields[:-4], Shown._fields[-4:]
    good = all(isinstance(written[key], str) for key in texts)
    good = good and all(isinstance(written[key], int | float) for key in numbers)
    return Shown(**written) if good else None


class HostState(NamedTuple):
    """All that a host has; `left_out` says how many sessions more it has than are listed; `states` counts all."""

    sessions: tuple[Shown, ...]
    unread: tuple[Unread, ...]
    left_out: int
    states: Mapping[str, int]


def host_state(
    part: Part,
    refused: Iterable[Mapping[str, Any]],
    look: Mapping[str, Any],
    unread: Sequence[Unread],
    daemon_problem: str,
) -> HostState:
    """From what was derived, what the daemon left out, its status, and why it has none."""
    rows: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in look.get("sessions", []):
        rows.setdefault((row["mirror"], row["session"]), []).append(row)
    why = {(one.get("mirror") or one.get("name"), one.get("name")): str(one.get("message", "")) for one in refused}
    silent = daemon_problem or "the daemon has not said yet how it does"
    found = [one for half in part.halves for one in _half(half, rows, why, silent)]
    found.sort(key=lambda one: one.state == "up")
    left_out = max(len(found) - MOST_SESSIONS, 0)
    states = Counter(one.state for one in found)
    return HostState(tuple(found[:MOST_SESSIONS]), tuple(unread[:MOST_UNREAD]), left_out, states)


def _half(
    half: Half, rows: Mapping[tuple[str, str], list[Mapping[str, Any]]], why: Mapping[tuple[Any, Any], str], silent: str
) -> Iterable[Shown]:
    name = f"{half.session}{RECEIVING}" if half.side == DESTINATION else half.session
    bare = Shown(half.mirror, half.session, half.side, "", "waiting", half.reason)
    refused = why.get((half.mirror, name)) or why.get((half.mirror, half.mirror))
    if half.reason:
        yield bare
    elif refused:
        yield bare._replace(state="refused", reason=refused)
    elif not rows.get((half.mirror, name)):
        yield bare._replace(reason=silent)
    else:
        for row in rows[half.mirror, name]:
            counters = row["counters"]
            dropped = sum(counters["dropped_frames"].values())
            told = row["reason"] or "; ".join(row["warnings"])
            yield bare._replace(
                source=row["source"],
                state=row["state"],
                reason=told,
                destination=str(row.get("destination", "")),
                mirrored=counters["mirrored_frames"],
                dropped=dropped,
                frames_per_second=row["frames_per_second"],
                bits_per_second=row["bits_per_second"],
            )


def received(look: Mapping[str, Any]) -> dict[SessionKey, int]:
    """How many frames came for each session whose destination half is here."""
    found: dict[SessionKey, int] = {}
    for row in look.get("sessions", []):
        if row["session"].endswith(RECEIVING):
            key = row["mirror"], row["session"].removesuffix(RECEIVING)
            found[key] = found.get(key, 0) + row["counters"]["captured_frames"]
    return found
