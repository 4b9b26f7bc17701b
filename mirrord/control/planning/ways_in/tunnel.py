"""A tunnel that ends here: it counts as one device."""

from __future__ import annotations

from collections.abc import Iterator

from mirrord.control.host.view import Link, View
from mirrord.control.planning.finding import Finding
from mirrord.control.planning.listeners import end, label, listen_plan
from mirrord.control.planning.ways_in.common import Asked
from mirrord.model import Session, TunnelSource
from mirrord.plans import ListenPlan


def devices(session: Session, source: TunnelSource, view: View) -> Iterator[str]:
    """The tunnel in one word."""
    del session, view
    yield label(source)


def left_out(session: Session, source: TunnelSource, view: View) -> list[Finding]:
    """Nothing."""
    del session, source, view
    return []


def find(session: Session, source: TunnelSource, name: str, view: View) -> Link:
    """The tunnel as a device. Raises AbsentError where the host does not have its address."""
    del session, name
    return end(source, view)


def capture(asked: Asked, source: TunnelSource) -> ListenPlan:
    """What is to be taken of what comes to its address."""
    told = asked.session.direction == "both"
    return listen_plan(asked.listeners, source, asked.selection, asked.ring_size, told=told)
