"""What sessions have counted since they were last looked at: of those alone that have counted anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mirrord.control.planning.plan import Key
from mirrord.control.running.record import Running
from mirrord.control.running.totals import Counts, Totals


class Gains:
    """Remembers each session's counters; one that has counted nothing since then costs a comparison."""

    def __init__(self) -> None:
        self._rows: dict[Key, bytes] = {}
        self._counted: dict[Key, Counts] = {}

    def look(self, keys: Iterable[Key], running: Mapping[Key, Running], totals: Totals) -> dict[Key, Counts]:
        """What each of these has counted since the last look, slot by slot. A session's first look tells nothing."""
        gains: dict[Key, Counts] = {}
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
            now = totals.of(key, runs.counters() if runs is not None else ())
            self._counted[key] = now = tuple(now)
            if before is not None and now != before:
                gains[key] = tuple([after - earlier for after, earlier in zip(now, before, strict=True)])
        return gains
