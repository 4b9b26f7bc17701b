"""Copies into the queues of a stream's clients: pcap or pcapng over TCP, see pcap_end.py.

A frame counts as mirrored when every client's queue took it, and as lost (queue_full) when one of them had no room for
it, or when a connection ends before its client has it: then it does not count as mirrored any more. See queue.py.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

from mirrord.dataplane.counters import Slot
from mirrord.dataplane.transmit.queue import Fates, Queues, put
from mirrord.dataplane.transmit.way import Way
from mirrord.dataplane.transmit.way_out import Sent, WayOut
from mirrord.plans import queue_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mirrord.dataplane.counters import Counters
    from mirrord.dataplane.forward.step import Copy
    from mirrord.dataplane.transmit.lanes import NativeLane
    from mirrord.dataplane.transmit.pcap_client import Client
    from mirrord.dataplane.transmit.pcap_end import PcapEnd
    from mirrord.dataplane.transmit.queue import Channel
    from mirrord.plans import PcapPlan

SETTLE_SECONDS = 0.05
"""How often it is looked up which frames clients have, while there are more."""

DRAIN_SECONDS = 0.5
"""How long a session's end waits for clients that still take what is queued."""


class PcapTransmit(WayOut):
    """Where the copies of one source go. OSError: ENOTCONN while there is no client, with why in its text."""

    exclusive = True
    queues: Queues

    def __init__(self, plan: PcapPlan, end: PcapEnd) -> None:
        self._end = end
        self._port = end.attach(plan.interface, plan.snaplen, raw=plan.raw)
        self.queues = Queues(interface=self._port.interface, pcap=plan.end.pcap)
        self._counters: Counters | None = None
        self._using: dict[Client, Channel] = {}
        self._channels: tuple[Channel, ...] = ()
        self._fates = Fates()
        self._seen = -1  # of the port's changes
        self._settle_at = 0.0
        self._follow_clients()

    @property
    def gone(self) -> str:
        """Why nobody takes the copies any more; "" while somebody does."""
        return self._end.state

    @property
    def clients(self) -> int:
        """How many get all that comes from now on."""
        return len(self._channels)

    @property
    def memory(self) -> int:
        """Bytes of its queues."""
        return len(self._channels) * queue_bytes(self._end.plan.buffer)

    @property
    def queued(self) -> int:
        """Frames that a client has not got yet."""
        return self._fates.open(self.queues.queued)

    def count_in(self, counters: Counters) -> None:
        self._counters = counters

    def send(self, copies: Iterable[Copy]) -> Sent:
        """Put a frame's copies into every queue; what of them is in all of these counts as sent."""
        copies = list(copies)
        accepted = put(self.queues, self._channels, copies)
        for channel in self._channels:
            channel.wake()
        return Sent(accepted, 0 if accepted == len(copies) else errno.ENOBUFS)

    def lost(self, _error: int) -> Slot:
        return Slot.dropped_queue_full

    def native(self) -> tuple[Way, ...]:
        """For the native core: no sockets, no TX ring."""
        return (Way(),)

    @property
    def callback(self) -> Callable[..., NativeLane | None]:
        return self._none

    def _none(self) -> None:
        """There is nothing to be asked for."""

    def tend(self) -> None:
        """Take clients in that came, let those go that went, and see what they have got."""
        if self._seen != self._port.changed:
            self._follow_clients()
            self._settle()
        elif time.monotonic() >= self._settle_at:
            self._settle()

    def _follow_clients(self) -> None:
        self._seen = self._port.changed
        there = dict(self._port.channels)
        for client, channel in list(self._using.items()):
            if channel.over or client not in there:
                self._let_go(client, channel)
        for client, channel in there.items():
            if client not in self._using and not channel.over:
                channel.before = self.queues.queued
                self._using[client] = channel
        self._channels = tuple(self._using.values())
        each = self.queues.each
        for n, channel in enumerate(self._channels):
            each[n] = channel.address
        self.queues.count = len(self._channels)

    def _let_go(self, client: Client, channel: Channel) -> None:
        """What it has not got is lost."""
        lost = self._fates.lose(self._done(channel), self.queues.queued)
        if self._counters is not None:
            self._counters.add(Slot.mirrored, -lost)
            self._counters.add(Slot.dropped_queue_full, lost)
        del self._using[client]
        self._end.drop(self._port, client)

    def _done(self, channel: Channel) -> int:
        """Up to which frame its client has them all."""
        assert channel.before is not None  # it is in use
        row = channel.row
        row.settled = channel.done()
        return max(channel.before + row.settled, self._fates.settled)

    def _settle(self) -> None:
        self._settle_at = time.monotonic() + SETTLE_SECONDS
        self._fates.settle(min(map(self._done, self._channels), default=self.queues.queued))

    def close(self) -> None:
        """Wait a moment for what clients still take; what they have not got then is lost."""
        until = time.monotonic() + DRAIN_SECONDS
        while time.monotonic() < until and any(one.acked < one.row.head and not one.over for one in self._channels):
            time.sleep(0.005)
        self._settle()
        for client, channel in list(self._using.items()):
            self._let_go(client, channel)
        self._channels, self.queues.count = (), 0
        self._settle()
        self._end.detach(self._port)
