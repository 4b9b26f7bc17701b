"""How a tunnel's copies are handed to the kernel: by a packet socket or one that it routes itself, joined or not."""

from __future__ import annotations

from typing import NamedTuple

from mirrord.control.host.links import AbsentError, Route
from mirrord.dataplane.transmit.sockets import Hop
from mirrord.model import Session

SLOWER = "the Python data plane is slower with outer headers of its own"
"""Microseconds a copy, for what takes the kernel a part of one: it pays only where the native core joins copies."""


class Way(NamedTuple):
    """What the data plane is to do, and the same in words, with the reason where there is one."""

    hop: Hop | None = None  # None: by a socket
    gso: bool = False
    transmit: str = "socket"
    joined: str = "off"


def choose(session: Session, route: Route | None, remote: str, *, udp: bool, native: bool) -> Way:
    """The way that a session asks for, or that suits its route and the data plane.

    AbsentError where it cannot be had yet.
    """
    hop, transmit = _hop(session, route, remote, native=native)
    against = _against_gso(session, route, udp=udp, native=native)
    return Way(hop, not against, transmit, f"off: {against}" if against else "on")


def _hop(session: Session, route: Route | None, remote: str, *, native: bool) -> tuple[Hop | None, str]:
    hop = route.hop if route else None
    if session.transmit == "socket":
        return None, "socket"
    if session.transmit == "packet":
        if route is None:
            raise AbsentError(f"no route to {remote}")
        if hop is None:
            raise AbsentError(route.obstacle or f"the next hop to {remote} does not answer")
        return hop, "packet"
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
