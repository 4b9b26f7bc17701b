"""One copy of a packet that passes several of a mirror's sources: a tap, the bridge, the uplink.

What is copied for a source is remembered by what it says. When another source shows the same within a window of time,
before or after, that is the same packet again, once for each copy: a source never shows a packet twice, so what it has
shown already (a retransmission, an equal acknowledgement) is another packet there, and is copied again.

The same is what does not change on the way through a host: all but the Ethernet addresses, VLAN tags, the time to live
or hop limit, and the IPv4 header's checksum; over its whole length, as it was on the wire, with the payload that a
session may hide.

Bounded: of the last MOST copies. More than those, or more than WALKED equal ones at a time, and duplicates are copied:
nothing is left out that should not be.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from mirrord.dataplane.frame.wire import ADDRESSES, TAG
from mirrord.dataplane.native import core
from mirrord.protocols import ETH_P_IP, ETH_P_IPV6, TPIDS

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

MOST = 65536
WALKED = 64
PLACES = 64
"""Sources that are told apart; of more, those whose numbers are equal modulo this count as one."""

TTL, CHECKSUM = 8, slice(10, 12)  # in an IPv4 header, RFC 791 3.1
HOP_LIMIT = 7  # in an IPv6 header, RFC 8200 3


@dataclass(slots=True)
class _Copied:
    key: bytes
    time: int
    seen: int  # the sources that have shown it, a bit each


class Duplicates:
    """What was copied to one destination, for all sources of a mirror. `native`: for the other data plane."""

    def __init__(self, *, native: bool = False) -> None:
        self.native = core.duplicates() if native else None
        self._secret = os.urandom(16)  # so that nobody makes packets that look alike
        self._row: deque[_Copied] = deque()
        self._chains: dict[bytes, deque[_Copied]] = {}
        self._places: dict[Hashable, int] = {}
        self._lock = Lock()  # of the places

    def place(self, source: Hashable) -> int:
        """The number of a source."""
        with self._lock:
            return self._places.setdefault(source, len(self._places)) % PLACES

    def all_seen(self, packets: Iterable[bytes], cut: int, place: int, time: int, window: int) -> bool:
        """Whether every packet of a frame is a duplicate; what is none is remembered. Times in nanoseconds.

        `cut`: bytes that the capture left out, of which nothing is known but their number.
        """
        found = [self._seen(self._key(packet, cut), place, time, window) for packet in packets]
        return all(found)

    def _key(self, packet: bytes, cut: int) -> bytes:
        return blake2b(unchanging(packet), digest_size=16, key=self._secret, salt=cut.to_bytes(8, "little")).digest()

    def _seen(self, key: bytes, place: int, time: int, window: int) -> bool:
        bit, found = 1 << place, None
        for copied in islice(reversed(self._chains.get(key, ())), WALKED):
            if copied.seen & bit:  # and so all that were copied before it
                break
            if abs(copied.time - time) <= window:
                found = copied
        if found is not None:
            found.seen |= bit
            return True
        if len(self._row) == MOST:
            oldest = self._row.popleft()
            chain = self._chains[oldest.key]
            chain.popleft()
            if not chain:
                del self._chains[oldest.key]
        copied = _Copied(key, time, bit)
        self._row.append(copied)
        self._chains.setdefault(key, deque()).append(copied)
        return False


class Place(NamedTuple):
    """Where the copies of one source are remembered, None for nowhere: there is no memory; and its number there."""

    group: object  # whose sources they are
    duplicates: Duplicates | None
    number: int = 0


def unchanging(packet: bytes) -> bytes:
    """What a packet says that does not change on its way."""
    at = ADDRESSES
    while int.from_bytes(packet[at : at + 2], "big") in TPIDS and len(packet) >= at + TAG + 2:
        at += TAG
    rest, ethertype = bytearray(packet[at:]), int.from_bytes(packet[at : at + 2], "big")
    if ethertype == ETH_P_IP and len(rest) >= 2 + 20:
        rest[2 + TTL] = 0
        rest[2 + CHECKSUM.start : 2 + CHECKSUM.stop] = bytes(2)
    elif ethertype == ETH_P_IPV6 and len(rest) >= 2 + 40:
        rest[2 + HOP_LIMIT] = 0
    return bytes(rest)
