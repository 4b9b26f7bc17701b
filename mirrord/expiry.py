"""When a mirror ends: what may be written, and how the time until then is measured. Pure: who calls brings the time.

A moment ("2027-01-31T18:00:00Z") is the calendar's. It has come when the wall clock says so, and whoever sets that
clock moves it.

A duration ("2h") begins when its mirror is enabled, and is from then on a Deadline. That counts by CLOCK_BOOTTIME
(clock_gettime(2)), which goes on while the host sleeps and which nobody can set; so a step of the wall clock neither
ends nor prolongs it. What the state database keeps is the end on that clock with the id of the boot that it counts from
(random/boot_id, proc(5)), and beside it the end by the wall clock, for people and for the next boot:

- mirrord starts again in the same boot: the time goes on as if nothing had been, what it was down for counts;
- the host was booted: how long it was off only the wall clock can tell, so what is left is what that says, but never
  more than the whole duration, however wrong the clock is; from then on the new boot's clock counts;
- the wall clock was set: the end by the wall clock is put right, what is left stays what it was.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NamedTuple

from mirrord.values.written import TEXT, Written, unexpected

_UNITS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"([0-9]{1,10})([smhdw])")
LONGEST = timedelta(days=3650)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)  # RFC 3339, 5.6
EXPECTED = 'a time with its offset such as "2027-01-31T18:00:00Z", or how long such as "90s", "15m", "2h", "1d", "1w"'

STEP_SECONDS = 5.0
"""By how much the wall clock may be off from what a Deadline was made by, before its end there is put right."""


class Now(NamedTuple):
    """The time by both clocks."""

    wall: float  # seconds since 1970
    boottime: float  # seconds since this boot
    boot: str  # the boot's id


class Deadline(NamedTuple):
    """The end of a duration that has begun; as the state database has it, not as anybody may write it."""

    at: datetime  # by the wall clock, in UTC
    boot: str
    boottime: float  # seconds since that boot
    lasts: float  # seconds, all of it; 0: it is over for good

    def left(self, now: Now) -> float:
        """Seconds; at most 0 when it is over."""
        if self.boot == now.boot:
            return self.boottime - now.boottime
        return min(self.lasts, self.at.timestamp() - now.wall)

    def put_right(self, now: Now) -> Deadline:
        """The same end by the clocks as they are now: itself, unless the host was booted or the wall clock set."""
        end = now.wall + self.left(now)
        if self.boot == now.boot and abs(end - self.at.timestamp()) < STEP_SECONDS:
            return self
        return Deadline(_moment_of(end), now.boot, now.boottime + self.left(now), self.lasts)


Value = datetime | timedelta | Deadline


def parse(value: object) -> Value:
    """A moment, a duration, or a Deadline in the form that `kept` gives. TOML's own date-times are moments, too."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match and 0 < int(match[1]) * _UNITS[match[2]] <= LONGEST.total_seconds():
        return timedelta(seconds=int(match[1]) * _UNITS[match[2]])
    if match:
        raise unexpected(f"a duration of at least 1s and at most {LONGEST.days}d", value)
    if isinstance(value, dict):
        return _deadline(value)
    if isinstance(value, (timedelta, Deadline)):
        return value
    try:
        text = isinstance(value, str) and _MOMENT.fullmatch(value)
        moment = datetime.fromisoformat(text[0].upper()) if text else value
        if isinstance(moment, datetime) and moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):  # no such day; a year that UTC does not have
        pass
    raise unexpected(EXPECTED, value)


def show(value: Value) -> str:
    """As parse reads it, a Deadline by its end on the wall clock."""
    if isinstance(value, timedelta):
        seconds = round(value.total_seconds())
        return next(f"{seconds // scale}{unit}" for unit, scale in _UNITS.items() if seconds % scale == 0)
    moment = value.at if isinstance(value, Deadline) else value
    return moment.isoformat().replace("+00:00", "Z")


def begun(duration: timedelta, now: Now) -> Deadline:
    """The end of a duration that begins now."""
    seconds = duration.total_seconds()
    return Deadline(_moment_of(now.wall + seconds), now.boot, now.boottime + seconds, seconds)


def ended(value: Value, now: Now) -> Deadline:
    """A moment or a Deadline that is over, so that no clock begins it again."""
    at = value.at if isinstance(value, Deadline) else value
    assert isinstance(at, datetime)  # a duration has not begun
    return Deadline(at, now.boot, now.boottime, 0.0)


def left(value: Value | None, now: Now) -> float:
    """Seconds until the end, at most 0 when it is over; infinite where there is none or it has not begun."""
    if isinstance(value, Deadline):
        return value.left(now)
    return value.timestamp() - now.wall if isinstance(value, datetime) else math.inf


def end(value: Value | None) -> float | None:
    """Seconds since 1970; None where there is no end, or it has not begun."""
    moment = value.at if isinstance(value, Deadline) else value
    return moment.timestamp() if isinstance(moment, datetime) else None


def kept(deadline: Deadline) -> dict[str, Any]:
    """A Deadline as the state database keeps it."""
    return {**deadline._asdict(), "at": show(deadline)}


def _deadline(kept: dict[Any, Any]) -> Deadline:
    if kept.keys() == set(Deadline._fields):
        at, boot, *seconds = (kept[key] for key in Deadline._fields)
        numbers = all(type(one) in (int, float) and math.isfinite(one) for one in seconds)
        if isinstance(at, str) and isinstance(boot, str) and numbers:
            moment = parse(at)
            if isinstance(moment, datetime):
                return Deadline(moment, boot, *seconds)
    raise unexpected(EXPECTED, kept)


def _moment_of(seconds: float) -> datetime:
    """Seconds since 1970 as a moment, up to the next whole second: it is for people."""
    return datetime.fromtimestamp(math.ceil(seconds), UTC)


Expires = Annotated[Value, Written(parse, show, TEXT)]
