"""What goes on in a thread while a test does something else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def meanwhile(work: Callable[[], object], pause: float = 0.0) -> Iterator[None]:
    """Do this again and again, with so many seconds between, until the block ends. An error of it is raised then."""
    ended = threading.Event()

    def go_on() -> None:
        while not ended.wait(pause) if pause else not ended.is_set():
            work()

    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(go_on)
        try:
            yield
        finally:
            ended.set()
        going.result()
