"""A worker's helper: a thread for what takes the kernel milliseconds, while the worker's frames go on."""

from __future__ import annotations

import queue
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Helper:
    """Does one job after the other. RuntimeError from `start` where the host has no thread left."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, work: Callable[[], T], then: Callable[[T | Exception], None]) -> None:
        """Do this on the helper's thread, then call `then` there, once, with the result or the exception."""

        def job() -> None:
            try:
                outcome: T | Exception = work()
            except Exception as error:  # noqa: BLE001 (who asked for it is told)
                outcome = error
            then(outcome)

        self._jobs.put(job)

    def stop(self) -> None:
        """End when all is done that was asked for before."""
        self._jobs.put(None)

    def join(self, seconds: float) -> None:
        """Wait at most so long until it has ended."""
        with suppress(RuntimeError):  # it was never started
            self._thread.join(seconds)

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not None:
            with suppress(Exception):  # of `then`: nobody is left to tell, and the next job is to be done
                job()
