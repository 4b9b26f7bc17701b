"""HTTP over a unix socket, by the standard library: to import an HTTP library would take longer than most answers do.

What this itself imports takes 30 ms, so that mirrord.client does so only to ask something.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse
from urllib.parse import quote, urlencode

__all__ = ["FAILURES", "Connection", "HTTPResponse", "address", "readable"]

FAILURES = (OSError, HTTPException, ValueError)
"""What goes wrong on the way; the last: the answer is no JSON."""


class Connection(HTTPConnection):
    """A connection to the server at this path; `seconds` is for each read and write, None: for ever."""

    def __init__(self, path: str, seconds: float | None) -> None:
        super().__init__("mirrord", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        """OSError."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.sock.close()
            raise


def readable(sock: socket.socket, seconds: float) -> bool:
    """Whether there is something to read within so long."""
    return bool(select.select([sock], [], [], max(seconds, 0))[0])


def address(parts: tuple[str, ...], query: Mapping[str, str]) -> str:
    """The path of a resource of the API, and its query."""
    path = "/".join(["", "v1", *(quote(part, safe="") for part in parts)])
    return f"{path}?{urlencode(query)}" if query else path
