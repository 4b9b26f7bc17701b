"""`mirrorctl console` as a process in a host, and plain HTTP to it."""

from __future__ import annotations

import http.client
import json
import re
import socket
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.daemon import ROOT
from tests.support.topology import Host
from tests.support.wait import wait_for


class Answer(NamedTuple):
    status: int
    text: str
    headers: http.client.HTTPMessage

    @property
    def code(self) -> str:
        """Of an error."""
        return str(json.loads(self.text)["error"]["code"])


class Console:
    """Made: it has printed its address. `address` opens one window, once."""

    def __init__(self, host: Host, asked: Path, *options: str, cluster: bool = False) -> None:
        self.host = host
        where = ("--socket", str(asked), *(("--cluster",) if cluster else ()))
        command = (sys.executable, "-m", "mirrord.cli", *where, "console", "--no-browser", *options)
        self._process = host.spawn(*command, directory=ROOT)

        def printed() -> re.Match[str] | None:
            assert self._process.status() is None, self.output()
            return re.search(r"^(http://127\.0\.0\.1:(\d+)/)#token=(\S+)$", self.output(), re.MULTILINE)

        found = wait_for(printed, "the console's address", 60)
        self.address, self.url, self.port, self.token = found[0], found[1], int(found[2]), found[3]

    def ask(self, method: str, path: str, body: Any = None, *, key: str = "", **headers: str) -> Answer:
        """As any program on the host could; `Sec_Fetch_Site="x"` is the header Sec-Fetch-Site."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if key:
            named["Authorization"] = f"Bearer {key}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.sock = self.host.open_socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            connection.sock.settimeout(20)
            connection.sock.connect(("127.0.0.1", self.port))
            connection.request(method, path, None if body is None else json.dumps(body), named)
            response = connection.getresponse()
            return Answer(response.status, response.read().decode(), response.headers)
        finally:
            connection.close()

    def key(self) -> str:
        """For the token that was printed."""
        return str(json.loads(self.ask("POST", "/console/key", {"token": self.token}).text)["key"])

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        return self._process.stop()

    def output(self) -> str:
        return self._process.output()
