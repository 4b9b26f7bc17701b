"""TCP connections that are followed from their SYNs on, to know how much of what they carry may be shown.

Each direction is read in order (tls.py) up to the sequence number of the first application data, and that number
decides from then on: right for what is sent again, in another order, or cut otherwise. Who asks for more fails closed:
of a direction whose SYN was not seen, and of what comes behind a gap, nothing is shown, and that is counted. When the
missing bytes come after all, it goes on from there; what came ahead of them is not read again, and is another gap.

Sequence numbers come again after 4 GiB: what is more than FAR from where a direction is at is not taken for a part of
it, and one that was seen to have come so far past its end has nothing to be shown any more.

A connection is told by its addresses and ports, and the outermost VLAN's id: networks beside each other may use the
same addresses.

Bounded: the MOST connections that were seen last. One that had to make room counts as one whose SYN was not seen.

TCP: RFC 9293 3.1, 3.4 (sequence numbers), 3.5 (a SYN has the number before the first byte's).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from mirrord.dataplane.forward.tls import Stream
from mirrord.dataplane.frame.extent import headers_end
from mirrord.dataplane.frame.headers import TCP_FLAGS
from mirrord.dataplane.frame.wire import VNET_GSO_NONE
from mirrord.protocols import IPPROTO_TCP, TCP_HEADER

if TYPE_CHECKING:
    from mirrord.dataplane.frame.headers import Headers
    from mirrord.dataplane.frame.wire import Frame

MOST = 65536
"""Connections. The native core takes less than 128 bytes for each, as they come: plans.CONNECTIONS_BYTES in all."""

FAR = 1 << 30
"""Bytes that a direction may be ahead or behind; TCP's windows are no larger (RFC 7323 2.3)."""

TCP_SYN = 0x02

_MASK = (1 << 32) - 1


class Shown(NamedTuple):
    """How much of a frame's payload is shown."""

    kept: int | None  # bytes of it from its beginning; None: all
    unfollowed: bool = False  # its connection's beginning, or a part of it before this frame, was not seen


EVERYTHING, NOTHING = Shown(None), Shown(0)


@dataclass(slots=True)
class Direction:
    """What one end sends. Numbers are sequence numbers."""

    origin: int  # of the first byte that is taken for a part of it
    next: int  # of the first byte that was not read yet
    end: int | None = None  # of the first byte that is hidden
    past: bool = False  # it was seen far behind its end
    lost: bool = False  # it ends where a gap begins that is too large
    stream: Stream = field(default_factory=Stream)

    def show(self, start: int, data: bytes) -> Shown:
        """How much of these bytes is shown; the first one has the number `start`."""
        if self.end is None:
            ahead = _signed(start - self.next)
            if ahead > 0:
                if ahead > FAR:
                    self.end, self.past, self.lost = self.next, True, True
                return Shown(0, unfollowed=True)
            if -ahead > (self.next - self.origin) & _MASK:
                return Shown(0, unfollowed=True)
            self._read(data[-ahead:])
        if self.end is None:
            return Shown(None)
        return self._show_ended(self.end, start, len(data))

    def _read(self, data: bytes) -> None:
        self.next = self.next + len(data) & _MASK
        ago = self.stream.read(data)
        if ago is not None:
            self.end = self.next - ago & _MASK
        if (self.next - self.origin) & _MASK > FAR:
            self.origin = self.next - FAR & _MASK

    def _show_ended(self, end: int, start: int, length: int) -> Shown:
        self.past = self.past or _signed(start - end) > FAR
        before = (end - start) & _MASK
        if self.past or before > (end - self.origin) & _MASK:
            return Shown(0, self.lost)
        return Shown(None if before >= length else before)


_End = tuple[bytes, int]
_Key = tuple[int | None, _End, _End]


class Connections:
    """The connections of one pipeline."""

    def __init__(self) -> None:
        self._known: OrderedDict[_Key, dict[_End, Direction]] = OrderedDict()  # the one seen last is the last

    def show(self, frame: Frame, headers: Headers) -> Shown:
        """How much of a captured frame's payload is shown: all, or a part, of TCP that is followed; else nothing.

        To be asked once for each frame, in the order of capture. `headers` are the frame's, parsed.
        """
        data, at = frame.data, headers.transport
        if headers.protocol != IPPROTO_TCP or at is None:
            return NOTHING
        begins = headers_end(data, headers) or 0
        if headers.fragment or len(data) < at + TCP_HEADER or begins != at + (data[at + 12] >> 4) * 4:
            return Shown(0, unfollowed=True)
        payload = data[begins : max(_payload_end(frame, headers), begins)]
        number, syn = int.from_bytes(data[at + 4 : at + 8], "big"), data[at + TCP_FLAGS] & TCP_SYN
        if syn:
            number = number + 1 & _MASK
        direction = self._direction(headers, number if syn else None)
        if not payload:
            return Shown(None)
        return direction.show(number, payload) if direction else Shown(0, unfollowed=True)

    def _direction(self, headers: Headers, begins: int | None) -> Direction | None:
        """What is known of the frame's direction. `begins`: a SYN says that its first byte has this number."""
        source = headers.source, headers.source_port or 0
        destination = headers.destination, headers.destination_port or 0
        vlan = headers.tags[0].vid if headers.tags else None
        key = vlan, min(source, destination), max(source, destination)
        directions = self._known.get(key)
        if directions is None:
            if begins is None:
                return None
            if len(self._known) == MOST:
                self._known.popitem(last=False)
            directions = self._known[key] = {}
        self._known.move_to_end(key)
        direction = directions.get(source)
        if begins is not None and (direction is None or direction.origin != begins):
            direction = directions[source] = Direction(begins, begins)
        return direction


def _payload_end(frame: Frame, headers: Headers) -> int:
    """Behind the last byte that IP says to carry, as far as it was captured. A super-frame's length is its own."""
    data, at = frame.data, headers.network
    four = headers.family == 4
    length = int.from_bytes(data[at + 2 : at + 4] if four else data[at + 4 : at + 6], "big")
    if frame.vnet.gso_type != VNET_GSO_NONE or length == 0:
        return len(data)
    return min(at + length + (0 if four else 40), len(data))


def _signed(difference: int) -> int:
    """The nearer way round, ahead or back."""
    return (difference + (1 << 31) & _MASK) - (1 << 31)
