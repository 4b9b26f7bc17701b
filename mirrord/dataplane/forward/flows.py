"""The first of each flow: how much of it was mirrored, in a table that is bounded.

A flow is what has the same addresses, protocol and, for TCP, UDP and SCTP, ports, both directions together. Later
fragments tell no ports: they are part of the flow that their first one was, or, where that is not known, of what the
two addresses exchange of that protocol, which is counted as a guess.

What is no part of a flow passes: what is not IP, and ICMP errors (RFC 1122 3.2.2; RFC 4443 2.1), which tell of another
flow. So does what has no place in the table, and that is counted. A flow has a place until it was idle for so long; one
that comes again then starts anew. Of those that are idle each frame takes at most TIDIED away, the oldest first.

Time is that of the frames' capture. A clock that is set back, or a frame that was stamped earlier, ages no flow.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from mirrord.dataplane.forward.fragments import Fragments
from mirrord.dataplane.frame.headers import TCP_FLAGS, Headers
from mirrord.dataplane.frame.wire import CLOCK_STEP_NANOSECONDS
from mirrord.protocols import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP

if TYPE_CHECKING:
    from mirrord.plans import FlowLimit

TIDIED = 2

SKIPPED_KNOWN = 1024
"""Flows whose skipped bytes are counted until somebody asks. The native core knows the 16 busiest, or nearly these."""

ICMP_ERRORS = (3, 4, 5, 11, 12)
ICMPV6_QUERIES = 128  # the first type that is no error

TCP_ENDS = 0x07  # FIN, SYN, RST

PASSES = 0  # in place of a flow's number: what its first fragment was


@dataclass(slots=True)
class Flow:
    """What was mirrored of one flow."""

    number: int
    packets: int = 0
    octets: int = 0
    seen: int = 0  # on the table's clock

    def spent(self, limit: FlowLimit) -> bool:
        """Whether the limit has fallen."""
        return 0 < limit.packets <= self.packets or 0 < limit.octets <= self.octets

    def count(self, packets: int, octets: int) -> None:
        """A frame of it is mirrored, of so many packets."""
        self.packets += packets
        self.octets += octets


class Found(NamedTuple):
    """The flow of a frame, None for what passes; whether there was no place for it; whether it is but a guess."""

    flow: Flow | None = None
    full: bool = False
    guessed: bool = False


End = tuple[bytes, int]
"""An address, and the port, or 0."""

FlowKey = tuple[int | None, End, End]
"""The protocol, and the two ends, the lesser first."""


class Flows:
    """The flows of one pipeline. Its size is the limit's at hand: a smaller one forgets the oldest."""

    def __init__(self) -> None:
        self._flows: OrderedDict[FlowKey, Flow] = OrderedDict()  # the one seen last is the last
        self._keys: dict[int, FlowKey] = {}  # by number
        self._firsts = Fragments()
        self._numbers = 0
        self._clock = self._time = 0
        self._skipped: dict[FlowKey, int] = {}

    def __len__(self) -> int:
        return len(self._flows)

    def find(self, limit: FlowLimit, headers: Headers, data: bytes, time: int) -> Found:
        """The flow of a frame with these headers, seen at this time (nanoseconds)."""
        self._tick(time)
        self._tidy(limit)
        if not headers.family:
            return Found()
        if headers.divided is None or headers.transport is not None:
            return self._whole_or_first(limit, headers, data)
        number = self._firsts.recall(headers)
        if number == PASSES:
            return Found()
        key = None if number is None else self._keys.get(number)
        guess = flow_key(headers._replace(protocol=headers.divided))
        return self._at(limit, guess if key is None else key)._replace(guessed=key is None)

    def _whole_or_first(self, limit: FlowLimit, headers: Headers, data: bytes) -> Found:
        found = Found() if _is_error(headers, data) else self._at(limit, flow_key(headers))
        if headers.divided is not None and not found.full:
            self._firsts.remember(headers, found.flow.number if found.flow else PASSES)
        return found

    def _at(self, limit: FlowLimit, key: FlowKey) -> Found:
        flow = self._flows.get(key)
        if flow is None:
            if len(self._flows) >= limit.flows:
                return Found(full=True)
            self._numbers += 1
            flow = self._flows[key] = Flow(self._numbers)
            self._keys[flow.number] = key
        elif self._clock - flow.seen > limit.idle:
            flow.packets = flow.octets = 0
        flow.seen = self._clock
        self._flows.move_to_end(key)
        return Found(flow)

    def skip(self, flow: Flow, octets: int) -> None:
        """A frame of it is skipped, of so many bytes."""
        key = self._keys[flow.number]
        if key in self._skipped or len(self._skipped) < SKIPPED_KNOWN:
            self._skipped[key] = self._skipped.get(key, 0) + octets

    def take_skipped(self) -> dict[FlowKey, int]:
        """How many bytes of each flow were skipped since this was last asked."""
        skipped, self._skipped = self._skipped, {}
        return skipped

    def _tick(self, time: int) -> None:
        elapsed = time - self._time
        if elapsed > 0:
            self._clock += elapsed
        if elapsed > 0 or elapsed < -CLOCK_STEP_NANOSECONDS:
            self._time = time

    def _tidy(self, limit: FlowLimit) -> None:
        for _ in range(TIDIED):
            oldest = next(iter(self._flows.values()), None)
            if oldest is None or self._clock - oldest.seen <= limit.idle:
                break
            self._forget_oldest()
        while len(self._flows) > limit.flows:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, flow = self._flows.popitem(last=False)
        del self._keys[flow.number]


def passes(headers: Headers, data: bytes) -> bool:
    """Whether a frame tells of the beginning or the end of a TCP connection: it is never left out."""
    at = (headers.transport or 0) + TCP_FLAGS
    tcp = headers.protocol == IPPROTO_TCP and headers.transport is not None
    return tcp and len(data) > at and data[at] & TCP_ENDS != 0


def _is_error(headers: Headers, data: bytes) -> bool:
    at = headers.transport
    if at is None or len(data) <= at:
        return False
    if headers.family == 4:
        return headers.protocol == IPPROTO_ICMP and data[at] in ICMP_ERRORS
    return headers.protocol == IPPROTO_ICMPV6 and data[at] < ICMPV6_QUERIES


def flow_key(headers: Headers) -> FlowKey:
    """The flow of these headers, where they are an IP packet's."""
    source = headers.source, headers.source_port or 0
    destination = headers.destination, headers.destination_port or 0
    return headers.protocol, min(source, destination), max(source, destination)
