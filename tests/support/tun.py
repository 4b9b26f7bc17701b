"""Devices without Ethernet: tuns, whose wire is a file descriptor, as VPN daemons have it.

host tun0 ==== this process ==== tun0 peer
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import threading
from collections import deque
from typing import Self

from tests.support.topology import Host

# linux/if_tun.h
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 = 1, 2, 4
NO_OFFLOAD = bytes(10)  # struct virtio_net_hdr: a packet that is finished
LONGEST = len(NO_OFFLOAD) + 65535
_REQUEST = struct.Struct("=16sH22x")  # struct ifreq with flags in it


def open_tun(host: Host, name: str) -> int:
    """A tun in a host, up, which takes super-frames and unfinished checksums as they are. To close this ends it."""

    def make() -> int:
        wire = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(wire, TUNSETIFF, _REQUEST.pack(name.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
        fcntl.ioctl(wire, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)
        return wire

    wire = host.call(make)
    host.ip(f"link set dev {name} up")
    return wire


class Tun:
    """One tun; `send` is what comes from its other end."""

    def __init__(self, host: Host, name: str) -> None:
        self._wire = open_tun(host, name)

    def send(self, packet: bytes) -> None:
        os.write(self._wire, NO_OFFLOAD + packet)

    def close(self) -> None:
        os.close(self._wire)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Tunnel:
    """A tun of this name in each of two hosts: what one sends the other receives, super-frames as they are."""

    def __init__(self, one: Host, other: Host, name: str) -> None:
        self._wires = open_tun(one, name), open_tun(other, name)
        self._over, self._end = os.pipe()
        self._thread = threading.Thread(target=self._relay)
        self._thread.start()

    def _relay(self) -> None:
        waiting: dict[int, deque[bytes]] = {wire: deque() for wire in self._wires}
        others = dict(zip(self._wires, reversed(self._wires), strict=True))
        while True:
            full = [wire for wire in self._wires if waiting[wire]]
            ready, _, _ = select.select([self._over, *self._wires], full, [])
            if self._over in ready:
                return
            for wire in ready:
                waiting[others[wire]].append(os.read(wire, LONGEST))
            for wire in self._wires:
                while waiting[wire]:
                    os.write(wire, waiting[wire].popleft())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._end)
        self._thread.join()
        for descriptor in (self._over, *self._wires):
            os.close(descriptor)
