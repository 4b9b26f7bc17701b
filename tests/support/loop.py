"""How long a daemon's event loop stands, seen from outside."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

PAUSE_SECONDS = 0.002


class Waits:
    """Asks a daemon for its smallest resource again and again. `longest` is what an answer took, in seconds."""

    def __init__(self, path: Path) -> None:
        self.longest = 0.0
        self._connection = http.client.HTTPConnection("mirrord", timeout=60)
        self._connection.sock = socket.socket(socket.AF_UNIX)
        self._connection.sock.connect(str(path))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._ask()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._connection.close()

    def _ask(self) -> None:
        self._connection.request("GET", "/v1/filters")
        self._connection.getresponse().read()

    def _look(self) -> None:
        while not self._ended.wait(PAUSE_SECONDS):
            begun = time.monotonic()
            self._ask()
            self.longest = max(self.longest, time.monotonic() - begun)
