"""What the daemon tells as it happens: a stream of the control API, read by the standard library."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self


class Event(NamedTuple):
    kind: str
    data: Any


class Stream:
    """A resource that has no end, line by line; it is left at the end of the `with`."""

    def __init__(self, path: Path, resource: str) -> None:
        self._http = http.client.HTTPConnection("mirrord")
        self._http.sock = socket.socket(socket.AF_UNIX)
        self._http.sock.settimeout(20)
        self._http.sock.connect(str(path))
        self._http.request("GET", f"/v1/{resource}")
        self._response = self._http.getresponse()
        self.status, self.content_type = self._response.status, self._response.headers.get_content_type()

    def line(self) -> str:
        """The next line, without its end; "" for an empty one, and at the end of the stream."""
        return self._response.readline().decode().rstrip("\n")

    def rest(self) -> bytes:
        """All that comes until the end."""
        return self._response.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()
        self._http.close()


class EventStream(Stream):
    """`GET /v1/events` (HTML Living Standard, 9.2.6: an event ends with an empty line)."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "events")

    def event(self) -> Event:
        """The next event."""
        fields = {}
        while line := self.line():
            name, _, value = line.partition(": ")
            fields[name] = value
        return Event(fields["event"], json.loads(fields["data"]))

    def until(self, wanted: Callable[[Event], object], what: str, seconds: float = 20.0) -> Event:
        """The first event of these; AssertionError where none comes in so many seconds."""
        last = time.monotonic() + seconds
        seen = []
        while time.monotonic() < last:
            seen.append(self.event())
            if wanted(seen[-1]):
                return seen[-1]
        raise AssertionError(f"not within {seconds} s: {what}; seen: {seen}")
