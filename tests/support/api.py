"""The control API as any program would use it: HTTP over a unix socket, by the standard library."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any, NamedTuple


class Answer(NamedTuple):
    status: int
    body: Any
    headers: dict[str, str]

    @property
    def code(self) -> str:
        """Of an error."""
        return str(self.body["error"]["code"])

    @property
    def message(self) -> str:
        """Of an error."""
        return str(self.body["error"]["message"])


class Api:
    """Requests to a socket, each on a connection of its own: `api("PUT", "mirrors/core", {...}, If_Match=tag)`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, method: str, resource: str, body: Any = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("mirrord", timeout=20)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(str(self.path))
            named = {key.replace("_", "-"): value for key, value in headers.items()}
            data = None
            if body is not None:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                named = {"Content-Type": "application/json"} | named
            connection.request(method, f"/v1/{resource}", data, named)
            response = connection.getresponse()
            text = response.read()
            return Answer(response.status, json.loads(text) if text else None, dict(response.headers))
        finally:
            connection.close()

    def audit(self, query: str = "") -> list[Any]:
        """Rows of the audit log."""
        rows: list[Any] = self("GET", f"audit{query}").body["audit"]
        return rows
