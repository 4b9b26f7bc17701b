"""What is planned, and how each of it does: the rows that status, metrics and the doctor show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mirrord.control.planning.plan import Entry, Key
from mirrord.control.reporting.metrics import Row
from mirrord.control.reporting.report import Counted
from mirrord.control.running.breaker import Verdict
from mirrord.control.running.record import Condition, Running
from mirrord.control.running.totals import Totals
from mirrord.dataplane.counters import Slot

_MIRRORED, _SENT_BYTES, _TOO_LARGE = int(Slot.mirrored), int(Slot.sent_bytes), int(Slot.dropped_mtu_exceeded)


THINNED = "not everything fits, conversations give way (overload)"


class Planned:
    """The entries that are shown, in the plan's order, by mirror and session."""

    def __init__(self) -> None:
        self.entries: dict[Key, Entry] = {}
        self._by_name: dict[tuple[str, ...], list[Key]] = {}  # by mirror; by mirror and session

    def show(self, entries: Mapping[Key, Entry]) -> None:
        """Show these entries from now on."""
        self.entries, self._by_name = dict(entries), {}
        for key in entries:
            for names in (key[:1], key[:2]):
                self._by_name.setdefault(names, []).append(key)

    def of(self, *names: str) -> Iterator[Entry]:
        """All; or those of a mirror, or of a mirror's session."""
        for key in self._by_name.get(names, ()) if names else self.entries:
            if key in self.entries:
                yield self.entries[key]

    def mirrors(self) -> list[str]:
        """The mirrors' names."""
        return list(dict.fromkeys(key.mirror for key in self.entries))


def row(entry: Entry, runs: Running | None, error: tuple[str, str] | None, verdict: Verdict, totals: Totals) -> Row:
    """An entry as it does now. `error`: the state and the reason of one that should run and does not."""
    rules = _rules(entry, runs, totals)
    if runs is None:
        counters = totals.of(entry.key)
        if error is not None:
            return Row(entry, *error, counters, rules)
        if entry.pipeline is not None:
            return Row(entry, "waiting", "about to start or to end", counters, rules)
        return Row(entry, entry.state, entry.reason, counters, rules)
    condition = runs.condition()
    reason = runs.failure or condition.trouble or entry.trouble or ("about to go on" if runs.resumes else "")
    state = "failed" if reason else "paused" if verdict.paused else "up"
    counters = totals.of(entry.key, runs.counters())
    return Row(
        entry, state, reason or verdict.reason, counters, rules, runs.captures_by, runs.ring_fill,
        flows=runs.flows, sampling_rate=runs.sampling_rate, remarks=tuple(_remarks(condition)),
        memory=runs.memory,
    )  # fmt: skip


def _remarks(condition: Condition) -> Iterator[str]:
    yield from condition.shortages
    if condition.thinned:
        yield f"{THINNED}: of each {condition.thinned} one is mirrored"


def counted(key: Key, runs: Running | None, totals: Totals) -> Counted:
    """Of what a session and source has counted, what is looked at every second."""
    counters = totals.of(key, runs.rows if runs is not None else ())
    return Counted(counters[_MIRRORED], counters[_SENT_BYTES], counters[_TOO_LARGE])


def _rules(entry: Entry, runs: Running | None, totals: Totals) -> dict[int, int]:
    """What the rules of the session's filter matched, by priority; none where they are not counted."""
    name = entry.pipeline.count_rules_of if entry.pipeline is not None else dict(entry.about).get("filter")
    if not name:
        return {}
    counts = totals.rules_of(entry.key, runs.rule_counts() if runs is not None else ())
    return {rule: count for (of, rule), count in counts.items() if of == name}
