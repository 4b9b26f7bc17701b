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
load average 4). So all such sessions of a namespace that agree on how share a tap that is `everywhere`. Its filter
begins with the device's index, see filter/by_device.py; a member wants what is of its device. Sources of one session
leave by one way (WayOut.hold), and the core fills one batch of them in the order of capture. Merging sockets of their
own by the kernel's stamp would need frames held back for as long as a ring keeps a block, and 200 of everything.

What that costs: the kernel clones each frame that any device of the namespace sends before it asks the filter, some
350 ns of 1,100 for devices that nobody mirrors, where what is received pays some comparisons. Where such devices send
too much for that (control/host/bystanders.py), when a session begins, its sources are captured one by one, in taps of
their own, and their order is given up. What the one ring has no room for may have been any device's: it counts for all
members of the tap, and once for "several devices". A device that comes or goes is a member that joins or leaves.

Why not a socket for each set of sessions that a frame may belong to (PACKET_FANOUT_CBPF): the kernel then runs the
same union as the fanout's program and keeps a ring for each set, and there can be many sets. One ring is read in order
and takes one filter.

What a member counts. What it is alone with, the kernel matched for it: then its frames need no second look. Where
there are several, a frame is captured and read for a member when it matches; what matches nobody is nobody's. A frame
that the ring had no room for may have been anybody's: it counts as captured and as `ring_full` for every member, and
once for the source (`mirrord_capture_lost_frames_total`). So captured = mirrored + skipped + dropped for each of them,
and what is not known is never counted as mirrored.

Members come and go while frames do. The filter is replaced on the live socket, and each has in it what all others want,
so that they lose nothing. A member that comes gets no frame from before; one that goes gets all that was taken
until then: what waits is counted (`taken` less `lost` by the kernel, `read` here), and it goes when so many frames have
been read. As long as frames may wait that were taken for another, the one member that is left matches exactly, too.

Sessions of very unequal rates part, see parting.py.

A tunnel's end is not shared: each session has a socket of its own there, see listener.py.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from mirrord.dataplane.capture.fanout import Group
from mirrord.dataplane.capture.packet_socket import BLOCK_SIZE, Capture
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.filter.bpf import compile_selection
from mirrord.dataplane.filter.by_device import Asked, Wanted, compile_wanted
from mirrord.dataplane.filter.several import compile_selections, compile_sets
from mirrord.dataplane.membership import FOR_EVER, Member, described, groups_of, one_a_way
from mirrord.dataplane.parting import GRACE_SECONDS, Aside, Rates, open_aside
from mirrord.dataplane.pipeline import Match, Pipeline
from mirrord.dataplane.source import Source
from mirrord.dataplane.ways_in import open_way_in
from mirrord.plans import CapturePlan

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from mirrord.dataplane.capture.way_in import WayIn
    from mirrord.dataplane.filter.rules import Selection
    from mirrord.dataplane.frame.wire import Frame
    from mirrord.dataplane.memory import Memory
    from mirrord.plans import ListenPlan, PipelinePlan

TURN_SECONDS = 0.004
"""How long a turn may take, a few copies more or less, however much waits: other taps have theirs. What it waits for
room is bounded beside that, see transmit.PATIENCE_MILLISECONDS."""

HALF_FULL = 0.5
"""How much of a ring may wait before fewer conversations are mirrored, where sessions allow that."""

SEVERAL_DEVICES = "several devices"
"""The source that a loss counts for which may have been any one's of several. No device has blanks in its name."""


class Tap(Source):
    """An open source, and the pipelines that want its frames. `failure` says why no frames come ("" while they may).

    Where the source is divided by several workers it is one of several taps in the same `group`. They take frames when
    all are open and each was told to `begin`, so that what is between two addresses comes to the same one from its
    first frame on.

    A ring comes out of `memory`. A capture that may move begins as one when the source is known to be `busy`, else as a
    plain socket. With `aside`
    the pipelines part from another tap, whose members they were.

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
        self.plan = aside.capture.plan if aside else _plan_of(pipelines)
        self.source = SEVERAL_DEVICES  # a name for it
        if not self.everywhere:
            self.source = self.plan.device if isinstance(self.plan, CapturePlan) else ""
        self._looked_at = -1  # frames read, when it was last looked at
        self._misses = False  # packets of a tunnel that may still come
        self._failures: list[tuple[Pipeline, Exception]] = []
        self._came = 0  # frames, when that was last looked at
        self._rests = False  # what is lost is left out on purpose
        self._rests_until: int | None = None  # when so many frames have been read
        self.left_out = 0  # frames that there was no room for while the worker rested
        self._members = [self._new_member(pipeline, aside.border if aside else 0) for pipeline in pipelines]
        self._mixed = len(pipelines) > 1 or aside is not None  # frames may wait that were taken for another
        self._changed_at = 0.0
        self._settles_at: int | None = None  # when so many frames have been read
        self._ahead = 0, 0  # frames, taken and lost, where the capture moves to: not yet in `seen`
        self._begins_later = group is not None and group.divides
        self._parted_at: float | None = None  # when some were told to go on elsewhere
        self._parts_at: int | None = None  # when so many frames have been read
        self._rates = Rates(pipelines)
        self._one_a_way: list[Member] = []  # of those that leave by the same way
        self._by_device: dict[int, list[Member]] = {}
        capture = aside.capture if aside else open_way_in(self.plan, self._wanted(), group, memory, busy=busy)
        try:
            super().__init__(capture, native=native)
            self._begin_with(pipelines, aside)
        except BaseException:
            capture.close()
            raise

    def _begin_with(self, pipelines: Sequence[Pipeline], aside: Aside | None) -> None:
        for pipeline in pipelines:
            pipeline.source = self
        for pipeline in one_a_way(pipelines) if aside is None else ():
            pipeline.leave_by(pipeline.new_tx_ring())
        if aside is None:
            self._tell()
        else:
            self._changed()

    def begin(self) -> None:
        """Take frames, now that all that divide the source are there. OSError when the filter cannot be had."""
        if self._begins_later:
            self.capture.select(*self._wanted())
            self._tell()

    # --- members ---

    @property
    def everywhere(self) -> bool:
        """Whether it is on all devices of a namespace, for those that its members want."""
        return isinstance(self.plan, CapturePlan) and not self.plan.device

    def _new_member(self, pipeline: Pipeline, since: int) -> Member:
        capture = pipeline.plan.capture
        device = capture.index if self.everywhere and isinstance(capture, CapturePlan) else 0
        return Member(pipeline, device, since)

    @property
    def pipelines(self) -> list[Pipeline]:
        """Those that get its frames."""
        return [member.pipeline for member in self._members]

    @property
    def changing(self) -> bool:
        """Whether a member came or went so lately that there is something left to do, see `tend`."""
        return self._changed_at > 0

    def join(self, pipelines: Iterable[Pipeline]) -> None:
        """Add members, which get frames from now on. OSError when they cannot be added; the others go on."""
        self.update()  # what was lost before is not theirs
        joining = [self._new_member(pipeline, time.time_ns()) for pipeline in pipelines]
        self._select(also=joining)
        for member in joining:
            member.pipeline.source = self
        self._members += joining
        self._changed()

    def leave(self, pipelines: Iterable[Pipeline]) -> None:
        """Take no more frames for these; those already taken they still get, until `drop`."""
        for pipeline in pipelines:
            self._member(pipeline).leaves = True
        if all(member.leaves for member in self._members):
            self._reject_all()
        else:
            with suppress(OSError):  # then it takes more than is wanted any more
                self._select()
            self._changed()

    def has_left(self, pipeline: Pipeline) -> bool:
        """Whether one that leaves has got all that was taken for it."""
        member = self._member(pipeline)
        if self._successor is not None:
            return False
        self.update()
        if all(one.leaves for one in self._members):
            return self.drained()
        if member.leaves_at is None:
            member.leaves_at = self.seen.taken - self.seen.lost
        return self.seen.read >= member.leaves_at

    def drop(self, pipelines: Iterable[Pipeline]) -> None:
        """End the membership of these. What may have been taken for them, and was not read, they count as lost."""
        with suppress(OSError):  # of a source that an error put aside
            self.update()
            self._see_ahead()
        waiting = self.capture.waiting(self.seen)
        for pipeline in pipelines:
            member = self._member(pipeline)
            self._members.remove(member)
            left = waiting if member.leaves_at is None else min(waiting, max(member.leaves_at - self.seen.read, 0))
            pipeline.lose(left + self._ahead[0], self._lost_as)
            pipeline.lose_begun()
        if self._members:
            self._changed()
        else:
            self.seen.count_taken(self._ahead[0], waiting + self._ahead[0])

    def _see_ahead(self) -> None:
        """Count what was taken where the capture moves to: it may not be read any more."""
        if self._successor is not None:
            captured, lost, *_ = self._successor.statistics()
            self._ahead = self._ahead[0] + captured, self._ahead[1] + lost

    def foresee(
        self,
        *,
        joining: Sequence[Pipeline] = (),
        leaving: Collection[Pipeline] = (),
        changed: Mapping[Pipeline, Selection] = MappingProxyType({}),
    ) -> None:
        """Make the programs that will be wanted when members come, go, or want something else: they are kept till then.

        It may take long: not for the thread that runs the tap.
        """
        if not isinstance(self.plan, CapturePlan):
            return
        members = [*list(self._members), *(self._new_member(pipeline, 0) for pipeline in joining)]
        left = [member for member in members if member.pipeline not in leaving]
        selections = [changed.get(member.pipeline, member.pipeline.selection) for member in left]
        wanted = [Wanted(member.device, selection) for member, selection in zip(left, selections, strict=True)]
        self._compile(tuple(dict.fromkeys(wanted)))
        for group in groups_of(wanted).values():
            compile_sets(group)
        for selection in (*(pipeline.selection for pipeline in joining), *changed.values()):
            compile_selection(replace(selection, mark_mask=0), numbered=True)

    def replace(self, pipeline: Pipeline, plan: PipelinePlan) -> None:
        """Give a member a new plan, which it follows from the next frame on, see Pipeline.follow. Its counters and the
        rate limit's bucket stay, and so does what the others get. OSError: it goes on with the plan before.
        """
        before = pipeline.plan
        pipeline.follow(plan)
        if plan.capture.selection == before.capture.selection:
            self._tell(pipeline)
            return
        try:
            self._select()
        except OSError:
            pipeline.plan = before
            raise
        if len(self._members) == 1 and not self._mixed:
            self._tell(pipeline)
        else:
            self._changed(pipeline)

    # --- members that part ---

    def outgrown(self, now: float) -> list[Pipeline]:
        """The members that are so busy that they are to part from the others; none, mostly. `now` is monotonic."""
        if len(self._members) < 2 or self._begins_later:
            return []
        settled = not self.changing and self._successor is None
        return self._rates.outgrown(self.pipelines, self.seen.read, now, settled=settled)

    def open_aside(self, pipelines: Sequence[Pipeline]) -> Aside:
        """Open a capture for members to part with. OSError; takes long: not for the thread that runs the tap."""
        assert isinstance(self.plan, CapturePlan)  # what is listened to is one member's
        self.foresee(leaving=pipelines)
        wanted = [Wanted(one.device, one.pipeline.selection) for one in self._members if one.pipeline in pipelines]
        for group in groups_of(wanted).values():
            compile_sets(group)
        memory = self.capture.memory if isinstance(self.capture, Capture) else None
        return open_aside(self.plan, pipelines, tuple(dict.fromkeys(wanted)), memory)

    def part(self, aside: Aside) -> bool:
        """Move members to another capture. False where the members or their selections have changed meanwhile."""
        members = [member for member in self._members if member.pipeline in aside.pipelines]
        wanted = tuple(dict.fromkeys(Wanted(member.device, member.pipeline.selection) for member in members))
        fits = len(members) == len(aside.pipelines) < len(self._members) and wanted == aside.capture.wanted
        if not fits or any(member.leaves for member in self._members) or self._successor is not None:
            return False
        aside.border = time.time_ns()
        for member in members:
            member.until = aside.border
        self._parted_at, self._parts_at = time.monotonic(), None
        self._tell()
        return True

    def has_parted(self, now: float) -> bool:
        """Whether all has been read that the parting members take from here; then their membership ends."""
        assert self._parted_at is not None  # some part
        if now - self._parted_at < GRACE_SECONDS:
            return False
        if self._parts_at is None:
            for member in self._members:
                member.parted = member.until < FOR_EVER
            with suppress(OSError):  # then it takes more than is wanted any more
                self._select()
            self.update()
            self._parts_at = self.seen.taken - self.seen.lost
        if self.seen.read < self._parts_at:
            return False
        self.update()
        self._members = [member for member in self._members if not member.parted]
        self._parted_at = None
        self._changed()
        return True

    def _member(self, pipeline: Pipeline) -> Member:
        return next(member for member in self._members if member.pipeline is pipeline)

    def _wanted(self, also: Sequence[Member] = ()) -> Asked:
        members = [member for member in (*self._members, *also) if not (member.leaves or member.parted)]
        return tuple(dict.fromkeys(Wanted(member.device, member.pipeline.selection) for member in members))

    def _compile(self, wanted: Asked) -> None:
        """Make the program that the kernel will be given."""
        assert isinstance(self.plan, CapturePlan)  # what is listened to is another program's
        if wanted and self.everywhere:
            compile_wanted(wanted, pvid=self.plan.pvid)
        elif wanted:
            compile_selections(tuple(one.selection for one in wanted), raw=self.plan.raw, pvid=self.plan.pvid)

    def _select(self, also: Sequence[Member] = ()) -> None:
        wanted = self._wanted(also)
        for capture in (self.capture, self._successor):
            if capture is not None and not (isinstance(capture, Capture) and capture.wanted == wanted):
                capture.select(*wanted)

    def _changed(self, pipeline: Pipeline | None = None) -> None:
        self._mixed, self._changed_at, self._settles_at = True, time.monotonic(), None
        self._tell(pipeline)

    def _tell(self, changed: Pipeline | None = None) -> None:
        """Tell each member what it has to match itself; `changed` is told in any case."""
        self._one_a_way = list({id(member.pipeline.transmit): member for member in self._members}.values())
        self._by_device = {}
        for member in self._members:
            self._by_device.setdefault(member.device, []).append(member)
        for member in self._members:
            pipeline, shares = member.pipeline, self._mixed or len(self._by_device[member.device]) > 1
            how = Match(exact=self.capture.exact and not shares, shares=shares)
            if pipeline is changed or pipeline.matches != how:
                pipeline.match(how)
        self.capture.follow_way_out(self._members[0].pipeline.plan.forward)
        if self.native is not None:
            members, matchers, stretches = described(self._members)
            self.native.have(members=members, matchers=matchers, stretches=stretches)

    def tend(self, now: float) -> None:
        """See whether all that was taken before the last change of members has been read. `now` is monotonic."""
        if not self.changing or now - self._changed_at < GRACE_SECONDS or self._successor is not None:
            return
        self.update()
        if self._settles_at is None:
            self._settles_at = self.seen.taken - self.seen.lost
        if self.seen.read >= self._settles_at:
            self._changed_at, self._settles_at = 0.0, None
            self._mixed = False
            for member in self._members:
                member.since = 0
            self._tell()

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
            self.seen.count_read(frame.length)
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

    def update(self) -> None:
        """Bring up to date what was lost, and what was taken. After the last frame was read it is exact."""
        captured, lost, malformed, missing = self.capture.statistics()
        self._count_taken(captured, lost)
        self._miss(missing)
        for member in self._one_a_way:
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
        acts = any(member.pipeline.exclusive for member in self._one_a_way)
        return self.seen.read == self._looked_at and self.capture.ring is None and not acts and not self._misses

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


def _plan_of(pipelines: Sequence[Pipeline]) -> CapturePlan | ListenPlan:
    plan = pipelines[0].plan.capture
    return plan.everywhere if isinstance(plan, CapturePlan) and plan.together else plan


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
