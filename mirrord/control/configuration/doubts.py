"""What may run and is likely a mistake; only what the configuration alone tells."""

from __future__ import annotations

from collections.abc import Iterator

from mirrord.control.configuration.refusals import Declared
from mirrord.errors import Problem
from mirrord.model import ErspanDestination, FileDestination, Filter, Session
from mirrord.model.validation import join
from mirrord.values.quantities import show_rate, show_size

FULL_FRAME = 1514  # bytes, of an MTU of 1500


def warnings(declared: Declared) -> list[Problem]:
    """Each of them, where it is written."""
    found = []
    for path, one in declared.objects.items():
        if isinstance(one, Filter) and all(rule.action == "reject" for rule in one.rules):
            found.append(Problem(path, "has only reject rules: nothing is copied"))
        ends = one.destination if isinstance(one, Session) else None
        if isinstance(ends, ErspanDestination) and ends.erspan_type == "I" and ends.session_id is not None:
            found.append(Problem(join(path, "destination", "session_id"), "ERSPAN type I carries no session id"))
        if isinstance(one, Session):
            found += _without_unit(path, one)
    return found


def _without_unit(path: str, session: Session) -> Iterator[Problem]:
    """A bound that one full frame exceeds: its unit was forgotten."""
    if 0 < session.rate_limit < 8 * FULL_FRAME:
        rate = show_rate(session.rate_limit)
        yield Problem(join(path, "rate_limit"), f'{rate} is not one full frame a second; with a unit it is "200Mbit"')
    size = session.destination.rotate_size if isinstance(session.destination, FileDestination) else 0
    if 0 < size < FULL_FRAME:
        why = f'{show_size(size)} is less than a full frame: each has a file of its own; with a unit it is "100MB"'
        yield Problem(join(path, "destination", "rotate_size"), why)
