"""A session's source -> the host's devices that its frames are captured on, and in which direction on each.

A bridge is its ports and itself: what comes in by a port is received there, what the host sends into the bridge leaves
by the bridge's own device, and each frame is seen at one of these places only. Ports come and go with the view.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from mirrord.control.host.links import AbsentError, Link, View
from mirrord.control.planning.listeners import end, label
from mirrord.dataplane.filter.rules import Direction
from mirrord.errors import Refused
from mirrord.model import BridgeSource, DeviceDestination, DeviceSource, Session, TunnelSource
from mirrord.values import GLOB


def devices(session: Session, view: View) -> Iterator[str]:
    """The devices' names, those that are named and not there included; a pattern that matches none stands for itself.

    A pattern or a bridge never brings in the session's own destination. A tunnel counts as one device.
    """
    target, netns = None, _netns(session)
    if isinstance(session.destination, DeviceDestination) and session.destination.netns == netns:
        target = session.destination.device
    if netns is not None:
        view = view.namespaces.get(netns, View())
    if isinstance(session.source, BridgeSource):
        yield session.source.bridge
        yield from (port for port in _ports(session.source.bridge, view) if port != target)
        return
    if isinstance(session.source, TunnelSource):
        yield label(session.source)
        return
    for pattern in session.source.device:
        if not GLOB.search(pattern):
            yield pattern
            continue
        found = sorted(name for name in view.links if fnmatchcase(name, pattern) and name != target)
        yield from found or [pattern]


def matches(device: str, pattern: str) -> bool:
    """Whether a source's name or pattern means this device; a name is told from a pattern faster than it matches."""
    return device == pattern or (GLOB.search(pattern) is not None and fnmatchcase(device, pattern))


def find(session: Session, name: str, view: View) -> Link:
    """The device of this name. Raises AbsentError when it may come later, Refused when it cannot be a source."""
    if isinstance(session.source, TunnelSource):
        return end(session.source, view)
    link = view.inside(_netns(session)).links.get(name)
    if link is None:
        raise AbsentError(f"no device matches {name}" if GLOB.search(name) else f"no such device: {name}")
    if isinstance(session.source, BridgeSource) and name == session.source.bridge and link.kind != "bridge":
        raise Refused(f"{name} is not a bridge")
    if not link.ethernet:
        raise Refused(f"{name} is not an Ethernet device")
    if not link.up:
        raise AbsentError(f"device is down: {name}")
    return link


def _netns(session: Session) -> str | None:
    return session.source.netns if isinstance(session.source, DeviceSource) else None


def bridged(source: BridgeSource, device: str) -> Direction:
    """The direction in which a bridge's frames are captured on one of its devices."""
    return Direction.EGRESS if device == source.bridge else Direction.INGRESS


def _ports(bridge: str, view: View) -> list[str]:
    link = view.links.get(bridge)
    if link is None or link.kind != "bridge":
        return []
    return sorted(port.name for port in view.links.values() if port.master == link.index)
