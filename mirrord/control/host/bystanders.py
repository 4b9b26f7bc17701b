"""Whether devices that nobody mirrors are too busy for a socket on all devices of their network namespace.

Such a socket gives the frames of several devices in order, and reads many with little traffic at the price of one busy
one. But the kernel copies the head of each frame that any device sends before it asks the socket's program, which then
refuses it: about 350 ns a frame, a third of what sending it costs (bench/primitives, "A device that nobody mirrors").
What is received pays for the program alone.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from contextlib import suppress

from mirrord.control.host import device_counters
from mirrord.dataplane.netns import inside
from mirrord.plans import Netns

SECONDS = 0.1
"""Between the two readings."""

MOST = 100_000
"""Frames a second that they may send in any case: some 3 % of a core."""

SHARE = 4
"""How many times what the mirrored devices carry they may send: then most of the sockets' work is still wanted."""


class Bystanders:
    """What devices that nobody mirrors send while sessions run."""

    def __init__(self) -> None:
        self._before: dict[Netns | None, tuple[float, dict[str, device_counters.Carried]]] = {}

    def look(self, mirrored: Mapping[Netns | None, Collection[str]]) -> frozenset[Netns | None]:
        """The namespaces of these devices where the others have sent too much since this was last asked."""
        last, self._before = self._before, {}
        found = set()
        for netns, devices in mirrored.items():
            with suppress(OSError):  # the namespace is gone
                self._before[netns] = now, carried = time.monotonic(), inside(netns, device_counters.read)
                if netns in last:
                    then, before = last[netns]
                    both = before.keys() & carried.keys()
                    sums = [_sums({name: one[name] for name in both}, devices) for one in (before, carried)]
                    if _are_too_busy(sums[0], sums[1], now - then):
                        found.add(netns)
        return frozenset(found)


def too_busy(mirrored: Mapping[Netns | None, Collection[str]]) -> frozenset[Netns | None]:
    """The namespaces of these devices where the others send too much. Takes 0.1 s for each that has ever been busy."""
    return frozenset(netns for netns, devices in mirrored.items() if _too_busy(netns, devices))


def _too_busy(netns: Netns | None, devices: Collection[str]) -> bool:
    with suppress(OSError):  # it is gone, which to open the capture will tell
        before = _sums(inside(netns, device_counters.read), devices)
        if before[1] < MOST:
            return False
        begun = time.monotonic()
        time.sleep(SECONDS)
        after, elapsed = _sums(inside(netns, device_counters.read), devices), time.monotonic() - begun
        return _are_too_busy(before, after, elapsed)
    return False


def _are_too_busy(before: tuple[int, int], after: tuple[int, int], elapsed: float) -> bool:
    wanted, others = (now - then for now, then in zip(after, before, strict=True))
    return others > MOST * elapsed and others > SHARE * wanted


def _sums(carried: Mapping[str, device_counters.Carried], devices: Collection[str]) -> tuple[int, int]:
    """Frames that these devices have received and sent, and that all others have sent."""
    wanted = others = 0
    for name, one in carried.items():
        if name in devices:
            wanted += one.received_frames + one.sent_frames
        else:
            others += one.sent_frames
    return wanted, others
