"""A daemon as it is after years: its own answers, with every counter a number of twelve digits."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.support.api import Api

GROWN = 210_000_000_000


@contextmanager
def swollen(daemon: Path, socket: Path) -> Iterator[Path]:
    """The socket of one that answers as the daemon at that other socket."""
    ask = Api(daemon)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.forward("GET", None)

        def do_POST(self) -> None:
            self.forward("POST", json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def forward(self, method: str, sent: Any) -> None:
            answer = ask(method, self.path.removeprefix("/v1/"), sent)
            body = json.dumps(_grown(answer.body)).encode()
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *_: object) -> None:
            pass

    with socketserver.ThreadingUnixStreamServer(str(socket), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield socket
        finally:
            server.shutdown()
            thread.join()


def _grown(value: Any, *, counter: bool = False) -> Any:
    if isinstance(value, dict):
        return {key: _grown(one, counter=counter or key == "counters") for key, one in value.items()}
    if isinstance(value, list):
        return [_grown(one, counter=counter) for one in value]
    return GROWN + value if counter and isinstance(value, int) else value
