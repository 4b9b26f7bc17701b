"""The lanes of a way out: sockets that flows are spread over by their hash, each with a source port of its own.

A lane's socket is opened when the first flow comes to it. Most sessions of a host with hundreds of them are quiet, and
a socket that nothing leaves by is a descriptor and memory of the kernel's for nothing. One is opened at once: what the
host refuses is to be known before a frame comes.
"""

from __future__ import annotations

import socket
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class NativeLane(NamedTuple):
    """A lane for the native core, which reads the fields by their names. As it is: one without a socket."""

    descriptor: int = -1
    port: int = 0


class Lane(NamedTuple):
    """A socket and its local port, 0 where it has none."""

    socket: socket.socket
    port: int


class Lanes:
    """`count` lanes. `opened` are those with a socket. Any thread may use them.

    Raises OSError when not even one socket can be had.
    """

    def __init__(self, count: int, make: Callable[[], socket.socket]) -> None:
        self._make, self._making = make, Lock()
        self._row: list[Lane | None] = [None] * count
        first = self._open()
        self.opened = [first]
        self._spare: Lane | None = first

    def __len__(self) -> int:
        return len(self._row)

    def __getitem__(self, number: int) -> Lane:
        """A lane, ready to send. Where no socket can be had any more, flows share one that there is."""
        lane = self._row[number]
        return self._open_lane(number) if lane is None else lane

    def _open_lane(self, number: int) -> Lane:
        with self._making:
            lane = self._row[number]
            if lane is None:  # nobody else has opened it meanwhile
                lane = self._row[number] = self._spare or self._another(number)
                self._spare = None
        return lane

    def native(self, number: int) -> NativeLane:
        """A lane, ready to send, for the native core."""
        return _native(self[number])

    def row(self) -> tuple[NativeLane, ...]:
        """All of them for the native core, as they are."""
        return tuple(NativeLane() if lane is None else _native(lane) for lane in self._row)

    def _another(self, number: int) -> Lane:
        try:
            lane = self._open()
        except OSError:
            return self.opened[number % len(self.opened)]
        self.opened.append(lane)
        return lane

    def _open(self) -> Lane:
        sock = self._make()
        has_port = sock.family in (socket.AF_INET, socket.AF_INET6)
        return Lane(sock, int(sock.getsockname()[1]) if has_port else 0)

    def close(self) -> None:
        for lane in self.opened:
            lane.socket.close()


def _native(lane: Lane) -> NativeLane:
    return NativeLane(lane.socket.fileno(), lane.port)
