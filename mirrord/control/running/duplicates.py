"""What mirrors with `duplicates = "drop"` remember: of each, what it copied to each of its destinations.

Such a mirror's sources are read by one worker, so that a packet's sightings come one after the other. What is
remembered lasts as long as the mirror is planned so, whichever of its sessions begin anew.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from threading import Lock

from mirrord.control.planning.plan import Key
from mirrord.dataplane.forward.duplicates import Duplicates, Place
from mirrord.dataplane.memory import Memory
from mirrord.plans import DUPLICATES_BYTES, CapturePlan, PipelinePlan


class Group:
    """One mirror's: of each destination what was copied there."""

    def __init__(self, mirror: str) -> None:
        self.mirror = mirror
        self.copied: dict[Hashable, Duplicates] = {}


class Groups:
    """May be asked on any thread."""

    def __init__(self, memory: Memory, *, native: bool) -> None:
        self._memory, self._native = memory, native
        self._groups: dict[str, Group] = {}  # by mirror
        self._lock = Lock()

    def of(self, key: Key, plan: PipelinePlan) -> Place | None:
        """The place of this session and source; None where duplicates are copied, too."""
        if plan.duplicates_of is None:
            return None
        with self._lock:
            group = self._groups.setdefault(key.mirror, Group(key.mirror))
            duplicates = group.copied.get(plan.duplicates_of)
            if duplicates is None and self._memory.take(DUPLICATES_BYTES):
                duplicates = group.copied[plan.duplicates_of] = Duplicates(native=self._native)
        if duplicates is None:
            return Place(group, None)
        netns = plan.capture.netns if isinstance(plan.capture, CapturePlan) else None
        return Place(group, duplicates, duplicates.place((netns, key.source)))

    def rename(self, old: Key, new: Key) -> None:
        """What is remembered goes along."""
        with self._lock:
            if old.mirror != new.mirror and (group := self._groups.pop(old.mirror, None)):
                self._groups[new.mirror], group.mirror = group, new.mirror

    def forget(self, planned: Mapping[Key, PipelinePlan]) -> None:
        """Keep what these are to remember."""
        if not self._groups:
            return
        wanted = {(key.mirror, plan.duplicates_of) for key, plan in planned.items() if plan.duplicates_of is not None}
        with self._lock:
            for mirror, group in list(self._groups.items()):
                for end in [end for end in group.copied if (mirror, end) not in wanted]:
                    del group.copied[end]
                    self._memory.give_back(DUPLICATES_BYTES)
                if not any(mirror == of for of, _ in wanted):
                    del self._groups[mirror]
