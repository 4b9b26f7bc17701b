"""All frames that arrive at a device, held in memory until the test reads them."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self

from tests.support.topology import Host

ETH_P_ALL = 3
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
ROOM = (1 << 30) - 1  # bytes, more than any test sends


class Receiver:
    """Listens from the time that it is made: `with Receiver(host, "eth0") as receiver: ...`."""

    def __init__(self, host: Host, device: str) -> None:
        self._socket = host.open_socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
        self._socket.setblocking(False)
        self._socket.bind((device, ETH_P_ALL))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def frames(self, ethertype: int) -> list[bytes]:
        """Those of this kind that arrived so far and were not given yet, in order."""
        found: list[bytes] = []
        while True:
            try:
                frame = self._socket.recv(65536)
            except BlockingIOError:
                return found
            if frame[12:14] == ethertype.to_bytes(2, "big"):
                found.append(frame)
