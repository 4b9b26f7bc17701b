"""Threads that close sockets, many at a time and gone when there is nothing to close.

To close a packet socket is to wait until no processor can come upon it any more, 10 ms and longer (synchronize_net in
packet_release, net/packet/af_packet.c). Closes at the same time wait for the same event: 2,000 sockets one after the
other take half a minute, and by 128 threads a quarter of a second.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 128
"""Threads at a time."""

LATER = 8
"""The same of those that close what nobody waits for."""


class Closers:
    """Work that is mostly to wait, done by as many threads as there is work, up to `most`. On any thread."""

    def __init__(self, name: str, most: int = MOST) -> None:
        self._name, self._most = name, most
        self._state = threading.Condition()  # of what follows
        self._work: deque[Callable[[], None]] = deque()
        self._threads = 0

    def submit(self, work: Callable[[], None]) -> None:
        """Do this soon, on one of the threads. It must not raise."""
        with self._state:
            self._work.append(work)
            more = self._threads < self._most
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


class _Open(Protocol):
    def close(self) -> None: ...


def close_later(one: _Open) -> None:
    """Close a socket, or what has some, on another thread: whoever has frames to send is not to wait for the kernel."""

    def close() -> None:
        with suppress(OSError):
            one.close()

    _closers.submit(close)


_closers = Closers("closer", LATER)
