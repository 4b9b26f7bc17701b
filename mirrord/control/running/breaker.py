"""The circuit breaker: a session with `pause_above` pauses while the link that its copies leave by is too busy.

All that the device sends counts, not the copies alone. Without the copies the link has room again, perhaps only until
they come back: so a session that had to pause soon after the last time stays paused for longer and longer. One with
`overload = "flows"` does not pause but mirrors fewer conversations, as long as that takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from mirrord.control.host.link_load import Sample, sample
from mirrord.control.logs import logger
from mirrord.control.planning.plan import Key, Limit
from mirrord.control.running.overload import LinkLevel
from mirrord.dataplane.netns import inside
from mirrord.plans import Netns

log = logger("breaker")

RESUME_BELOW = 0.8
"""The part of the limit that the link must be below for the session to go on."""

LEAST_SECONDS, LONGEST_SECONDS = 5.0, 60.0
"""How long a session stays paused: twice as long each time that it had to pause again soon."""

SOON_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a session is to pause, or how many times fewer conversations it is to mirror, two to the `level`; and
    what there is to say, "" for nothing.

    The reason is a label in the metrics, so it says the same at each pause. `percent` is what the link sent at.
    """

    paused: bool = False
    reason: str = ""
    percent: int = 0
    level: int = 0


class _Watch:
    """One session's link over time. Times are monotonic, in seconds."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.verdict = Verdict()
        self._sent: int | None = None
        self._at = self._changed_at = 0.0
        self._hold = LEAST_SECONDS
        self._level = LinkLevel()

    def look(self, seen: Sample | None, now: float) -> Verdict:
        before, elapsed = self._sent, now - self._at
        self._sent, self._at = (None if seen is None else seen.sent), now
        if seen is None or before is None or seen.sent < before or elapsed <= 0:
            return self.verdict
        if not seen.speed:
            self.verdict = Verdict(reason=f"pause_above has no effect: the speed of {self.limit.device} is not known")
            return self.verdict
        share = 100 * (seen.sent - before) * 8 / elapsed / seen.speed
        if self.limit.thins:
            self.verdict = self._thin(share, now)
        elif not self.verdict.paused:
            self.verdict = self._pause(share, now) if share > self.limit.share else Verdict()
        elif now - self._changed_at >= self._hold and share < self.limit.share * RESUME_BELOW:
            self.verdict, self._changed_at = Verdict(), now
        return self.verdict

    def _pause(self, share: float, now: float) -> Verdict:
        again = self._changed_at and now - self._changed_at < SOON_SECONDS
        self._hold = min(2 * self._hold, LONGEST_SECONDS) if again else LEAST_SECONDS
        self._changed_at = now
        return Verdict(paused=True, reason=self._reason, percent=round(share))

    def _thin(self, share: float, now: float) -> Verdict:
        room = share < self.limit.share * RESUME_BELOW
        level = self._level.look(now, busy=share > self.limit.share, room=room)
        return Verdict(reason=self._reason if level else "", percent=round(share), level=level)

    @property
    def _reason(self) -> str:
        return f"{self.limit.device} sends at more than {self.limit.share}% of its speed (pause_above)"


class Breaker:
    """Watches the links of the sessions that have a limit."""

    def __init__(self) -> None:
        self._watches: dict[Key, _Watch] = {}

    async def look(self, limits: Mapping[Key, Limit], now: float) -> dict[Key, Verdict]:
        """What each of these sessions is to do now. To be asked every second or so; costs nothing without limits."""
        self._watches = {
            key: watch if (watch := self._watches.get(key)) and watch.limit == limit else _Watch(limit)
            for key, limit in limits.items()
        }
        seen: dict[Netns | None, dict[str, Sample]] = {}
        for netns in {limit.netns for limit in limits.values()}:
            devices = {limit.device for limit in limits.values() if limit.netns == netns}
            try:
                seen[netns] = await asyncio.to_thread(inside, netns, partial(sample, devices))
            except OSError as error:
                log.warning("cannot see how busy links are", devices=sorted(devices), reason=error.strerror)
                seen[netns] = {}
        return {
            key: watch.look(seen[watch.limit.netns].get(watch.limit.device), now)
            for key, watch in self._watches.items()
        }
