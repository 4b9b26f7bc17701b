"""What sessions have counted whose pipelines have ended: their totals never go backwards. Pure.

A session counts on where its device is re-created or its configuration changes. Names that never come again, as of
containers' devices, would fill the memory: of those only the last ones are remembered.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence

from mirrord.control.planning.plan import Key
from mirrord.dataplane.counters import SLOTS, RemoteCounts

REMEMBERED = 1000
"""Of how many devices that a pattern brought in and that are gone the totals are kept, should they come again."""

NOTHING = (0,) * SLOTS

Counts = tuple[int, ...]
"""Counters by Slot."""

RuleCounts = dict[tuple[str, int], int]
"""Frames by a rule's filter and priority."""


class Totals:
    """The totals of ended pipelines by session and source, the one that ended last at the end."""

    def __init__(self) -> None:
        self._past: dict[Key, Counts] = {}
        self._rules: dict[Key, RuleCounts] = {}
        self._sent: dict[Key, RemoteCounts] = {}
        self._forgotten: RuleCounts = {}  # of sessions whose names are not remembered any more

    def add(
        self,
        key: Key,
        counters: Sequence[Counts],
        rules: Sequence[RuleCounts],
        sent: Sequence[RemoteCounts] = (),
    ) -> None:
        """Keep what a session's pipelines counted, which end now; `sent`, by its collectors."""
        before = self._past.pop(key, NOTHING)  # to the end of those remembered
        self._past[key] = added([before, *counters])
        self._rules[key] = added_rules([self._rules.get(key, {}), *rules])
        if sent:
            self._sent[key] = self.sent_of(key, sent)

    def rename(self, old: Key, new: Key) -> None:
        """What was counted under one name counts under another from now on."""
        if counted := [total for key in (old, new) if (total := self._past.pop(key, None))]:
            self._past[new] = added(counted)
        self._rules[new] = added_rules([self._rules.get(new, {}), self._rules.pop(old, {})])
        if sent := self._sent.pop(old, None):
            self._sent[new] = self.sent_of(new, [sent])

    def forget(self, planned: Container[Key]) -> None:
        """Forget the totals that ended first, of names that are not planned; the sums of rules stay."""
        gone = [key for key in self._past if key not in planned]
        for key in gone[:-REMEMBERED]:
            del self._past[key]
            self._sent.pop(key, None)
            self._forgotten = added_rules([self._forgotten, self._rules.pop(key, {})])

    def of(self, key: Key, running: Sequence[Sequence[int]] = ()) -> Sequence[int]:
        """What a session and source has counted, with the counters of those of its pipelines that run."""
        counted = [*running, self._past[key]] if key in self._past else running
        return counted[0] if len(counted) == 1 else added(counted)

    def sent_of(self, key: Key, running: Iterable[RemoteCounts] = ()) -> RemoteCounts:
        """What a session and source has sent to each collector that it has, or had."""
        total: RemoteCounts = {}
        for counts in (self._sent.get(key, {}), *running):
            for remote, (copies, octets) in counts.items():
                before = total.get(remote, (0, 0))
                total[remote] = before[0] + copies, before[1] + octets
        return total

    def rules_of(self, key: Key, running: Iterable[RuleCounts] = ()) -> RuleCounts:
        """The same of its rules."""
        return added_rules([self._rules.get(key, {}), *running])

    def all_rules(self) -> Iterator[RuleCounts]:
        """What rules have counted, of every pipeline that has ended."""
        yield self._forgotten
        yield from self._rules.values()


def added(counted: Iterable[Sequence[int]]) -> Counts:
    """The sum, slot by slot; zeros for none. Live rows have more behind their slots."""
    return tuple(map(sum, zip(*counted, strict=False))) or NOTHING


def added_rules(counted: Iterable[RuleCounts]) -> RuleCounts:
    """The sum, rule by rule."""
    total: RuleCounts = {}
    for counts in counted:
        for rule, count in counts.items():
            total[rule] = total.get(rule, 0) + count
    return total
