"""What is planned, and how each of it does: the rows that status, metrics and the doctor show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mirrord.control.planning.plan import Entry, Key, Limit
from mirrord.control.reporting.metrics import Row
from mirrord.control.running.breaker import Verdict
from mirrord.control.running.record import Condition, Running
from mirrord.control.running.totals import Totals
from mirrord.plans import PcapPlan, RemotesPlan

THINNED = "not everything fits, conversations give way (overload)"


ANSWERED_UNORDERED = 4
"""Questions about a mirror or a session that are answered by looking at all: after that they are put in order."""


class Planned:
    """The entries that are shown, in the plan's order, by mirror and session; beside them those that have to be looked
    at each second: with a limit of the circuit breaker's, with several collectors.
    """

    def __init__(self) -> None:
        self.entries: dict[Key, Entry] = {}
        self._by_name: dict[tuple[str, ...], list[Key]] | None = None  # by mirror; by mirror and session
        self._asked = 0  # how often, since these are shown
        self._limits: dict[Key, Limit] | None = None
        self._spread: frozenset[Key] | None = None

    def show(self, entries: Mapping[Key, Entry]) -> None:
        """Show these entries from now on."""
        self.entries = dict(entries)
        self._by_name = self._limits = self._spread = None
        self._asked = 0

    @property
    def limits(self) -> Mapping[Key, Limit]:
        """The circuit breaker's, of those that have one."""
        if self._limits is None:
            self._limits = {key: entry.limit for key, entry in self.entries.items() if entry.limit}
        return self._limits

    @property
    def spread(self) -> frozenset[Key]:
        """Those whose copies are for several collectors."""
        if self._spread is None:
            planned = ((key, one.pipeline) for key, one in self.entries.items() if one.pipeline is not None)
            self._spread = frozenset(key for key, one in planned if isinstance(one.transmit, RemotesPlan))
        return self._spread

    def of(self, *names: str) -> Iterator[Entry]:
        """All; or those of a mirror, or of a mirror's session."""
        for key in self._named(names) if names else self.entries:
            if key in self.entries:
                yield self.entries[key]

    def _named(self, names: tuple[str, ...]) -> Sequence[Key]:
        if self._by_name is None:  # since there is a new plan: not each is asked about, and mostly the one that changed
            self._asked += 1
            if self._asked <= ANSWERED_UNORDERED:
                return [key for key in self.entries if key[: len(names)] == names]
            self._by_name = {}
            for key in self.entries:
                for of in (key[:1], key[:2]):
                    self._by_name.setdefault(of, []).append(key)
        return self._by_name.get(names, ())

    def mirrors(self) -> list[str]:
        """The mirrors' names."""
        return list(dict.fromkeys(key.mirror for key in self.entries))


def row(entry: Entry, runs: Running | None, error: tuple[str, str] | None, verdict: Verdict, totals: Totals) -> Row:
    """An entry as it does now. `error`: the state and the reason of one that should run and does not."""
    rules = _rules(entry, runs, totals)
    is_now = state(entry, runs, error, verdict)
    if runs is None:
        nobody = 0 if entry.pipeline is not None and isinstance(entry.pipeline.transmit, PcapPlan) else None
        sent = totals.sent_of(entry.key)
        return Row(entry, *is_now, totals.of(entry.key), rules, clients=nobody, queued=nobody, sent=sent)
    counters = totals.of(entry.key, runs.counters())
    return Row(
        entry, *is_now, counters, rules, runs.captures_by, runs.ring_fill,
        flows=runs.flows, sampling_rate=runs.sampling_rate, remarks=tuple(_remarks(runs.condition())),
        sent=totals.sent_of(entry.key, runs.sent()), memory=runs.memory, clients=runs.clients, queued=runs.queued,
    )  # fmt: skip


def state(entry: Entry, runs: Running | None, error: tuple[str, str] | None, verdict: Verdict) -> tuple[str, str]:
    """The state of an entry, and why. `error`: those of one that should run and does not."""
    if runs is None:
        if error is not None:
            return error
        return (entry.state, entry.reason) if entry.pipeline is None else ("waiting", "about to start or to end")
    trouble = runs.condition().trouble or entry.trouble
    if reason := runs.failure or trouble or ("about to go on" if runs.resumes else ""):
        waits = entry.state == "waiting" and not runs.failure  # a tunnel is received, for nobody yet
        return "waiting" if waits else "failed", reason
    return "paused" if verdict.paused else "up", verdict.reason


def _remarks(condition: Condition) -> Iterator[str]:
    yield from condition.shortages
    if condition.thinned:
        yield f"{THINNED}: of each {condition.thinned} one is mirrored"


def _rules(entry: Entry, runs: Running | None, totals: Totals) -> dict[int, int]:
    """What the rules of the session's filter matched, by priority; none where they are not counted."""
    name = entry.pipeline.count_rules_of if entry.pipeline is not None else dict(entry.about).get("filter")
    if not name:
        return {}
    counts = totals.rules_of(entry.key, runs.rule_counts() if runs is not None else ())
    return {rule: count for (of, rule), count in counts.items() if of == name}
