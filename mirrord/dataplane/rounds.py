"""The rounds of a worker: to wait until some of its pipelines have frames, and then a little more.

The native core's Rounds has the same methods, and runs pipelines of its own plane itself, round after round: Python is
told of them in the end, not each time. This one runs none: it is for where there is no core.
"""

from __future__ import annotations

import select
import time
from typing import NamedTuple

from mirrord.dataplane.native import core, missing

SHORTEST_ROUND_SECONDS = 0.0005
"""A frame that comes sooner after the last round waits for company: to wake up costs more than a frame does. One that
comes after a quiet moment does not wait, nor do any while a tap lags behind. It never waits longer than the latency.

In the core, a round after one in which many taps had frames waits longer, 20 us for each, up to that: then each has
more of them. The core goes round by itself for 20 ms at a time where a tap may have to be looked at, see
load.LOOK_SECONDS; of taps with few frames Python is not told, and of a ring four times a second, or as often as its
members may part, see parting.LOOK_SECONDS_A_MEMBER.
"""

LATENCY_SECONDS = 0.001
"""daemon.latency, where nothing else is said."""


class News(NamedTuple):
    """What a wait found out about a descriptor: EPOLLIN, EPOLLERR, ..., and whether its tap ran already."""

    descriptor: int
    events: int
    ran: bool


class Rounds:
    """Waits for descriptors."""

    def __init__(self, latency: float = LATENCY_SECONDS) -> None:
        self._pause = min(SHORTEST_ROUND_SECONDS, latency)
        self._epoll = select.epoll()
        self._last = 0.0

    def register(self, descriptor: int, tap: core.Tap | None) -> None:
        """Wait for this descriptor, too. `tap`: the core's, which only the core's Rounds runs; or None."""
        del tap
        self._epoll.register(descriptor, select.EPOLLIN)

    def unregister(self, descriptor: int) -> None:
        """Stop waiting for this descriptor. To be called before it is closed."""
        self._epoll.unregister(descriptor)

    def wait(self, seconds: float, lagging: bool) -> list[News]:
        """Wait at most so long until there is something to do; `lagging`: there was more than the last round took."""
        events = self._epoll.poll(seconds)
        if events:
            early = self._last + self._pause - time.monotonic()
            if early > 0 and not lagging:
                time.sleep(early)
            self._last = time.monotonic()
        return [News(descriptor, event, False) for descriptor, event in events]

    def close(self) -> None:
        """End the wait."""
        self._epoll.close()


def rounds(latency: float = LATENCY_SECONDS) -> Rounds | core.Rounds:
    """The core's, if it is there. `latency`: how long a frame may wait for company at most, in seconds."""
    return Rounds(latency) if missing else core.Rounds(latency)
