"""How some members of a tap go on with a capture of their own: parting.py tells who, when, and whose a frame is."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from mirrord.dataplane.capture.mode_switch import RETRY_SECONDS
from mirrord.dataplane.capture.packet_socket import Capture
from mirrord.dataplane.clock import read_clock
from mirrord.dataplane.filter.by_device import Wanted, asked
from mirrord.dataplane.filter.several import compile_sets
from mirrord.dataplane.membership import FOR_EVER, groups_of
from mirrord.dataplane.parting import GRACE_SECONDS, Aside, every_second, next_alone, open_aside
from mirrord.dataplane.sharing import SharedSource
from mirrord.plans import CapturePlan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirrord.dataplane.pipeline import Pipeline


class DivisibleSource(SharedSource):
    """An open source of which members may part, each step by the thread that runs the tap, unless it says otherwise."""

    def outgrown(self, now: float) -> list[Pipeline]:
        """The members that are so busy that they are to part from the others; none, mostly. `now` is monotonic."""
        if self._begins_later or (len(self._members) < 2 and not self.spreads):
            return []
        settled = not self.changing and self._successor is None
        if settled and (self.halves or self.spreads):
            if not self._stamps_are_in_order():
                return []
            parting = every_second(self._members) if self.halves else next_alone(self._members)
            self.spreads = self.spreads and (self.halves or bool(parting))
            self.halves = False
            return parting
        busy = self._rates.outgrown(self._members, now, settled=settled and now >= self._parts_again_at)
        return busy if busy and self._stamps_are_in_order() else []

    def _stamps_are_in_order(self) -> bool:
        """Whether no frame that waits may have a later stamp than one that is to come; else it is read first."""
        if self._clock.stepped():
            self._changed()
        return not self.changing

    def stay_together(self, why: str) -> None:
        """Its members could not part: they do not try again for a while."""
        self.spreads = False  # until that is asked for again
        self._cannot_part, self._parts_again_at = why, time.monotonic() + RETRY_SECONDS

    @property
    def may_spread(self) -> bool:
        """Whether some of its devices could have a capture of their own, and are not about to; on any thread."""
        return self.everywhere and not self.spreads and bool(next_alone(list(self._members)))

    def open_aside(self, pipelines: Sequence[Pipeline]) -> Aside:
        """Open a capture for members to part with. OSError; takes long: not for the thread that runs the tap."""
        assert isinstance(self.plan, CapturePlan)  # what is listened to is one member's
        self.foresee(leaving=pipelines)
        wanted = [Wanted(one.device, one.pipeline.selection) for one in self._members if one.pipeline in pipelines]
        for group in groups_of(wanted).values():
            compile_sets(group)
        memory = self.capture.memory if isinstance(self.capture, Capture) else None
        plan, own = self.plan, pipelines[0].plan.capture
        if self.everywhere and len({device for device, _ in wanted}) == 1 and isinstance(own, CapturePlan):
            plan = replace(own, together=False)
        return open_aside(plan, pipelines, tuple(dict.fromkeys(wanted)), memory, busy=not self.spreads)

    def part(self, aside: Aside) -> bool:
        """Move members to another capture. False where the members or their selections have changed meanwhile."""
        members = [member for member in self._members if member.pipeline in aside.pipelines]
        wanted = asked((member.device, member.pipeline.selection) for member in members)
        fits = len(members) == len(aside.pipelines) and wanted == aside.capture.wanted
        if not fits or any(member.leaves for member in self._members) or self._successor is not None:
            return False
        aside.border = read_clock()
        if aside.border.tells_of_a_step(self._clock.reading):
            return False
        for member in members:
            member.until = aside.border.time
        self._mixed = True  # what is captured from then on is not to count here
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
        if self._members:
            self._changed()
        return True
