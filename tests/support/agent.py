"""mirrord-agent in a host of a topology, for that host's daemon."""

from __future__ import annotations

import http.client
import json
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mirrord.cluster.state import read
from tests.support.metrics import Metrics
from tests.support.process import Process
from tests.support.topology import Host
from tests.support.wait import wait_for

METRICS = "127.0.0.1", 9819


class Agent:
    """`mirrord-agent -c FILE`; started: it answers on its socket. `settings` are keys of [cluster], `under` words that
    are put before the command.
    """

    def __init__(
        self,
        host: Host,
        directory: Path,
        daemon: Path,
        *,
        under: Sequence[str] = (),
        **settings: str | list[str] | Mapping[str, str],
    ) -> None:
        self.host, self.directory, self._under = host, directory, tuple(under)
        self.file, self.socket, self.state = (directory / name for name in ("agent.toml", "agent.sock", "cluster.json"))
        self.configure(daemon=str(daemon), socket=str(self.socket), state=str(self.state), host=host.label, **settings)
        self._process: Process | None = None

    def configure(self, **settings: str | list[str] | Mapping[str, str]) -> None:
        lines = [
            f"{key} = {{ {', '.join(f'{name} = {json.dumps(one)}' for name, one in value.items())} }}"
            if isinstance(value, Mapping)
            else f"{key} = {json.dumps(value)}"
            for key, value in settings.items()
        ]
        self.file.write_text("\n".join(["[cluster]", *lines, ""]))

    def command(self, *words: str) -> str:
        """What `mirrord-agent WORDS` prints."""
        asked = self.host.program("mirrord.cluster.main", "-c", str(self.file), *words, directory=self.directory)
        asked.wait(60)
        return asked.output()

    def start(self) -> None:
        self._process = self.host.program(
            "mirrord.cluster.main", "-c", str(self.file), directory=self.directory, under=self._under
        )
        try:
            wait_for(self._answers, "the agent answers", 30)
        except AssertionError as late:
            raise AssertionError(f"{late}\n{self.output()}") from late

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.status() is None, self.output()
        with socket.socket(socket.AF_UNIX) as one:
            return not one.connect_ex(str(self.socket))

    def kill(self) -> None:
        assert self._process is not None
        self._process.stop(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        return self._process.stop(signal.SIGTERM)

    def running(self) -> bool:
        assert self._process is not None
        return self._process.status() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def output(self) -> str:
        assert self._process is not None
        return self._process.output()

    def metrics(self) -> Metrics:
        return Metrics.parse(self.scrape())

    def scrape(self) -> str:
        """The page /metrics."""
        connection = http.client.HTTPConnection(*METRICS)
        connection.sock = self.host.open_socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            connection.sock.settimeout(10)
            connection.sock.connect(METRICS)
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def kept(self) -> Any:
        """What is in the state file."""
        return read(self.state)
