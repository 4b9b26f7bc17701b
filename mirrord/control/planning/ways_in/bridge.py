"""A bridge: its ports and itself.

What comes in by a port is received there, what the host sends into the bridge leaves by the bridge's own device, and
each frame is seen at one of these places only. Ports come and go with the view.
"""

from __future__ import annotations

from collections.abc import Iterator

from mirrord.control.host.view import Link, View
from mirrord.control.planning.finding import Finding
from mirrord.control.planning.ways_in.common import Asked, mode, named, present, target, together
from mirrord.dataplane.filter.rules import Direction
from mirrord.errors import Refused
from mirrord.model import BridgeSource, Session
from mirrord.plans import CapturePlan


def devices(session: Session, source: BridgeSource, view: View) -> Iterator[str]:
    """The bridge's name, and those of its ports, but not of the session's own destination."""
    yield source.bridge
    yield from (port for port in _ports(source.bridge, view) if port != target(session))


def left_out(session: Session, source: BridgeSource, view: View) -> list[Finding]:
    """Nothing: all ports are captured."""
    del session, source, view
    return []


def find(session: Session, source: BridgeSource, name: str, view: View) -> Link:
    """The device of this name. Raises AbsentError when it may come later, Refused when it cannot be a source."""
    if name == source.bridge and present(session, name, view).kind != "bridge":
        raise Refused(f"{name} is not a bridge")
    return named(session, name, view)


def capture(asked: Asked, source: BridgeSource) -> CapturePlan:
    """How a port, or the bridge's own device, is captured."""
    del source
    link = asked.link
    return CapturePlan(
        device=link.name,
        index=link.index,
        selection=asked.selection,
        mode=mode(asked.session),
        ring_size=asked.ring_size,
        raw=link.raw,
        together=together(asked),
        pvid=link.pvid,
    )


def direction(source: BridgeSource, device: str) -> Direction:
    """The direction in which a bridge's frames are captured on one of its devices."""
    return Direction.EGRESS if device == source.bridge else Direction.INGRESS


def _ports(bridge: str, view: View) -> list[str]:
    link = view.links.get(bridge)
    if link is None or link.kind != "bridge":
        return []
    return sorted(port.name for port in view.links.values() if port.master == link.index)
