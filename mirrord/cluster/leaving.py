"""Destinations that have left this host: it listens on until their sources send elsewhere.

A destination that is gone, and is nowhere else, may be on its way or come again: for a while sources go on sending
here, where what comes is counted as lost. Once another host has it, sources are told to send there; those that have
not heard of it are listened to for as long as something comes. Whoever stopped at once would lose that uncounted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mirrord.cluster.ends import Ends
from mirrord.cluster.records import SessionKey

QUIET_SECONDS = 10.0
"""How long a destination that has left is waited for, and how long after the last copy came nobody listens any more."""


@dataclass
class _Gone:
    since: float
    told: bool = True  # sources are told to send here
    received: int = -1
    heard: float = 0.0


class Leaving:
    """Of one host. Times are in seconds of any one clock."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._here: frozenset[SessionKey] = frozenset()
        self._gone: dict[SessionKey, _Gone] = {}

    def look(
        self, here: frozenset[SessionKey], ends: Ends, received: Mapping[SessionKey, int], now: float
    ) -> dict[SessionKey, bool]:
        """The sessions that are listened for though their destination is not `here` any more; each with whether sources
        are still told to send here. `received` counts what came for each session.
        """
        own = ends.of_host(self._host)
        told = {key for key, end in own.items() if end.address and not end.stale}
        for key in (self._here | told | self._gone.keys()) - here:
            self._gone.setdefault(key, _Gone(now))
        for key in self._gone.keys() & here:
            del self._gone[key]
        self._here = here
        for key, one in [*self._gone.items()]:
            if one.told:
                after = own[key].revision if key in own else 0
                others = (end for host, end in ends.by_session.get(key, {}).items() if host != self._host)
                elsewhere = any(end.address and not end.stale and end.revision > after for end in others)
                one.told = not elsewhere and now - one.since < QUIET_SECONDS
                one.heard = now
            if (count := received.get(key, 0)) != one.received:
                one.received, one.heard = count, now
            if not one.told and key not in told and now - one.heard >= QUIET_SECONDS:
                del self._gone[key]
        return {key: one.told for key, one in self._gone.items()}
