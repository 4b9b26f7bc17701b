"""How fast network devices are and what they have sent: ETHTOOL_GSET (linux/ethtool.h) tells a link's speed."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from mirrord.control.host import device_counters, ethtool
from mirrord.kernel import ETHTOOL_GSET

_UNKNOWN = (0, 0xFFFFFFFF)  # Mbit/s: SPEED_UNKNOWN, and what drivers say that do not know

# struct ethtool_cmd: cmd; speed in Mbit/s, its lower half; its upper half
_COMMAND = struct.Struct("=I 8x H 14x H 14x")


class Sample(NamedTuple):
    """Bytes sent since the device was made, and its speed in bits a second; 0 when that is not known."""

    sent: int
    speed: int


def sample(devices: Iterable[str]) -> dict[str, Sample]:
    """A sample of those of these devices that are there, in the calling thread's network namespace."""
    carried = device_counters.read()
    return {name: Sample(carried[name].sent_bytes, _speed(name)) for name in set(devices) & carried.keys()}


def _speed(device: str) -> int:
    try:
        _, low, high = _COMMAND.unpack(ethtool.ask(device, _COMMAND.pack(ETHTOOL_GSET, 0, 0)))
    except OSError:
        return 0
    megabits = high << 16 | low
    return 0 if megabits in _UNKNOWN else megabits * 1_000_000
