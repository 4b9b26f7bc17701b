"""The members of a tap: the pipelines that want a source's frames, and how they come, go and part while frames do.

The filter is replaced on the live socket, and each has in it what all others want, so that they lose nothing. A member
that comes gets no frame from before; one that goes gets all that was taken until then: what waits is counted (`taken`
less `lost` by the kernel, `read` here), and it goes when so many frames have been read. As long as frames may wait that
were taken for another, the one member that is left matches exactly, too.

Which of two members' a frame is that came about when one of them began or parted, its stamp tells. That is by the
wall clock: where it was set just then, the one that parted may have missed frames, which count as lost, and the one
that began gets what is left of the frames from before.

Sessions of very unequal rates part, see parting.py. What becomes of a frame is told in tap.py.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from mirrord.dataplane.capture.packet_socket import Capture
from mirrord.dataplane.clock import Watch, read_clock
from mirrord.dataplane.filter.bpf import compile_selection
from mirrord.dataplane.filter.by_device import Asked, Wanted, asked, compile_wanted
from mirrord.dataplane.filter.several import compile_selections, compile_sets
from mirrord.dataplane.membership import Member, described, groups_of, one_a_way
from mirrord.dataplane.parting import GRACE_SECONDS, Aside, Rates, got_by, missed
from mirrord.dataplane.pipeline import Match, Pipeline
from mirrord.dataplane.source import Source
from mirrord.dataplane.ways_in import open_way_in
from mirrord.plans import CapturePlan

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from mirrord.dataplane.capture.fanout import Group
    from mirrord.dataplane.counters import Slot
    from mirrord.dataplane.filter.rules import Selection
    from mirrord.dataplane.forward.own_copies import Guards
    from mirrord.dataplane.memory import Memory
    from mirrord.plans import ListenPlan, PipelinePlan

SEVERAL_DEVICES = "several devices"
"""The source that a loss counts for which may have been any one's of several. No device has blanks in its name."""


FEW_WAYS = 4
"""Ways out of a socket on several devices that a TX ring pays for each of."""


class SharedSource(Source, ABC):
    """An open source and its members. What a subclass adds is to count and to forward its frames.

    The capture is opened as Tap says, and the OSError is.
    """

    def __init__(
        self,
        pipelines: Sequence[Pipeline],
        *,
        native: bool,
        busy: bool,
        group: Group | None,
        aside: Aside | None,
        memory: Memory | None,
    ) -> None:
        self.plan = aside.capture.plan if aside else _plan_of(pipelines)
        self.source = SEVERAL_DEVICES  # a name for it
        if not self.everywhere:
            self.source = self.plan.device if isinstance(self.plan, CapturePlan) else ""
        self._clock = Watch(aside.border if aside else None)
        self._members = [self._new_member(pipeline, aside.border.time if aside else 0) for pipeline in pipelines]
        self._parted = list(self._members) if aside else []  # who may miss frames if the clock is set, see parting.py
        self._stepped = False  # it was
        self._mixed = aside is not None  # frames may wait that were taken for another
        self._changed_at = 0.0
        self._settles_at: int | None = None  # when so many frames have been read
        self._ahead = 0, 0  # frames, taken and lost, where the capture moves to: not yet in `seen`
        self._begins_later = group is not None and group.divides
        self._parted_at: float | None = None  # when some were told to go on elsewhere
        self._parts_at: int | None = None  # when so many frames have been read
        self.spreads = False  # each of its devices is to go on with a capture of its own, where it may
        self.halves = False  # every second one is to go on with another capture
        self._cannot_part, self._parts_again_at = "", 0.0  # why, and until when that is not tried again
        self._trims = False  # whether the kernel may keep headers alone
        self._timed: list[Member] = []  # whose way out acts by time
        self._by_device: dict[int, list[Member]] = {}
        capture = aside.capture if aside else open_way_in(self.plan, self._wanted(), group, memory, busy=busy)
        try:
            super().__init__(capture, native=native)
            self._rates = Rates(self._members, self.seen, self.native)
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

    # --- what a subclass adds ---

    @abstractmethod
    def update(self) -> None:
        """Bring up to date what was lost, and what was taken. After the last frame was read it is exact."""

    @property
    @abstractmethod
    def _lost_as(self) -> Slot:
        """What a frame counts as that there was no room for."""

    # --- members ---

    @property
    def everywhere(self) -> bool:
        """Whether it is on all devices of a namespace, for those that its members want."""
        return isinstance(self.plan, CapturePlan) and not self.plan.device

    @property
    def captures_by(self) -> str:
        """As of any source; and that the way is of several devices, or that some of its members cannot part."""
        by = super().captures_by
        by = f"{by or self.mode}, of {SEVERAL_DEVICES}" if self.everywhere else by
        if self._cannot_part and time.monotonic() < self._parts_again_at:
            return f"{by or self.mode}, cannot part: {self._cannot_part}"
        return by

    @property
    def fills_tx_rings(self) -> bool:
        """Not where many share what several devices bring: copies of all leave in one system call without."""
        return super().fills_tx_rings and not (self.everywhere and len(one_a_way(self.pipelines)) > FEW_WAYS)

    def _new_member(self, pipeline: Pipeline, since: int) -> Member:
        capture = pipeline.plan.capture
        device = capture.index if self.everywhere and isinstance(capture, CapturePlan) else 0
        return Member(pipeline, device, got_by(pipeline).frames, since)

    @property
    def pipelines(self) -> list[Pipeline]:
        """Those that get its frames."""
        return [member.pipeline for member in self._members]

    @property
    def wanted(self) -> Asked:
        """What it takes, on any thread: of each device all that is wanted of it, each once."""
        return self._wanted()

    @property
    def changing(self) -> bool:
        """Whether a member came or went so lately that there is something left to do, see `tend`."""
        return self._changed_at > 0

    def join(self, pipelines: Iterable[Pipeline]) -> None:
        """Add members, which get frames from now on. OSError when they cannot be added; the others go on."""
        self.update()  # what was lost before is not theirs
        self.keep_whole()  # nor what the others need the headers of
        joining = [self._new_member(pipeline, read_clock().time) for pipeline in pipelines]
        self._select(also=joining)
        for member in joining:
            member.pipeline.source = self
        self._members += joining
        self._changed()

    def leave(self, pipelines: Iterable[Pipeline]) -> None:
        """Take no more frames for these; those already taken they still get, until `drop`."""
        for member in self._those(pipelines):
            member.leaves = True
        if all(member.leaves for member in self._members):
            self._reject_all()
        else:
            with suppress(OSError):  # then it takes more than is wanted any more
                self._select()
            self._changed()

    def have_left(self, pipelines: Collection[Pipeline]) -> Collection[Pipeline]:
        """Which of these, which leave, have got all that was taken for them."""
        if self._successor is not None:
            return []
        self.update()
        if all(one.leaves for one in self._members):
            return pipelines if self.drained() else []
        left = []
        for member in self._those(pipelines):
            if member.leaves_at is None:
                member.leaves_at = self.seen.taken - self.seen.lost
            if self.seen.read >= member.leaves_at:
                left.append(member.pipeline)
        return left

    def drop(self, pipelines: Iterable[Pipeline]) -> None:
        """End the membership of these. What may have been taken for them, and was not read, they count as lost."""
        with suppress(OSError):  # of a source that an error put aside
            self.update()
            self._see_ahead()
        waiting = self.capture.waiting(self.seen)
        going = self._those(pipelines)
        gone = {id(member) for member in going}
        self._members = [member for member in self._members if id(member) not in gone]
        for member in going:
            self._see_missed(member)
            left = waiting if member.leaves_at is None else min(waiting, max(member.leaves_at - self.seen.read, 0))
            member.pipeline.lose(left + self._ahead[0], self._lost_as)
            member.pipeline.lose_begun()
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
        self._compile(asked(wanted))
        for group in groups_of(wanted).values():
            compile_sets(group)
        for selection in (*(pipeline.selection for pipeline in joining), *changed.values()):
            compile_selection(replace(selection, mark_mask=0), numbered=True)

    def replace(self, pipeline: Pipeline, plan: PipelinePlan) -> None:
        """Give a member a new plan, which it follows from the next frame on, see Pipeline.follow. Its counters and the
        rate limit's bucket stay, and so does what the others get. OSError: it goes on with the plan before.
        """
        before = pipeline.plan
        self.keep_whole()
        pipeline.follow(plan)
        if plan.capture.selection == before.capture.selection and pipeline.matches is not None:
            pipeline.match(pipeline.matches)  # a new tunnel changes the plans of all: each costs what is its own
            self.capture.follow_way_out(self._members[0].pipeline.plan.forward)
            return
        try:
            self._select()
        except OSError:
            pipeline.plan = before
            if pipeline.matches is not None:
                pipeline.match(pipeline.matches)  # it leaves by the sockets of the new plan
            raise
        if len(self._members) == 1 and not self._mixed:
            self._tell(pipeline)
        else:
            self._changed(pipeline)

    def _those(self, pipelines: Iterable[Pipeline]) -> list[Member]:
        """The members that these are."""
        members = {member.pipeline: member for member in self._members}
        return [members[pipeline] for pipeline in pipelines]

    def _wanted(self, also: Sequence[Member] = ()) -> Asked:
        members = [member for member in (*list(self._members), *also) if not (member.leaves or member.parted)]
        return asked((member.device, member.pipeline.selection) for member in members)

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

    def guard(self, guards: Guards) -> None:
        """Have its members skip what these tell."""
        for member in self._members:
            member.pipeline.guard(guards)

    def keep_whole(self) -> None:
        """Have all frames kept whole from now on, until another look finds what is skipped then."""
        self._trims = False
        if isinstance(self.capture, Capture) and self.capture.trimmed:
            self.capture.trim(frozenset())

    def _changed(self, pipeline: Pipeline | None = None) -> None:
        self._mixed, self._changed_at, self._settles_at = True, time.monotonic(), None
        self._tell(pipeline)

    def _tell(self, changed: Pipeline | None = None) -> None:
        """Tell each member what it has to match itself; `changed` is told in any case."""
        self._timed = [member for member in self._members if member.pipeline.exclusive]
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
        if not self.changing:
            return
        if self._clock.stepped():
            self._stepped = True
            if not self._parted:
                self._settle()
        if now - self._changed_at < GRACE_SECONDS or self._successor is not None:
            return
        self.update()
        if self._settles_at is None:
            self._settles_at = self.seen.taken - self.seen.lost
        if self.seen.read >= self._settles_at:
            self._settle()

    def _settle(self) -> None:
        """All frames are everybody's from now on. If the clock was set, what waits is to be read before others part."""
        for member in self._members:
            self._see_missed(member)
            member.since = 0
        self._parted, stepped, self._stepped = [], self._stepped, False
        if stepped:
            self._changed()
            return
        self._changed_at, self._settles_at = 0.0, None
        self._mixed = False
        self._tell()

    def _see_missed(self, member: Member) -> None:
        """Count what a member that has parted may have missed since the clock was set."""
        if self._stepped and member in self._parted:
            member.pipeline.lose(missed(member, self.seen), self._lost_as)


def _plan_of(pipelines: Sequence[Pipeline]) -> CapturePlan | ListenPlan:
    plan = pipelines[0].plan.capture
    return plan.everywhere if isinstance(plan, CapturePlan) and plan.together else plan
