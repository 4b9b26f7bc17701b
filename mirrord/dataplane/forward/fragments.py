"""What the first fragment of a datagram told, for its later ones, which do not say it themselves.

Bounded: of the last MOST first fragments. A datagram's fragments follow each other closely, so that this is plenty;
what does not find its first one is counted by the caller.

RFC 791 3.2: the fragments of a datagram have source, destination, protocol and identification in common. RFC 8200 4.5:
in IPv6 the same without the protocol.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirrord.dataplane.frame.headers import Headers

MOST = 1024

_Key = tuple[bytes, bytes, int | None, int]


class Fragments:
    """A number of up to 64 bits for each datagram."""

    def __init__(self) -> None:
        self._numbers: dict[_Key, tuple[int, int]] = {}  # and when it was remembered
        self._keys: deque[_Key] | None = None  # oldest first; one that came again is in it twice. Empty it is 0.7 KB
        self._count = 0

    def remember(self, first: Headers, number: int) -> None:
        """For the later fragments of this one's datagram. The oldest first one makes room."""
        if self._keys is None:
            self._keys = deque()
        if len(self._keys) == MOST:
            oldest = self._keys.popleft()
            if self._numbers[oldest][0] == self._count - MOST:
                del self._numbers[oldest]
        key = _key(first)
        self._keys.append(key)
        self._numbers[key] = self._count, number
        self._count += 1

    def recall(self, later: Headers) -> int | None:
        """What was remembered for this one's datagram, lastly; None: nothing, or too long ago."""
        found = self._numbers.get(_key(later))
        return None if found is None else found[1]


def _key(fragment: Headers) -> _Key:
    protocol = fragment.divided if fragment.family == 4 else None
    return fragment.source, fragment.destination, protocol, fragment.identification
