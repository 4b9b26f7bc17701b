"""The real daemon, on a real configuration, in a host of a topology."""

from __future__ import annotations

import http.client
import json
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from tests.support.metrics import Metrics
from tests.support.topology import Host
from tests.support.wait import wait_for

Setting = str | int | list[str]
ROOT = Path(__file__).parents[2]


class Daemon:
    """`mirrord -c FILE` in a host. Made: it said READY=1, and every session that it shows is up.

    `configuration` is TOML; its [daemon] table is written here: sockets and state in `directory`, and `settings`.
    With `up` off, sessions may be waiting: the caller looks for itself. `under` are words before the command.
    """

    def __init__(
        self,
        host: Host,
        directory: Path,
        configuration: str,
        *,
        up: bool = True,
        under: Sequence[str] = (),
        **settings: Setting,
    ) -> None:
        self.host = host
        self.file = directory / "mirrord.toml"
        self.socket = directory / "mirrord.sock"
        settings = {
            "socket": str(self.socket),
            "state": str(directory / "state.db"),
            "metrics": "127.0.0.1:9817",
            "include": [],
            **settings,
        }
        self.address = str(settings["metrics"])
        table = "\n".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
        self.file.write_text(f"[daemon]\n{table}\n\n{configuration}")
        self._directory, self._under = directory, tuple(under)
        self.start()
        if up:
            self.wait_up()

    def start(self) -> None:
        """Start it, again after it was stopped or killed, and wait until it is ready."""
        at = self._directory / "notify.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(at))
            at.chmod(0o777)  # as systemd's own
            notify.setblocking(False)
            self._process = self.host.program(
                "mirrord.control.daemon", "-c", str(self.file),
                directory=self._directory, under=self._under, NOTIFY_SOCKET=str(at),
            )  # fmt: skip
            try:
                wait_for(lambda: self._ready(notify), "READY=1 from the daemon", 60)
            except AssertionError as late:
                raise AssertionError(f"{late}\n{self.output()}") from late
        at.unlink()

    def wait_up(self) -> None:
        """Wait until every session is running."""
        wait_for(lambda: _all_up(self.metrics()), "every session up", 30)

    def metrics(self) -> Metrics:
        """Scrape /metrics from inside the host."""
        return Metrics.parse(self.scrape())

    def scrape(self, accept: str = "") -> str:
        """The page /metrics, for this Accept header."""
        address, port = self.address.rsplit(":", 1)
        connection = http.client.HTTPConnection(address, int(port))
        connection.sock = self.host.open_socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            connection.sock.settimeout(10)
            connection.sock.connect((address, int(port)))
            connection.request("GET", "/metrics", headers={"Accept": accept})
            response = connection.getresponse()
            text = response.read().decode()
            assert response.status == http.client.OK, text
        finally:
            connection.close()
        return text

    def settle(self, captured: int, seconds: float = 30.0) -> Metrics:
        """The metrics, once `captured` frames were captured and each is mirrored, skipped or dropped."""

        def at_rest() -> Metrics | None:
            metrics = self.metrics()
            done = metrics.total("mirrord_captured_frames_total") >= captured and metrics.unaccounted() == 0
            return metrics if done else None

        try:
            return wait_for(at_rest, f"{captured} frames captured and accounted for", seconds)
        except AssertionError as late:
            raise AssertionError(f"{late}\n{dict(self.metrics())}\n{self.output()}") from late

    @property
    def pid(self) -> int:
        return self._process.pid

    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.status()

    def reload(self) -> None:
        self._process.send_signal(signal.SIGHUP)

    def stop(self, seconds: float = 15.0) -> tuple[int, str]:
        """SIGTERM; the exit status and all that the daemon printed."""
        return self._process.stop(signal.SIGTERM, seconds), self.output()

    def freeze(self) -> None:
        """Take its processor time away, as an overloaded host would; `thaw` gives it back."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> tuple[int, str]:
        """SIGKILL, as a crash would."""
        return self._process.stop(signal.SIGKILL), self.output()

    def output(self) -> str:
        """What the daemon has printed so far."""
        return self._process.output()

    def _ready(self, notify: socket.socket) -> bool:
        assert self._process.status() is None, f"the daemon ended with {self._process.status()}:\n{self.output()}"
        try:
            return b"READY=1" in notify.recv(4096).split(b"\n")
        except BlockingIOError:
            return False


def _all_up(metrics: Metrics) -> bool:
    sessions = metrics.select("mirrord_session_up")
    return bool(sessions) and all(value == 1 for value in sessions.values())
