"""Sessions of very unequal rates part: the busy ones go on with a capture of their own.

Where one member of a tap is so busy that it takes a ring (load.BUSY), those with less than a tenth of its frames would
lose theirs whenever it floods the ring. The sources of one session, which leave by one way, count as one and stay
together: its copies are to be in order. Of a socket on all devices a source parts that is as busy, or sends as much,
whatever the others do, one after the other: a socket of its own is no dearer then.

The other capture is opened beside; a moment later a time is set: what the kernel stamped before, the busy ones take
from the tap, and the rest from there, once all of the former has been read. The stamp is the frame's own and the same
at both, so each frame is one or the other. They do not come together again until a session is begun anew.

Where the clock that stamps them is set back in between, by a moment or a year, what comes after the tap has let go of
them may be stamped before that time, and nobody takes it, until all is read that came while they parted. How many of
these frames there were is not known: no more than they have read and not got. So many count as lost, though the tap
may have given them some; and what it gave may have come after what they get. If the clock was set before that time,
they part later.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from mirrord.dataplane.capture import load
from mirrord.dataplane.capture.packet_socket import Capture
from mirrord.dataplane.clock import Reading, read_clock
from mirrord.dataplane.counters import Slot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mirrord.dataplane.counters import Seen
    from mirrord.dataplane.filter.by_device import Asked
    from mirrord.dataplane.membership import Member
    from mirrord.dataplane.memory import Memory
    from mirrord.dataplane.native import core
    from mirrord.dataplane.pipeline import Pipeline
    from mirrord.plans import CapturePlan

GRACE_SECONDS = 0.02
"""How long after a change of the filter a frame may still come that the one before took: one that was under way."""

UNREAD_SECONDS = 0.1
"""How long it may take until the other capture is read, twice GRACE_SECONDS at least: the worker reads the first one to
its end before.
"""

UNEQUAL = 10
"""How many times the frames of another a busy member must get for the two to part."""

BULK = 100 << 20
"""Bytes a second of a device among several that would soon fill their ring, however few frames these are in."""

LOOK_SECONDS_A_MEMBER = 0.0005
"""How long frames are counted for one judgement, for each member: to ask each takes 1 us."""

_FRAMES = int(Slot.read_ingress_frames), int(Slot.read_egress_frames)
_OCTETS = int(Slot.read_ingress_bytes), int(Slot.read_egress_bytes)


@dataclass(slots=True)
class Aside:
    """A capture for members that part from their tap, and the time from which on what was captured is theirs there."""

    capture: Capture
    pipelines: tuple[Pipeline, ...]
    border: Reading = field(default_factory=read_clock)


class Rates:
    """How many frames a second each member of a tap gets. Times are monotonic, in seconds."""

    def __init__(self, members: Sequence[Member], seen: Seen, native: core.Tap | None) -> None:
        self._seen, self._native, self._at = seen, native, time.monotonic()
        self._got = {one.pipeline: got_by(one.pipeline) for one in members}
        self._all = Got(0, 0)

    def outgrown(self, members: Sequence[Member], now: float, *, settled: bool) -> list[Pipeline]:
        """The members that are so busy that they are to part from the others; none, mostly.

        To be asked often: it compares what they got since it was asked before. None part while the tap is not settled.
        """
        elapsed = now - self._at
        if elapsed < max(load.LOOK_SECONDS["socket"], LOOK_SECONDS_A_MEMBER * len(members)):
            return []
        before, self._all, self._at = self._all, Got(self._seen.read, self._seen.read_bytes), now
        busiest = None if self._native is None else self._native.busiest()
        most = self._all - before if busiest is None else Got(*busiest)
        if not most.is_busy(elapsed):  # nor is any member: not to count what each got is quicker
            self._got = {}
            return []
        last, self._got = self._got, {one.pipeline: got_by(one.pipeline) for one in members}
        if self._got.keys() - last.keys() or not settled or not _may_be_busy(last, self._got, elapsed):
            return []
        got = [(one, self._got[one.pipeline] - last[one.pipeline]) for one in members]
        found = (_busiest_alone(got, elapsed), _unequal(got, elapsed))
        return next((parting for parting in found if 0 < len(parting) < len(members)), [])


class Got(NamedTuple):
    frames: int
    octets: int

    def __sub__(self, before: Got) -> Got:
        return Got(self.frames - before.frames, self.octets - before.octets)

    def is_busy(self, elapsed: float) -> bool:
        return self.frames >= load.BUSY * elapsed or self.octets >= BULK * elapsed


def got_by(pipeline: Pipeline) -> Got:
    """The frames that were read for it, and their bytes."""
    row, (ingress, egress), (ingress_octets, egress_octets) = pipeline.counters.row, _FRAMES, _OCTETS
    return Got(row[ingress] + row[egress], row[ingress_octets] + row[egress_octets])


def missed(member: Member, seen: Seen) -> int:
    """How many frames of those that a tap has read this member may have missed, if it has been one all the time."""
    return max(seen.read - got_by(member.pipeline).frames + member.got, 0)


def _may_be_busy(before: Mapping[Pipeline, Got], got: Mapping[Pipeline, Got], elapsed: float) -> bool:
    """Whether one of them is busy, or may be with what leaves by its way; mostly none is, and that is all to ask."""
    frames: dict[int, int] = defaultdict(int)  # by way
    for pipeline, (all_frames, octets) in got.items():
        frames_before, octets_before = before[pipeline]
        if octets - octets_before >= BULK * elapsed:
            return True
        frames[id(pipeline.transmit)] += all_frames - frames_before
    return max(frames.values()) >= load.BUSY * elapsed


def next_alone(members: Sequence[Member]) -> list[Pipeline]:
    """The sessions of one device among several, where they have no other device; none where all have."""
    alone = _alone(members)
    return [one.pipeline for one in alone if one.device == alone[0].device]


def every_second(members: Sequence[Member]) -> list[Pipeline]:
    """The sessions of half of those devices; none where there is one."""
    alone = _alone(members)
    half = set(list(dict.fromkeys(one.device for one in alone))[1::2])
    return [one.pipeline for one in alone if one.device in half]


def _busiest_alone(got: Sequence[tuple[Member, Got]], elapsed: float) -> list[Pipeline]:
    """The same of the busiest device, if that is fit for a capture of its own: it costs no more then, and leaves the
    others room.
    """
    alone = _alone([one for one, _ in got])
    devices = {one.device for one in alone}
    busy = [(count, one.device) for one, count in got if one.device in devices and count.is_busy(elapsed)]
    _, busiest = max(busy, default=(None, 0))
    return [one.pipeline for one in alone if one.device == busiest]


def _alone(members: Sequence[Member]) -> list[Member]:
    """Those of one device among several whose way is no other device's."""
    devices: dict[int, set[int]] = {}  # by way
    for one in members:
        devices.setdefault(id(one.pipeline.transmit), set()).add(one.device)
    return [one for one in members if one.device and len(devices[id(one.pipeline.transmit)]) == 1]


def _unequal(got: Sequence[tuple[Member, Got]], elapsed: float) -> list[Pipeline]:
    """The sessions that get many times the frames of others."""
    frames: Counter[int] = Counter()  # by way
    for one, count in got:
        frames[id(one.pipeline.transmit)] += count.frames
    most = max(frames.values())
    busy = {way for way, count in frames.items() if count * UNEQUAL > most >= load.BUSY * elapsed}
    return [one.pipeline for one, _ in got if id(one.pipeline.transmit) in busy]


def open_aside(
    plan: CapturePlan, pipelines: Sequence[Pipeline], wanted: Asked, memory: Memory | None = None, *, busy: bool
) -> Aside:
    """Open a capture for members to part with, which is a ring where they are `busy`, if the plan leaves that open, and
    the ring has room for what comes before its turn. OSError; takes long: not for the thread that runs the tap.
    """
    mode = "ring" if busy and plan.mode == "auto" else ""
    capture = Capture(plan, wanted, mode=mode, stamped=True, memory=memory)
    if mode and not capture.may_wait(UNREAD_SECONDS):
        capture.close()
        capture = Capture(plan, wanted, stamped=True, memory=memory)
    try:
        capture.reject_all()
        time.sleep(GRACE_SECONDS)  # until the kernel stamps frames
        capture.select(*wanted)
    except BaseException:
        capture.close()
        raise
    return Aside(capture, tuple(pipelines))
