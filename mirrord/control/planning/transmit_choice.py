"""How a tunnel's copies are handed to the kernel: by a packet socket or one that it routes itself, joined or not."""

from __future__ import annotations

from typing import NamedTuple

from mirrord.control.host.view import AbsentError, Route
from mirrord.model import Session
from mirrord.plans import Hop

SLOWER = "the Python data plane is slower with outer headers of its own"
"""Microseconds a copy, for what takes the kernel a part of one: it pays only where the native core joins copies."""


class Way(NamedTuple):
    """What the data plane is to do, and the same in words, with the reason where there is one."""

    hop: Hop | None = None  # None: by a socket
    gso: bool = False
    transmit: str = "socket"
    joined: str = "off"


def choose(session: Session, route: Route | None, *, udp: bool, native: bool) -> Way:
    """The way that a session asks for, or that suits its route and the data plane.

    AbsentError where it cannot be had yet.
    """
    hop, transmit = _hop(session, route, native=native)
    against = _against_gso(session, route, udp=udp, native=native)
    return Way(hop, not against, transmit, f"off: {against}" if against else "on")


def no_answer(remote: str, route: Route) -> str:
    """That the next hop is not there."""
    return f"the next hop to {remote}{f', {route.gateway},' if route.gateway else ''} does not answer"


def _hop(session: Session, route: Route | None, *, native: bool) -> tuple[Hop | None, str]:
    hop = route.hop if route else None
    if session.transmit == "socket":
        return None, "socket"
    if session.transmit == "packet":
        if route is not None and hop is None and route.obstacle:
            raise AbsentError(route.obstacle)
        return hop, "packet"  # without a hop nothing is sent
    if session.on_mtu_exceeded == "fragment":
        return None, "socket: the kernel is to fragment"
    if route is None:
        return None, "socket: no route"
    if route.obstacle:
        return None, f"socket: {route.obstacle}"
    if not native:
        return None, f"socket: {SLOWER}"
    return hop, "packet" if hop else "socket: the next hop does not answer"


def _against_gso(session: Session, route: Route | None, *, udp: bool, native: bool) -> str:
    """Why copies are not joined; "" when they are."""
    if session.gso == "off":
        return "as configured"
    if not udp:
        return "only UDP has it"
    if session.on_mtu_exceeded == "fragment":
        return "the kernel is to fragment"
    if not native:
        return "the native data plane's alone"
    if session.gso == "on":
        return ""
    return route.uncut if route else "no route"
