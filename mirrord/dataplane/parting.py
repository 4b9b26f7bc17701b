"""Sessions of very unequal rates part: the busy ones go on with a capture of their own.

Where one member of a tap is so busy that it takes a ring (load.BUSY), those with less than a tenth of its frames would
lose theirs whenever it floods the ring. The sources of one session, which leave by one way, count as one and stay
together: its copies are to be in order. The other capture is opened beside; a moment later a time is set: what the
kernel stamped before, the busy ones take from the tap, and the rest from there, once all of the former has been read.
The stamp is the frame's own and the same at both, so each frame is one or the other. They do not come together again
until a session is begun anew.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirrord.dataplane.capture import load
from mirrord.dataplane.capture.packet_socket import Capture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirrord.dataplane.filter.by_device import Asked
    from mirrord.dataplane.memory import Memory
    from mirrord.dataplane.pipeline import Pipeline
    from mirrord.plans import CapturePlan

GRACE_SECONDS = 0.02
"""How long after a change of the filter a frame may still come that the one before took: one that was under way."""

UNEQUAL = 10
"""How many times the frames of another a busy member must get for the two to part."""


@dataclass(slots=True)
class Aside:
    """A capture for members that part from their tap, and the time from which on what was captured is theirs there."""

    capture: Capture
    pipelines: tuple[Pipeline, ...]
    border: int = 0  # nanoseconds since 1970


class Rates:
    """How many frames a second each member of a tap gets. Times are monotonic, in seconds."""

    def __init__(self, pipelines: Sequence[Pipeline]) -> None:
        self._at, self._got = time.monotonic(), dict.fromkeys(pipelines, 0)
        self._read = 0

    def outgrown(self, pipelines: Sequence[Pipeline], read: int, now: float, *, settled: bool) -> list[Pipeline]:
        """The members that are so busy that they are to part from the others; none, mostly. `read`: frames, by the tap.

        To be asked often: it compares what they got since it was asked before. None part while the tap is not settled.
        """
        elapsed = now - self._at
        if elapsed < load.LOOK_SECONDS["socket"]:
            return []
        self._at, came, self._read = now, read - self._read, read
        if came < load.BUSY * elapsed:  # nor is any member: not to count what each of thousands got is quicker
            self._got = {}
            return []
        before, self._got = self._got, {one: one.read for one in pipelines}
        if self._got.keys() - before.keys() or not settled:
            return []
        got: Counter[int] = Counter()  # by way
        for one, count in self._got.items():
            got[id(one.transmit)] += count - before[one]
        most = max(got.values())
        if most < load.BUSY * elapsed:
            return []
        busy = {way for way, count in got.items() if count * UNEQUAL > most}
        return [one for one in self._got if id(one.transmit) in busy] if len(busy) < len(got) else []


def open_aside(plan: CapturePlan, pipelines: Sequence[Pipeline], wanted: Asked, memory: Memory | None = None) -> Aside:
    """Open a capture for members to part with. OSError; takes long: not for the thread that runs the tap."""
    mode = "ring" if plan.mode == "auto" else plan.mode
    capture = Capture(plan, wanted, mode=mode, stamped=True, memory=memory)
    time.sleep(GRACE_SECONDS)  # until the kernel stamps frames, and its filter has seen all that come
    return Aside(capture, tuple(pipelines))
