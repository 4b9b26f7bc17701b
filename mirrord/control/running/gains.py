"""What sessions have counted since they were last looked at: of those alone that have counted anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mirrord.control.planning.plan import Key
from mirrord.control.running.record import Running
from mirrord.control.running.totals import Counts, Totals
from mirrord.dataplane.counters import RemoteCounts
from mirrord.plans import RemotesPlan


class Gains:
    """Remembers each session's counters; one that has counted nothing since then costs a comparison.

    `lately` are those that counted something between the last three looks, or that were new at the last two.
    """

    def __init__(self) -> None:
        self.lately: frozenset[Key] = frozenset()
        self._counting: set[Key] = set()  # the same of the last two looks
        self._rows: dict[Key, bytes] = {}
        self._counted: dict[Key, Counts] = {}

    def look(self, keys: Iterable[Key], running: Mapping[Key, Running], totals: Totals) -> dict[Key, Counts]:
        """What each of these has counted since the last look, slot by slot. A session's first look tells nothing."""
        gains: dict[Key, Counts] = {}
        counting_before, self._counting = self._counting, set()
        rows_before, counted_before = self._rows, self._counted
        self._rows, self._counted = {}, {}
        for key in keys:
            runs = running.get(key)
            rows = runs.image if runs is not None else b""
            self._rows[key] = rows
            before = counted_before.get(key)
            if before is not None and rows == rows_before[key]:
                self._counted[key] = before
                continue
            self._counting.add(key)
            now = totals.of(key, runs.counters() if runs is not None else ())
            self._counted[key] = now = tuple(now)
            if before is not None and now != before:
                gains[key] = tuple([after - earlier for after, earlier in zip(now, before, strict=True)])
        self.lately = frozenset(self._counting | counting_before)
        return gains


class SentGains:
    """What was sent to each collector of those sessions that have several, since they were last looked at."""

    def __init__(self) -> None:
        self._before: dict[Key, RemoteCounts] = {}

    def look(self, running: Mapping[Key, Running], totals: Totals) -> dict[Key, dict[str, int]]:
        """Bytes by collector. A session's first look tells nothing."""
        before = self._before
        several = {key: one for key, one in running.items() if isinstance(one.plan.transmit, RemotesPlan)}
        self._before = {key: totals.sent_of(key, one.sent()) for key, one in several.items()}
        return {
            key: {remote: octets - before[key].get(remote, (0, 0))[1] for remote, (_, octets) in sent.items()}
            for key, sent in self._before.items()
            if key in before
        }
