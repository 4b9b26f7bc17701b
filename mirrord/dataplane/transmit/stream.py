"""Copies into a pipe, as pcapng: what `mirrorctl capture` reads.

Writes block: a slow reader has its worker wait, and loses frames where they are captured, counted. So a stream has a
worker of its own, and a capture of its own, and no session notices.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mirrord import __version__
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.transmit import pcapng
from mirrord.dataplane.transmit.output import Output, write_all
from mirrord.dataplane.transmit.way import Way
from mirrord.dataplane.transmit.way_out import Sent, WayOut
from mirrord.plans import StreamPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mirrord.dataplane.forward.step import Copy
    from mirrord.dataplane.transmit.lanes import NativeLane


class StreamTransmit(WayOut):
    """Where the copies of a stream go. `failure` says why nothing is written ("" while it is): for good.

    Raises OSError when the reader is gone already.
    """

    exclusive = True
    output: Output

    def __init__(self, plan: StreamPlan) -> None:
        self.plan = plan
        self.failure = ""
        header = pcapng.section(f"mirrord {__version__}", plan.comment)
        header += pcapng.interface(plan.interface, plan.snaplen, plan.comment, raw=plan.raw)
        self.output = Output(descriptor=plan.descriptor, written=len(header), start=len(header))
        try:
            os.write(plan.descriptor, header)
        except OSError:
            self.close()
            raise

    def send(self, copies: Iterable[Copy]) -> Sent:
        """Write copies in order, until the reader is gone."""
        accepted = 0
        for copy in copies:
            if self.output.error:
                return Sent(accepted, self.output.error)
            _, self.output.error = write_all(self.output.descriptor, copy.data + copy.trailer)
            if self.output.error:
                return Sent(accepted, self.output.error)
            accepted += 1
        return Sent(accepted)

    def lost(self, _error: int) -> Slot:
        """What a frame counts as that could not be written."""
        return Slot.dropped_write_error

    @property
    def callback(self) -> Callable[..., NativeLane | None]:
        return self.next_file

    def native(self) -> tuple[Way, ...]:
        """For the native core: no sockets, no TX ring."""
        return (Way(),)

    def next_file(self) -> None:
        """There is none: a stream has no bound."""

    def tend(self) -> None:
        """Tell when the reader has gone."""
        if self.output.error and not self.failure:
            self.failure = os.strerror(self.output.error)

    def close(self) -> None:
        os.close(self.output.descriptor)
