"""Has sessions pause while the workers together would take more processor time than daemon.cpu_limit.

The bound itself is kept by the workers, which rest (dataplane/budget.py); what there is no room for meanwhile is left
out of any session, as it comes. So where they fall behind, the busiest sessions pause, as many as it takes for the
others to fit, and these are mirrored whole. With fewer copies to make there is room again, perhaps only until they come
back: sessions that had to pause soon after the last time stay paused for longer and longer, as with the circuit
breaker. One with `overload = "flows"` mirrors fewer conversations instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mirrord.control.planning.plan import Key
from mirrord.control.running.breaker import LEAST_SECONDS, LONGEST_SECONDS, RESUME_BELOW, SOON_SECONDS, Verdict
from mirrord.control.running.overload import LinkLevel
from mirrord.dataplane.budget import Budget

UNREAD = 0.05
"""The part of what is read that may come to wait in a second."""


class Load(NamedTuple):
    """What has been counted so far: frames that were read, those that wait or were left out while workers rested,
    and those that each session was to get, of which some may wait. `thins`: the sessions with `overload = "flows"`.
    """

    read: int
    behind: int
    wanted: Mapping[Key, int]
    thins: frozenset[Key] = frozenset()


class Governor:
    """To be asked every second or so. Times are monotonic, in seconds."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._before: Load | None = None
        self._used = self._rested = self._at = 0.0
        self._fell_behind = False  # at the last look
        self._paused: frozenset[Key] = frozenset()
        self._paused_at = self._went_on_at = 0.0
        self._hold = LEAST_SECONDS
        self._level = LinkLevel()

    def look(self, load: Load | None, now: float) -> dict[Key, Verdict]:
        """What sessions are to do; those that are not in it, what they are told to. None: there is no limit."""
        budget, before = self._budget, self._before
        elapsed, used, rested = now - self._at, budget.used - self._used, budget.rested - self._rested
        self._before, self._at, self._used, self._rested = load, now, budget.used, budget.rested
        if load is None or before is None:
            self._paused = frozenset()
            return {}
        behind = max(load.behind - before.behind, 0)
        fell_behind = behind > UNREAD * (load.read - before.read) and rested > 0
        busy, self._fell_behind = fell_behind and self._fell_behind, fell_behind  # not for a burst
        room = not fell_behind and used < budget.limit * RESUME_BELOW * elapsed
        self._paused &= load.wanted.keys()
        if busy:
            self._pause(before, load, behind, now)
        elif room and self._paused and now - self._paused_at >= self._hold:
            self._paused, self._went_on_at = frozenset(), now
        level = self._level.look(now, busy=busy, room=room) if load.thins else 0
        return self._verdicts(load, round(100 * used / elapsed), level)

    def _pause(self, before: Load, load: Load, behind: int, now: float) -> None:
        came = {key: max(count - before.wanted.get(key, 0), 0) for key, count in load.wanted.items()}
        read = max(load.read - before.read, 0)
        room = sum(came.values()) * read / (read + behind) * RESUME_BELOW
        busiest: set[Key] = set()
        for count, key in sorted((count, key) for key, count in came.items() if key not in self._paused | load.thins):
            room -= count
            if count and room < 0:
                busiest.add(key)
        if not self._paused and busiest:
            again = self._went_on_at and now - self._went_on_at < SOON_SECONDS
            self._hold = min(2 * self._hold, LONGEST_SECONDS) if again else LEAST_SECONDS
        self._paused, self._paused_at = self._paused | busiest, now

    def _verdicts(self, load: Load, percent: int, level: int) -> dict[Key, Verdict]:
        reason = f"the workers would take more than {round(100 * self._budget.limit)}% of a core (daemon.cpu_limit)"
        paused = {key: Verdict(paused=True, reason=reason, percent=percent) for key in self._paused}
        thinned = {key: Verdict(reason=reason, percent=percent, level=level) for key in load.thins if level}
        return {**paused, **thinned}


def joined(link: Mapping[Key, Verdict], processor: Mapping[Key, Verdict]) -> dict[Key, Verdict]:
    """What a session is to do by both judges: the one that it pauses for, or else that lets it mirror less."""
    found = dict(link)
    for key, one in processor.items():
        other = found.get(key, Verdict())
        if (one.paused, one.level) > (other.paused, other.level):
            found[key] = one
    return found
