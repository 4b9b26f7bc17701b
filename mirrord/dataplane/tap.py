"""A tap: what is captured once, and the pipelines of all sessions that want its frames.

How it works. Sessions whose sources are the same device, in the same network namespace, and that ask for the same way
of capturing (`capture`, `ring_size`, `workers`, promiscuous) join the same tap, whatever their directions, filters,
tags and destinations. The tap has one packet socket, whose filter in the kernel takes what any of them wants: a frame
that nobody wants costs the sender one program, however many sessions there are; what several want is copied once.
A frame is read and parsed once. A second program gives the set of members that may want it (several.compile_sets); each
of these, in the order of joining, matches it exactly where that is not certain, and makes and sends its copies. A
block of frames goes to one member after the other, so that each fills its own messages. The Python plane, which
defines the meaning, asks each member.

Several devices. A session of a bridge, a list or a pattern wants the frames of its devices in the order in which they
came: no answer before its question, which came by another NIC. One socket on all devices of the namespace (the way of
tcpdump -i any) gives that for nothing, and one ring of all of them costs a frame as one source's does: 211-221 ns to
read 200 devices at 100,000 frames/s, 151-183 to read one, 2,023-2,583 with a socket for each (bench/primitives/many.c,
load average 4). So all such sessions of a namespace that agree on how share a tap that is `everywhere`, and the sources
of other sessions join it where they are many (control/running/gathering.py). Its filter
begins with the device's index, see filter/by_device.py; a member wants what is of its device. Sources of one session
leave by one way (WayOut.hold), and the core fills one batch of them in the order of capture. Merging sockets of their
own by the kernel's stamp would need frames held back for as long as a ring keeps a block, and 200 of everything.

What that costs: the kernel clones each frame that any device of the namespace sends before it asks the filter, some
350 ns of 1,100 for devices that nobody mirrors, where what is received pays some comparisons. Copies are spared that:
they leave by a socket of the tap's own, see capture/sender.py. Where such devices send
too much for that (control/host/bystanders.py), when a session begins, its sources are captured one by one, in taps of
their own, and their order is given up; of those that run, the ones without an order to keep part. What the one ring has
no room for may have been any device's: it counts for all members of the tap, and once for "several devices". A device
that comes or goes is a member that joins or leaves.

Why not a socket for each set of sessions that a frame may belong to (PACKET_FANOUT_CBPF): the kernel then runs the
same union as the fanout's program and keeps a ring for each set, and there can be many sets. One ring is read in order
and takes one filter.

What a member counts. What it is alone with, the kernel matched for it: then its frames need no second look. Where
there are several, a frame is captured and read for a member when it matches; what matches nobody is nobody's. A frame
that the ring had no room for may have been anybody's: it counts as captured and as `ring_full` for every member, and
once for the source (`mirrord_capture_lost_frames_total`). So captured = mirrored + skipped + dropped for each of them,
and what is not known is never counted as mirrored. How members come and go while frames do: see sharing.py.

A tunnel's end is not shared: each session has a socket of its own there, see listener.py.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from mirrord.dataplane.capture.fanout import Group
from mirrord.dataplane.capture.packet_socket import BLOCK_SIZE, Capture
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.divisible import DivisibleSource
from mirrord.dataplane.trimming import chosen, may_trim
from mirrord.plans import CapturePlan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirrord.dataplane.capture.way_in import WayIn
    from mirrord.dataplane.frame.wire import Frame
    from mirrord.dataplane.membership import Member
    from mirrord.dataplane.memory import Memory
    from mirrord.dataplane.parting import Aside
    from mirrord.dataplane.pipeline import Pipeline

TURN_SECONDS = 0.004
"""How long a turn may take, a few copies more or less, however much waits: other taps have theirs. What it waits for
room is bounded beside that, see transmit.PATIENCE_MILLISECONDS."""

HALF_FULL = 0.5
"""How much of a ring may wait before fewer conversations are mirrored, where sessions allow that."""


class Tap(DivisibleSource):
    """An open source, and the pipelines that want its frames. `failure` says why no frames come ("" while they may).

    Where the source is divided by several workers it is one of several taps in the same `group`. They take frames when
    all are open and each was told to `begin`, so that what is between two addresses comes to the same one from its
    first frame on.

    A ring comes out of `memory`. A capture that may move begins as one when the source is known to be `busy`, else as a
    plain socket. With `aside` the pipelines part from another tap, whose members they were.

    Raises OSError, as Capture does, when it cannot be opened.
    """

    def __init__(
        self,
        pipelines: Sequence[Pipeline],
        *,
        native: bool,
        busy: bool = False,
        group: Group | None = None,
        aside: Aside | None = None,
        memory: Memory | None = None,
    ) -> None:
        self._looked_at = -1  # frames read, when it was last looked at
        self._misses = False  # packets of a tunnel that may still come
        self._failures: list[tuple[Pipeline, Exception]] = []
        self._came = 0  # frames, when that was last looked at
        self._rests = False  # what is lost is left out on purpose
        self._rests_until: int | None = None  # when so many frames have been read
        self.left_out = 0  # frames that there was no room for while the worker rested
        super().__init__(pipelines, native=native, busy=busy, group=group, aside=aside, memory=memory)

    # --- frames ---

    def run(self) -> bool:
        """Forward what has been captured: at most a few blocks, so that other taps get their turn.

        Tells whether there is more.
        """
        if self.native is None:
            return self._run_reference()
        more = self.native.run()
        self.ran()
        return more

    def ran(self) -> None:
        """Update the counters and the error after the core has run."""
        self.update()
        self._see_error(0 if self.native is None else self.native.error())

    def _run_reference(self) -> bool:
        until = time.monotonic() + TURN_SECONDS
        for member in self._members:
            self._have_work(member, member.pipeline.transmit.begin_turn)
        if self.mode == "ring":
            fill = self.capture.fill()
            self._ring_fill.see(fill, time.monotonic())
            if fill > HALF_FULL:
                for pipeline in self.pipelines:
                    pipeline.press()
        everybody, wanting = list(self._members), self._by_device
        for frame in self.capture.read():
            self.seen.count_read(len(frame.data))
            for member in wanting.get(frame.device, []) if self.everywhere else everybody:
                if member.since <= frame.time < member.until:
                    self._have_forwarded(member, frame)
            if time.monotonic() >= until:
                break
        self.update()
        self.note_error()  # the reading may have come upon one
        return self.seen.waiting > 0

    def _have_forwarded(self, member: Member, frame: Frame) -> None:
        try:
            member.pipeline.forward(frame)
        except Exception as error:  # noqa: BLE001 (of any kind; see _break)
            self._break(member, error)

    def _have_work(self, member: Member, work: Callable[[], None]) -> None:
        """Do this for a member, unless an error has ended its work."""
        if member.broken:
            return
        try:
            work()
        except Exception as error:  # noqa: BLE001 (of any kind; see _break)
            self._break(member, error)

    def _break(self, member: Member, error: Exception) -> None:
        """Stop a member whose work raised an error: its state is not known. The others go on."""
        if not member.broken:
            member.broken = True
            self._failures.append((member.pipeline, error))
        member.pipeline.failure = f"an error in its work: {type(error).__name__}: {error}"
        member.pipeline.lose_begun()
        member.pipeline.block(Slot.dropped_ring_full)

    def take_failures(self) -> list[tuple[Pipeline, Exception]]:
        """The members whose work an error ended since this was last asked."""
        failures, self._failures = self._failures, []
        return failures

    # --- what it costs ---

    def rest(self) -> None:
        """Nothing is read for a while: what there is no room for until it has caught up counts as `paused`."""
        self.update()
        self._rests, self._rests_until = True, None

    @property
    def _lost_as(self) -> Slot:
        return Slot.skipped_paused if self._rests else Slot.dropped_ring_full

    @property
    def lost(self) -> int:
        """Frames that there was no room for, though it was read."""
        return self.seen.lost - self.left_out

    def look(self) -> None:
        """Update what may change without a frame. To be called from time to time."""
        self._looked_at = self.seen.read
        if self.numbers is not None:
            missing, self._misses = self.numbers.settle()
            self._miss(missing)
        if self.native is not None and self.mode == "ring":
            self._ring_fill.see(self.native.most_waiting(True) / self.capture.block_count, time.monotonic())
        self.update()
        self._trim()

    def _trim(self) -> None:
        """Have the kernel keep but the headers of what is skipped for certain, see trimming.py."""
        capture, since, self._trims = self.capture, self._trims, False
        settled = capture.exact and self._successor is None and not (self._mixed or self.everywhere)
        if not isinstance(capture, Capture) or len(self._members) != 1 or not settled:
            return
        member = self._members[0]
        if member.leaves or not may_trim(member.pipeline.plan):
            return
        self._trims, skipped = True, member.pipeline.take_skipped()
        flows = chosen(skipped, capture.trimmed) if since else capture.trimmed  # what was before may be long ago
        if flows != capture.trimmed:
            capture.trim(flows)

    def update(self) -> None:
        """Bring up to date what was lost, and what was taken. After the last frame was read it is exact."""
        captured, lost, malformed, missing = self.capture.statistics()
        self._count_taken(captured, lost)
        self._miss(missing)
        for member in self._timed:
            self._have_work(member, member.pipeline.transmit.tend)
        for member in self._members if malformed else ():
            member.pipeline.lose(malformed, Slot.dropped_malformed)
        came = self.capture.came(self.seen)
        if came != self._came:  # where there are more, nothing keeps them away any more
            self._came, self.failure = came, ""

    def _miss(self, packets: int) -> None:
        for member in self._members if packets else ():
            member.pipeline.counters.add(Slot.missing, packets)

    def _count_taken(self, taken: int, lost: int) -> None:
        self.seen.count_taken(taken, lost)
        for pipeline in self.pipelines if lost else ():
            pipeline.lose(lost, self._lost_as)
        if self._rests:
            self.left_out += lost
            if self._rests_until is None:
                self._rests_until = self.seen.taken - self.seen.lost
            self._rests = self.seen.read < self._rests_until

    def quiet(self) -> bool:
        """Whether there can be no news: it did not run, and nothing of it acts by time."""
        acts = bool(self._timed or self.capture.trimmed) or self._misses or self.spreads
        return self.seen.read == self._looked_at and self.capture.ring is None and not acts

    def succeed(self) -> WayIn:
        """Go on with the capture that this one moves to. Gives the one that ends, drained, for the caller to close."""
        assert self.mode_switch is not None  # it moves
        ended, self.capture = self.capture, self.mode_switch.succeed()
        (taken, lost), self._ahead = self._ahead, (0, 0)
        self._count_taken(taken, lost)
        if self.native is not None:
            self.native.move(descriptor=self.capture.fileno(), ring=self.capture.ring, block_size=BLOCK_SIZE)
        if self.capture.exact != ended.exact:
            self._tell()
        return ended

    def left_behind(self) -> int:
        """Take nothing from now on; how many frames were taken and will not be read, where the thread is stuck."""
        with suppress(OSError):
            self._reject_all()
            captured, lost, *_ = self.capture.statistics()
            self._count_taken(captured, lost)
            self._see_ahead()
        return self.seen.waiting + self._ahead[0]


def tap_of(pipeline: Pipeline) -> Tap | None:
    """The tap that a pipeline has joined; None before it joins one."""
    return pipeline.source if isinstance(pipeline.source, Tap) else None


def open_taps(
    pipelines: Sequence[Sequence[Pipeline]], *, native: bool, busy: bool = False, memory: Memory | None = None
) -> list[Tap]:
    """Open a source for sessions' pipelines: as many taps as each session has pipelines, the nth for all the nth ones.

    OSError when one cannot be opened: then none is.
    """
    taps: list[Tap] = []
    columns = list(zip(*pipelines, strict=True))
    plan = pipelines[0][0].plan.capture
    raw = isinstance(plan, CapturePlan) and plan.raw
    group = Group(divides=True, raw=raw) if len(columns) > 1 else None
    try:
        for column in columns:
            taps.append(Tap(column, native=native, busy=busy, group=group, memory=memory))  # noqa: PERF401 (each is to be closed)
        for tap in taps:
            tap.begin()
    except BaseException:
        for tap in taps:
            tap.close()
        raise
    return taps
