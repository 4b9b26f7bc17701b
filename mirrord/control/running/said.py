"""What the log says about sessions: each thing once, when it begins and when it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mirrord.control.logs import logger
from mirrord.control.planning.plan import Entry, Key
from mirrord.control.running.breaker import Verdict
from mirrord.control.running.record import Running
from mirrord.control.running.rows import THINNED, shortages
from mirrord.dataplane.counters import Slot

log = logger("pipelines")

_TOTALS = [
    (int(slot), slot.name, not slot.name.startswith(("skipped_", "dropped_")))
    for slot in Slot
    if slot < Slot.latency_sum
]
"""What is told of a session at its end: the slot, its name, and whether also when it is zero."""


class Said:
    """What was said last of what may change by itself while a session runs."""

    def __init__(self) -> None:
        self._troubles: dict[Key, str] = {}
        self._short_rings: dict[Key, str] = {}
        self._shortages: dict[Key, tuple[str, ...]] = {}
        self._thinned: set[Key] = set()
        self._refused: set[Key] = set()  # what the kernel refused GSO to

    def look(self, troubles: Mapping[Key, str], running: Mapping[Key, Running]) -> None:
        """Say which sessions began, or ceased, to have nowhere to put their copies, and what they cannot have."""
        refused = {key for key, one in running.items() if one.gso_refused}
        for key in refused - self._refused:
            log.warning("the kernel refuses UDP GSO: copies leave one by one", **key._asdict())
        self._refused = refused
        thinned = {key for key, one in running.items() if one.thinned}
        for key in thinned - self._thinned:
            log.warning(THINNED, **key._asdict(), sampling_rate=running[key].sampling_rate)
        for key in self._thinned & running.keys() - thinned:
            log.info("everything fits again", **key._asdict())
        self._thinned = thinned
        short = {key: shortages(one) for key, one in running.items()}
        for key, shortage in short.items():
            for told in set(shortage) - set(self._shortages.get(key, ())):
                log.warning(told, **key._asdict())
        self._shortages = short
        rings = {key: one.short_ring for key, one in running.items()}
        for key, ring in rings.items():
            if ring and ring != self._short_rings.get(key):
                log.warning("there is no memory for the ring, a smaller one runs", **key._asdict(), ring=ring)
        self._short_rings = rings
        for key, trouble in troubles.items():
            if trouble and trouble != self._troubles.get(key):
                log.error("session failed", **key._asdict(), reason=trouble)
            elif not trouble and self._troubles.get(key):
                log.info("session up", **key._asdict())
        self._troubles = dict(troubles)


def say_planned(before: Mapping[Key, Entry], after: Mapping[Key, Entry]) -> None:
    """Say what a new plan warns of, and what it cannot run."""
    for key, entry in after.items():
        was = before.get(key)
        for one in (*entry.warnings, *entry.notes):
            if was is None or one not in (*was.warnings, *was.notes):
                log.warning(one.problem, **key._asdict(), remedy=one.remedy)
        if entry.pipeline is None and (was is None or was.reason != entry.reason):
            say_state(key, entry.state, entry.reason)


def say_state(key: Key, state: str, reason: str) -> None:
    """Say that a session does not run: `failed` needs the operator, `waiting` the host."""
    say = log.error if state == "failed" else log.info
    say(f"session {state}", **key._asdict(), reason=reason)


def say_verdict(key: Key, now: Verdict) -> None:
    """Say that the circuit breaker or the governor judges otherwise than before."""
    words = now.reason or "there is room again"
    log.warning(words, **key._asdict(), paused=now.paused, percent=now.percent)


def say_total(key: Key, counters: Sequence[int]) -> None:
    """Say what a session counted, at its end; reasons that counted nothing are left out."""
    told = {name: counters[slot] for slot, name, always in _TOTALS if always or counters[slot]}
    log.info("total", **key._asdict(), **told)
