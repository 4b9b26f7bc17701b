"""Which sources are busy before anything is captured of them, by their devices' own counters.

A capture that begins as a plain socket on a device that carries a million frames a second loses some before a ring is
there; one that begins as a ring does not. What was guessed wrong moves soon: a driver that brings its counters up to
date once a second tells nothing, or too much, and a filter may want few of the frames that pass.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress

from mirrord.control.host import device_counters
from mirrord.dataplane.capture.load import BUSY, calls_for_ring
from mirrord.dataplane.netns import inside
from mirrord.plans import CapturePlan, Netns

SECONDS = 0.02
"""Between the two readings: at 20,000 frames a second, 400 frames."""

Place = tuple[Netns | None, str]
"""A device, and the network namespace where it is."""


def busy(plans: Iterable[CapturePlan]) -> frozenset[Place]:
    """The devices of those whose capture may move that carry enough, in small frames, for a ring. Takes 20 ms.

    It takes no time where no device has ever carried a second's worth: a device that was just made is not waited for.
    """
    devices: dict[Netns | None, set[str]] = {}
    for plan in plans:
        if plan.mode == "auto":
            devices.setdefault(plan.netns, set()).add(plan.device)
    before = _read(devices)
    old = {place for place, (frames, _) in before.items() if frames >= BUSY}
    if not old:
        return frozenset()
    begun = time.monotonic()
    time.sleep(SECONDS)
    after, elapsed = _read(devices), time.monotonic() - begun
    return frozenset(place for place in old & after.keys() if _is_busy(before[place], after[place], elapsed))


def rates() -> dict[str, tuple[float, float]]:
    """Frames and bits a second, both ways together, of every device of the thread's network namespace. Takes 200 ms."""
    before, begun = _counters(), time.monotonic()
    time.sleep(10 * SECONDS)
    after, elapsed = _counters(), time.monotonic() - begun
    return {
        name: (max(frames - before[name][0], 0) / elapsed, max(size - before[name][1], 0) * 8 / elapsed)
        for name, (frames, size) in after.items()
        if name in before
    }


def _counters() -> dict[str, tuple[int, int]]:
    """Frames and bytes that each device of the thread's network namespace has received and sent."""
    return {
        name: (one.received_frames + one.sent_frames, one.received_bytes + one.sent_bytes)
        for name, one in device_counters.read().items()
    }


def _is_busy(before: tuple[int, int], after: tuple[int, int], elapsed: float) -> bool:
    frames, size = after[0] - before[0], after[1] - before[1]
    return calls_for_ring(frames / elapsed, size / max(frames, 1))


def _read(devices: Mapping[Netns | None, Collection[str]]) -> dict[Place, tuple[int, int]]:
    """Frames and bytes that each device has received and sent; nothing of those that are gone."""
    found: dict[Place, tuple[int, int]] = {}
    for netns, names in devices.items():
        with suppress(OSError):  # the namespace is gone, which to open the capture will tell
            found |= {(netns, name): row for name, row in inside(netns, _counters).items() if name in names}
    return found
