"""The flight recorders of the sessions that are enabled, by session and source.

One outlives its pipelines: what it holds is there after a reload and while its device is away, as after a guest that
has crashed. The recorder of a source that is not planned any more stays until another source of its session needs
one, so that there are never more of them than sources there were at a time. A session that is disabled or deleted keeps
none.
"""

from __future__ import annotations

from collections.abc import Collection
from threading import Lock

from mirrord.control.planning.plan import Key
from mirrord.dataplane.memory import Memory
from mirrord.dataplane.transmit.recorder import Recorder
from mirrord.plans import PipelinePlan


class Recorders:
    """`of` may be asked by several threads, `find` by any."""

    def __init__(self, *, native: bool, memory: Memory) -> None:
        self._native, self._memory = native, memory
        self._lock = Lock()
        self._known: dict[Key, Recorder] = {}
        self._planned: Collection[Key] = ()

    def of(self, key: Key, plan: PipelinePlan) -> Recorder:
        """The recorder of what is about to run by this plan."""
        with self._lock:
            if key not in self._known:
                self._drop({one for one in self._known if one[:2] == key[:2] and one not in self._planned})
                self._known[key] = Recorder(self._memory, native=self._native)
            recorder = self._known[key]
        recorder.hold(plan.recorder, raw=plan.forward.strip_ethernet)
        return recorder

    def plan(self, planned: Collection[Key]) -> None:
        """These are to run, or will when they can: keep what concerns their sessions only."""
        with self._lock:
            before, self._planned = self._planned, planned
            if any(key not in planned for key in before):
                sessions = {key[:2] for key in planned}
                self._drop({key for key in self._known if key[:2] not in sessions})

    def rename(self, old: Key, new: Key) -> None:
        """The recorder goes along."""
        with self._lock:
            if recorder := self._known.pop(old, None):
                self._known[new] = recorder

    def find(self, mirror: str, session: str) -> dict[str, Recorder]:
        """By source, the recorders of a session."""
        with self._lock:
            known = {key.source: one for key, one in self._known.items() if key[:2] == (mirror, session)}
        return {source: one for source, one in known.items() if one.ring is not None}

    def _drop(self, keys: set[Key]) -> None:
        for key in keys:
            self._known.pop(key).hold(0)
