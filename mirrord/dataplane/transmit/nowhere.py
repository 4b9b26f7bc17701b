"""No way out: of a tunnel that is received while what its frames are for is not there. Each counts as lost."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from mirrord.dataplane.counters import Slot
from mirrord.dataplane.transmit.output import Output
from mirrord.dataplane.transmit.way import Way
from mirrord.dataplane.transmit.way_out import Sent, WayOut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mirrord.dataplane.forward.step import Copy
    from mirrord.dataplane.transmit.lanes import NativeLane
    from mirrord.plans import NowherePlan


class Nowhere(WayOut):
    """Takes no copy. The plan's forward step makes none."""

    output: Output

    def __init__(self, plan: NowherePlan) -> None:
        self.plan = plan
        self.output = Output(descriptor=-1, error=errno.ENODEV)

    def send(self, copies: Iterable[Copy]) -> Sent:
        """Refuse the first copy."""
        return Sent(0, self.output.error if any(True for _ in copies) else 0)

    def lost(self, _error: int) -> Slot:
        """What each frame counts as."""
        return Slot.dropped_no_route

    def native(self) -> tuple[Way, ...]:
        """For the native core: no sockets, and an output that takes nothing."""
        return (Way(),)

    @property
    def callback(self) -> Callable[..., NativeLane | None]:
        return lambda *_: None

    def close(self) -> None:
        """Nothing is open."""
