"""Threads that close sockets, many at a time and gone when there is nothing to close.

To close a packet socket is to wait until no processor can come upon it any more, 10 ms and longer (synchronize_net in
packet_release, net/packet/af_packet.c). Closes at the same time wait for the same event: 2,000 sockets one after the
other take half a minute, and by 128 threads a quarter of a second.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 128
"""Threads at a time."""


class Closers:
    """Work that is mostly to wait, done by as many threads as there is work, up to MOST. On any thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._state = threading.Condition()  # of what follows
        self._work: deque[Callable[[], None]] = deque()
        self._threads = 0

    def submit(self, work: Callable[[], None]) -> None:
        """Do this soon, on one of the threads. It must not raise."""
        with self._state:
            self._work.append(work)
            more = self._threads < MOST
            self._threads += more
        if not more:
            return
        try:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        except RuntimeError:  # the host has no thread left: then it is waited for here
            self._run()

    def join(self, seconds: float) -> None:
        """Wait until all is done, at most so long."""
        with self._state:
            self._state.wait_for(lambda: not self._threads, seconds)

    def _run(self) -> None:
        while work := self._next():
            work()

    def _next(self) -> Callable[[], None] | None:
        with self._state:
            if self._work:
                return self._work.popleft()
            self._threads -= 1
            self._state.notify_all()
            return None
