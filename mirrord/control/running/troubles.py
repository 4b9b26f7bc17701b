"""Which sessions have trouble that comes and goes by itself, looked for each second at little cost."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mirrord.control.planning.plan import Entry, Key
from mirrord.control.running.record import Condition, Running
from mirrord.control.running.said import Said
from mirrord.plans import DevicePlan, RemotesPlan, TunnelPlan

ALL_LOOKED_AT = 5
"""Looks, of which the last is at all sessions."""

SENDS = (TunnelPlan, DevicePlan, RemotesPlan)
"""The ways out that have nothing to tell of while nothing is sent."""


class Troubles:
    """A session that sends, and has counted nothing lately, has hardly any news: it is looked at where there is a new
    plan, or a worker stalls, and at each fifth look.
    """

    def __init__(self) -> None:
        self._said = Said()
        self._looks, self._anew = 0, True
        self._all = False  # were looked at
        self._others: frozenset[Key] = frozenset()  # whose way out may have news though nothing is sent

    def plan_anew(self) -> None:
        """There is a new plan: the next look is at all."""
        self._anew = True

    def look(
        self, running: Mapping[Key, Running], entries: Mapping[Key, Entry], lately: Collection[Key], *, stalled: bool
    ) -> dict[Key, Condition]:
        """How those are that may have news, for `say`. `lately`: they counted something, or are new. To be called each
        second.
        """
        self._looks += 1
        anew, self._anew = self._anew, False
        self._all = anew or stalled or self._looks % ALL_LOOKED_AT == 0
        if anew:
            self._others = frozenset(key for key, one in running.items() if not isinstance(one.plan.transmit, SENDS))
        news = running if self._all else self._others.union(lately, self._said.unwell)
        return {key: _condition(entries.get(key), runs) for key in news if (runs := running.get(key)) is not None}

    def say(self, conditions: Mapping[Key, Condition]) -> bool:
        """Log what is another since the last look; whether anything is."""
        return self._said.look(conditions, all_there=self._all)


def _condition(entry: Entry | None, runs: Running) -> Condition:
    condition = runs.condition()
    if condition.trouble or entry is None or not entry.trouble or entry.state == "waiting":
        return condition
    return condition._replace(trouble=entry.trouble)
