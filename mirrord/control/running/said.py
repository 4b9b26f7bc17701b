"""What the log says about sessions: each thing once, when it begins and when it ends."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from mirrord.control.logs import logger
from mirrord.control.planning.plan import Entry, Key
from mirrord.control.running.breaker import Verdict
from mirrord.control.running.record import WELL, Condition
from mirrord.control.running.rows import THINNED
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
        self._last: dict[Key, Condition] = {}  # of those that are not well

    @property
    def unwell(self) -> Collection[Key]:
        """Those of which something was said that has not ended."""
        return self._last.keys()

    def look(self, now: Mapping[Key, Condition], *, all_there: bool) -> bool:
        """Say which sessions began, or ceased, to have nowhere to put their copies, and what they cannot have; whether
        there was anything to say. `all_there`: no others run.
        """
        last = self._last
        kept = {} if all_there else {key: one for key, one in last.items() if key not in now}
        self._last = kept | {key: one for key, one in now.items() if one is not WELL}
        news = False
        for key, condition in now.items():
            before = last.get(key, WELL)
            if condition is not before and condition != before:
                _say_change(key, before, condition)
                news = True
        return news


def _say_change(key: Key, before: Condition, now: Condition) -> None:
    who = key._asdict()
    if now.gso_refused and not before.gso_refused:
        log.warning("the kernel refuses UDP GSO: copies leave one by one", **who)
    if now.thinned and not before.thinned:
        log.warning(THINNED, **who, sampling_rate=now.thinned)
    elif before.thinned and not now.thinned:
        log.info("everything fits again", **who)
    for told in now.shortages:
        if told not in before.shortages:
            log.warning(told, **who)
    if now.short_ring and now.short_ring != before.short_ring:
        log.warning("there is no memory for the ring, a smaller one runs", **who, ring=now.short_ring)
    if now.trouble and now.trouble != before.trouble:
        log.error("session failed", **who, reason=now.trouble)
    elif before.trouble and not now.trouble:
        log.info("session up", **who)


def say_planned(before: Mapping[Key, Entry], after: Mapping[Key, Entry]) -> None:
    """Say what a new plan warns of, and what it cannot run."""
    for key, entry in after.items():
        was = before.get(key)
        if was is entry:
            continue
        for one in (*entry.warnings, *entry.notes):
            if was is None or one not in (*was.warnings, *was.notes):
                log.warning(one.problem, **key._asdict(), remedy=one.remedy)
        if (entry.pipeline is None or entry.state == "waiting") and (was is None or was.reason != entry.reason):
            say_state(key, entry.state, entry.reason)


def say_state(key: Key, state: str, reason: str, unforeseen: Exception | None = None) -> None:
    """Say that a session does not run: `failed` needs the operator, `waiting` the host. `unforeseen`: a bug, whose
    traceback is told.
    """
    say = log.error if state == "failed" else log.info
    say(f"session {state}", **key._asdict(), reason=reason, **({"exc_info": unforeseen} if unforeseen else {}))


def say_verdict(key: Key, now: Verdict) -> None:
    """Say that the circuit breaker or the governor judges otherwise than before."""
    words = now.reason or "there is room again"
    log.warning(words, **key._asdict(), paused=now.paused, percent=now.percent)


def say_total(key: Key, counters: Sequence[int]) -> None:
    """Say what a session counted, at its end; reasons that counted nothing are left out."""
    told = {name: counters[slot] for slot, name, always in _TOTALS if always or counters[slot]}
    log.info("total", **key._asdict(), **told)
