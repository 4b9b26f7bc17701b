"""Work that a disk may keep from ever ending, waited for only so long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import TypeVar

T = TypeVar("T")


class Patience:
    """Runs each work on a thread of its own. What is late is not begun again before it ended, however late."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._late: set[Hashable] = set()

    def within(self, seconds: float, name: Hashable, work: Callable[[], T], late: Callable[[T], None]) -> T:
        """What the work gives, or raises. TimeoutError when it has not ended within so many seconds, or when an earlier
        one of this name has not yet: what it gives then is for `late`, on its thread. RuntimeError without threads.
        """
        outcome: list[T | Exception] = []
        done = threading.Event()

        def run() -> None:
            try:
                gave: T | Exception = work()
            except Exception as error:  # noqa: BLE001 (raised again where it is waited for)
                gave = error
            with self._lock:
                outcome.append(gave)
                is_late = name in self._late
                self._late.discard(name)
            done.set()
            if is_late and not isinstance(gave, Exception):
                late(gave)

        with self._lock:
            if name in self._late:
                raise TimeoutError
        threading.Thread(target=run, name="patience", daemon=True).start()
        done.wait(seconds)
        with self._lock:
            if not outcome:
                self._late.add(name)
                raise TimeoutError
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]
