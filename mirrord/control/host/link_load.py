"""How fast network devices are and what they have sent, as the kernel says.

`/proc/net/dev` (proc(5)) has the counters of a namespace's devices, ETHTOOL_GSET (linux/ethtool.h) a link's speed.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

SIOCETHTOOL = 0x8946  # linux/sockios.h
ETHTOOL_GSET = 1
_UNKNOWN = (0, 0xFFFFFFFF)  # Mbit/s: SPEED_UNKNOWN, and what drivers say that do not know
_SENT = 8  # the column after the name that tells bytes sent

# struct ethtool_cmd: cmd; speed in Mbit/s, its lower half; its upper half
_COMMAND = struct.Struct("=I 8x H 14x H 14x")


class Sample(NamedTuple):
    """Bytes sent since the device was made, and its speed in bits a second; 0 when that is not known."""

    sent: int
    speed: int


def sample(devices: Iterable[str]) -> dict[str, Sample]:
    """A sample of those of these devices that are there, in the calling thread's network namespace."""
    wanted = set(devices)
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for line in Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]:
            name, counters = line.rsplit(":", 1)
            if name.strip() in wanted:
                found[name.strip()] = Sample(int(counters.split()[_SENT]), _speed(sock, name.strip()))
    return found


def _speed(sock: socket.socket, device: str) -> int:
    command = array.array("B", _COMMAND.pack(ETHTOOL_GSET, 0, 0))
    request = struct.pack("16sP16x", device.encode(), command.buffer_info()[0])  # struct ifreq, netdevice(7)
    try:
        fcntl.ioctl(sock, SIOCETHTOOL, request)
    except OSError:
        return 0
    _, low, high = _COMMAND.unpack(command)
    megabits = high << 16 | low
    return 0 if megabits in _UNKNOWN else megabits * 1_000_000
