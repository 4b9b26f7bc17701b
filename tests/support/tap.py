"""A tap: a device whose wire is a file descriptor, as a virtual machine's NIC has it."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from typing import Self

from tests.support.topology import Host

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000  # linux/if_tun.h
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1  # linux/sockios.h, netdevice(7)
REQUEST = struct.Struct("=16sH22x")  # struct ifreq with flags in it


class Tap:
    """A tap in a host; it goes when it is closed."""

    def __init__(self, host: Host, name: str) -> None:
        self._name = name.encode()
        self._control = host.open_socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._wire = host.call(self._open)

    def _open(self) -> int:
        wire = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(wire, TUNSETIFF, REQUEST.pack(self._name, IFF_TAP | IFF_NO_PI))
        return wire

    def up(self) -> None:
        """Set the link up; when this returns, it is."""
        _, flags = REQUEST.unpack(fcntl.ioctl(self._control, SIOCGIFFLAGS, REQUEST.pack(self._name, 0)))
        fcntl.ioctl(self._control, SIOCSIFFLAGS, REQUEST.pack(self._name, flags | IFF_UP))

    def send(self, frame: bytes) -> None:
        """A frame from the guest, which the host receives."""
        os.write(self._wire, frame)

    def close(self) -> None:
        os.close(self._wire)
        self._control.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
