"""What of a mirror's `expires` depends on where it was written, and on the time: in files, and in what is asked for.

A duration begins when its mirror is enabled. A file has no such moment that lasts over a restart, so a duration there
is refused. What was made at run time keeps the Deadline that the duration became, and shows the time of it; that time
sent back, as by a client that reads a mirror and writes it again, is the same Deadline.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from mirrord import expiry
from mirrord.errors import ConfigError, Problem, Refused
from mirrord.expiry import Now
from mirrord.model import Mirror
from mirrord.model.validation import join
from mirrord.values.written import unexpected


def problems_in_file(mirror: Mirror, path: str) -> list[Problem]:
    """What a file's mirror may not have."""
    if mirror.expires is None or isinstance(mirror.expires, datetime):
        return []
    expected = 'in a file a time with its offset such as "2027-01-31T18:00:00Z", since nobody enables the mirror'
    return [Problem(join(path, "expires"), str(unexpected(expected, expiry.show(mirror.expires))))]


def kept(path: str, old: Any, new: dict[str, Any], now: Now) -> dict[str, Any]:
    """A mirror made at run time, as it is to be kept: of one that is enabled the duration begins.

    Refused when it is enabled past its time. ConfigError: a Deadline is not for clients to write.
    """
    before, written = (old or {}).get("expires"), new.get("expires")
    if isinstance(before, dict) and written in (before, before.get("at")):
        written = before
    elif isinstance(written, dict):
        raise ConfigError([Problem(join(path, "expires"), str(unexpected(expiry.EXPECTED, written)))])
    try:
        value = None if written is None else expiry.parse(written)
    except ValueError:
        return new  # with what else is wrong with it, the validation tells
    if value is None or new.get("enabled", True) not in (True, "true"):
        return new if value is None else {**new, "expires": written}
    if isinstance(value, timedelta):
        return {**new, "expires": expiry.kept(expiry.begun(value, now))}
    if expiry.left(value, now) <= 0:
        why = f"the time of the mirror was over at {expiry.show(value)}: to enable it, set expires anew"
        raise Refused(f'{why} (mirrorctl set MIRROR --expires 2h, or "" for none; then mirrorctl enable)', path)
    return {**new, "expires": written}
