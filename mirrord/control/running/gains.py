"""What sessions have counted since they were last looked at: of those alone that have counted anything."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mirrord.control.planning.plan import Key
from mirrord.control.running.record import Running
from mirrord.control.running.totals import Counts, Totals
from mirrord.dataplane.counters import RemoteCounts


class Gains:
    """Remembers each session's counters; one that has counted nothing since then costs a comparison.

    `lately` are those that counted something between the last three looks, or that were new at the last two.
    """

    def __init__(self) -> None:
        self.lately: frozenset[Key] = frozenset()
        self._counting: set[Key] = set()  # the same of the last two looks
        self._images: dict[Key, bytes] = {}
        self._counted: dict[Key, Counts] = {}

    def look(self, keys: Collection[Key], running: Mapping[Key, Running], totals: Totals) -> dict[Key, Counts]:
        """What each of these has counted since the last look, slot by slot. A session's first look tells nothing."""
        gains: dict[Key, Counts] = {}
        counting_before, self._counting = self._counting, set()
        images, counted = self._images, self._counted
        for gone in images.keys() - keys:
            del images[gone], counted[gone]
        for key in keys:
            runs = running.get(key)
            image = runs.image if runs is not None else b""
            if image == images.get(key):
                continue
            self._counting.add(key)
            before, now = counted.get(key), tuple(totals.of(key, runs.counters() if runs is not None else ()))
            images[key], counted[key] = image, now
            if before is not None and now != before:
                gains[key] = tuple([after - earlier for after, earlier in zip(now, before, strict=True)])
        self.lately = frozenset(self._counting | counting_before)
        return gains


class SentGains:
    """What was sent to each collector of those sessions that have several, since they were last looked at."""

    def __init__(self) -> None:
        self._before: dict[Key, RemoteCounts] = {}

    def look(self, several: Mapping[Key, Running], totals: Totals) -> dict[Key, dict[str, int]]:
        """Bytes by collector. A session's first look tells nothing."""
        before = self._before
        self._before = {key: totals.sent_of(key, one.sent()) for key, one in several.items()}
        return {
            key: {remote: octets - before[key].get(remote, (0, 0))[1] for remote, (_, octets) in sent.items()}
            for key, sent in self._before.items()
            if key in before
        }
