"""Which of the numbers are missing that a tunnel's packets carry: so many packets were lost before they came here.

A sender numbers what it sends of a session, one up each time (RFC 2890 2.2; mirrord's Geneve metadata). Each sender and
VNI, key or session id is a series of its own. A number may come late, for packets overtake each other: it is missing
when WINDOW later ones of its series have come without it, or when it has not come for a second or two after a later
one. What comes after that, or again, is of no account, but where it goes on so the sender has begun anew. What is lost
at the end of a series shows when it goes on.

The native core's Numbers does the same.
"""

from __future__ import annotations

from dataclasses import dataclass

WINDOW = 1024
"""More than copies overtake each other at their sender (forward.h: BATCH)."""

STALE = 16
"""So many numbers one after the other, all older than the window: the series begins anew."""

SERIES = 64
"""How many are followed; another one takes the place of the one that began first."""

_ALL = (1 << WINDOW) - 1


@dataclass(slots=True)
class _Series:
    highest: int
    came: int = _ALL  # a bit for each of the last WINDOW numbers, the highest's last: none is missing that came before
    settles: int = 0  # so many of the last ones are not as old as the last look yet
    stale: int = 0


class Numbers:
    """Those of one tunnel's end."""

    def __init__(self) -> None:
        self._series: dict[tuple[bytes, int], _Series] = {}

    def note(self, sender: bytes, ident: int, number: int) -> int:
        """One came, of this sender's address. How many are known to be missing by that."""
        series = self._series.get((sender, ident))
        if series is None:
            if len(self._series) == SERIES:
                del self._series[next(iter(self._series))]
            self._series[sender, ident] = _Series(number)
            return 0
        ahead = (number - series.highest) & 0xFFFFFFFF
        if ahead <= 1 << 31:
            series.stale = 0
            return _advance(series, ahead)
        behind = (1 << 32) - ahead
        if behind < WINDOW:
            series.came |= 1 << behind
            series.stale = 0
            return 0
        series.stale += 1
        if series.stale < STALE:
            return 0
        missing = WINDOW - series.came.bit_count()
        self._series[sender, ident] = _Series(number)
        return missing

    def settle(self) -> tuple[int, bool]:
        """To be called each second. How many are known to be missing by now, and whether some may still come late."""
        found, waits = 0, False
        for series in self._series.values():
            late = (1 << min(series.settles, WINDOW)) - 1  # what is newer than the last look
            found += (~series.came & _ALL & ~late).bit_count()
            series.came |= _ALL & ~late
            waits |= series.came != _ALL
            series.settles = 0
        return found, waits


def _advance(series: _Series, ahead: int) -> int:
    if not ahead:
        return 0
    kept = series.came << ahead if ahead < WINDOW else 0
    out = kept >> WINDOW if ahead < WINDOW else series.came
    left = min(WINDOW, ahead)
    missing = left - out.bit_count() + max(ahead - WINDOW, 0)
    series.came = kept & _ALL | 1
    series.highest = (series.highest + ahead) & 0xFFFFFFFF
    series.settles += ahead
    return missing
