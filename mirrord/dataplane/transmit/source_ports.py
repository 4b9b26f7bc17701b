"""The source ports of tunnels whose outer headers are ours, kept by sockets that send nothing.

By these sockets the kernel learns the path MTU, too: what a router says of it is heard only for the sake of a socket.

All tunnels that leave alike for one address have the same ports, as a vxlan device has one range of them for all of its
packets. So 1,000 sessions with one collector take one row of sockets, and copies of several sessions may leave in one
message: the kernel gives each segment of it the same outer headers.
"""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from dataclasses import replace
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING

from mirrord.dataplane.transmit.lanes import Lanes
from mirrord.dataplane.transmit.tunnel_socket import clear_errors, tunnel_socket

if TYPE_CHECKING:
    from mirrord.plans import TunnelPlan

_numbers = count(1)


class SourcePorts(Lanes):
    """A row of lanes that several transmits share. `number` is no other row's. Any thread may use them.

    Raises OSError as Lanes.
    """

    def __init__(self, plan: TunnelPlan, lanes: int) -> None:
        self.number = next(_numbers)
        self._plan, self._users = plan, 1
        self._errors = select.epoll()
        self._times_told = 0
        try:
            super().__init__(lanes, self._make)
        except BaseException:
            self._errors.close()
            raise

    @classmethod
    def of(cls, plan: TunnelPlan, lanes: int) -> SourcePorts:
        """Those of the plan, whatever its next hop is: each caller closes them once, the last one does."""
        key = replace(plan, hop=None, gso=False, overtakes=False)
        with _lock:
            ports = _rows.get(key)
            if ports is None:
                ports = _rows[key] = cls(key, lanes)
            else:
                ports._users += 1
            return ports

    def _make(self) -> socket.socket:
        sock = tunnel_socket(self._plan)
        self._errors.register(sock, 0)  # epoll reports errors without being asked to
        return sock

    def times_told(self) -> int:
        """How often ICMP errors have come about what left by these ports, as far as somebody has asked by now."""
        with suppress(OSError, ValueError):  # closed meanwhile: nothing more is told
            ready = {descriptor for descriptor, _ in self._errors.poll(0)}
            for sock, _port in self.opened if ready else ():
                if sock.fileno() in ready:
                    clear_errors(sock)
                    sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._times_told += bool(ready)
        return self._times_told

    def close(self) -> None:
        with _lock:
            self._users -= 1
            if self._users:
                return
            del _rows[self._plan]
        super().close()
        self._errors.close()


_rows: dict[TunnelPlan, SourcePorts] = {}
_lock = Lock()
