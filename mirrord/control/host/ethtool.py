"""Questions to a device's driver: ethtool(8), linux/ethtool.h."""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct

from mirrord.kernel import SIOCETHTOOL


def ask(device: str, request: bytes) -> bytes:
    """The memory of a command, as the driver of a device of the thread's network namespace leaves it; as long as the
    request. OSError: ENODEV, EOPNOTSUPP, ...
    """
    memory = ctypes.create_string_buffer(request, len(request))
    interface = struct.pack("16sP16x", device.encode(), ctypes.addressof(memory))  # struct ifreq, netdevice(7)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, interface)
    return memory.raw
