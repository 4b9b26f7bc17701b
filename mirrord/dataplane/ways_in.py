"""Which way in a plan is for: a line for each kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirrord.dataplane.capture.listener import Listener
from mirrord.dataplane.capture.packet_socket import Capture
from mirrord.plans import CapturePlan, ListenPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mirrord.dataplane.capture.fanout import Group
    from mirrord.dataplane.capture.way_in import WayIn
    from mirrord.dataplane.filter.by_device import Asked
    from mirrord.dataplane.memory import Memory
    from mirrord.plans import SourcePlan


def _capture(plan: CapturePlan, wanted: Asked, group: Group | None, memory: Memory | None, *, busy: bool) -> WayIn:
    mode = "ring" if busy and plan.mode == "auto" else ""
    return Capture(plan, wanted, mode=mode, group=group, memory=memory)


def _listen(plan: ListenPlan, _: Asked, _group: Group | None, _memory: Memory | None, *, busy: bool) -> WayIn:
    del busy
    return Listener(plan)


WAYS_IN: Mapping[type[SourcePlan], Callable[..., WayIn]] = {CapturePlan: _capture, ListenPlan: _listen}


def open_way_in(
    plan: SourcePlan, wanted: Asked, group: Group | None, memory: Memory | None = None, *, busy: bool
) -> WayIn:
    """Open what a plan says, for what is wanted; by a ring, if that is open and it is `busy`, out of `memory`.

    OSError when it cannot be opened.
    """
    return WAYS_IN[type(plan)](plan, wanted, group, memory, busy=busy)
