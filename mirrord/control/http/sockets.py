"""The daemon's addresses, bound before anything runs: a client that connects early waits for its answer."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from mirrord.control.http.activation import READ_ONLY_SOCKET, SOCKET, activated, listen
from mirrord.control.logs import logger
from mirrord.errors import HostError, at_address
from mirrord.model import Daemon

log = logger("daemon")


class Addresses:
    """Listening sockets: `changing` and `reading` are the control API's, `metrics` is the page's; None where unwanted.

    Whoever answers there takes over the sockets, but not their files: `close` takes those away that were made here.
    """

    def __init__(self) -> None:
        self.changing: socket.socket | None = None
        self.reading: socket.socket | None = None
        self.metrics: socket.socket | None = None
        self._files: list[Path] = []

    def take(self, daemon: Daemon) -> None:
        """Listen on all. HostError when an address is taken or not to be had."""
        passed = activated()
        self.changing = passed.pop(SOCKET, None) or self._listen("socket", daemon.socket, daemon.socket_group)
        self.reading = passed.pop(READ_ONLY_SOCKET, None)
        if self.reading is None and daemon.read_only_socket:
            self.reading = self._listen("read_only_socket", daemon.read_only_socket, daemon.read_only_group)
        for name, unknown in passed.items():
            log.warning("closed a socket that the service manager passed under an unknown name", name=name)
            unknown.close()
        if daemon.metrics:
            host, port = daemon.metrics
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            try:
                self.metrics = socket.create_server((host, port), family=family)
            except OSError as error:
                raise _taken("daemon.metrics", f"{host} port {port}", error, "the port is in use") from error

    def _listen(self, key: str, path: str, group: str) -> socket.socket:
        try:
            listener = listen(Path(path), group)
        except OSError as error:
            raise _taken(f"daemon.{key}", path, error, "another mirrord listens there") from error
        self._files.append(Path(path))
        return listener

    def close(self) -> None:
        """Stop listening."""
        for one in (self.changing, self.reading, self.metrics):
            if one is not None:
                one.close()
        for path in self._files:
            path.unlink(missing_ok=True)


def _taken(path: str, address: object, error: OSError, text: str) -> HostError:
    """Why the address cannot be had; `text` when another has it."""
    if error.errno == errno.EADDRINUSE:
        return HostError("address_in_use", f"{address}: {text}", path)
    return HostError("no_address", f"{address}: {at_address(error)}", path)
