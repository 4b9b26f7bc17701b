"""A session's source -> the host's devices that its frames are captured on, and in which direction on each.

A bridge is its ports and itself: what comes in by a port is received there, what the host sends into the bridge leaves
by the bridge's own device, and each frame is seen at one of these places only. Ports come and go with the view.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from mirrord.control.host.view import AbsentError, Link, View
from mirrord.control.planning.finding import WARNING, Finding, tool
from mirrord.control.planning.listeners import end, label
from mirrord.dataplane.filter.rules import Direction
from mirrord.errors import Refused
from mirrord.model import BridgeSource, DeviceDestination, DeviceSource, Session, TunnelSource
from mirrord.values import GLOB


def devices(session: Session, view: View) -> Iterator[str]:
    """The devices' names, those that are named and not there included; a pattern that matches none stands for itself.

    A pattern or a bridge never brings in the session's own destination, nor a pattern what cannot be captured. A tunnel
    counts as one device.
    """
    netns, target = _netns(session), _target(session)
    if netns is not None:
        view = view.namespaces.get(netns, View())
    if isinstance(session.source, BridgeSource):
        yield session.source.bridge
        yield from (port for port in _ports(session.source.bridge, view) if port != target)
        return
    if isinstance(session.source, TunnelSource):
        yield label(session.source)
        return
    assert isinstance(session.source, DeviceSource)  # guests have been resolved to devices
    for pattern in session.source.device:
        if not GLOB.search(pattern):
            yield pattern
            continue
        found = [link for name, link in view.links.items() if fnmatchcase(name, pattern) and name != target]
        yield from sorted(link.name for link in found if not unfit(session, link)) or [pattern]


def may_be_several(session: Session) -> bool:
    """Whether the session's source can be several devices, now or later."""
    if isinstance(session.source, DeviceSource):
        return len(session.source.device) > 1 or any(GLOB.search(name) for name in session.source.device)
    return isinstance(session.source, BridgeSource)


def left_out(session: Session, view: View) -> list[Finding]:
    """Why patterns leave out devices that they match."""
    if not isinstance(session.source, DeviceSource):
        return []
    if session.source.netns is not None:
        view = view.namespaces.get(session.source.netns, View())
    patterns = [pattern for pattern in session.source.device if GLOB.search(pattern)]
    whys = {
        name: why
        for name, link in view.links.items()
        if patterns and (why := unfit(session, link)) and any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    remedy = "nothing, if that is meant; else narrow the pattern, or see to the device"
    return [Finding(WARNING, "left_out", f"{whys[name]}: the pattern leaves it out", remedy) for name in sorted(whys)]


def _target(session: Session) -> str | None:
    """The session's destination device, if it is in its source's namespace."""
    end = session.destination
    return end.device if isinstance(end, DeviceDestination) and end.netns == _netns(session) else None


def unfit(session: Session, link: Link) -> str:
    """Why this device cannot be the session's source; "" when it can."""
    if not (link.ethernet or link.raw):
        return f"{link.name} is neither an Ethernet device nor one of IP packets"
    if link.raw and (why := _unfit_without_ethernet(session, link)):
        return why
    guest = isinstance(session.source, DeviceSource) and session.source.perspective == "guest"
    if link.loopback and session.direction == ("ingress" if guest else "egress"):
        return (
            f"{link.name} receives each frame that it sends, and is captured as it receives:"
            f' direction = "{session.direction}" has none'
        )
    if session.direction == ("egress" if guest else "ingress"):
        if link.kind == "vrf":
            return (
                f"{link.name} is a VRF device, what it receives is tapped as sent:"
                f' direction = "{session.direction}" has none; mirror the devices that belong to it'
            )
        if link.kind == "ipvlan" and link.traits.mode == "l3s":
            return (
                f"{link.name} is an ipvlan device in mode l3s, what it receives never comes to its tap:"
                f' direction = "{session.direction}" has none; mirror the device that it lies on'
            )
    return ""


def _unfit_without_ethernet(session: Session, link: Link) -> str:
    if link.traits.multipoint:
        return (
            f"{link.name} is a GRE device without a remote of its own, its packets begin with outer headers:"
            " mirror the device that they leave by"
        )
    if isinstance(session.source, DeviceSource) and session.source.vlan is not None:
        return f"no packet of {link.name}, which has no Ethernet, has a VLAN tag"
    return ""


def matches(device: str, pattern: str) -> bool:
    """Whether a source's name or pattern means this device; a name is told from a pattern faster than it matches."""
    return device == pattern or (GLOB.search(pattern) is not None and fnmatchcase(device, pattern))


def find(session: Session, name: str, view: View) -> Link:
    """The device of this name. Raises AbsentError when it may come later, Refused when it cannot be a source."""
    if isinstance(session.source, TunnelSource):
        return end(session.source, view)
    link = view.inside(_netns(session)).links.get(name)
    if link is None:
        problem = f"no device matches {name}" if GLOB.search(name) else f"no such device: {name}"
        remedy = "create it, or change the session; it starts by itself when the device appears"
        raise AbsentError(problem, "device_missing", remedy)
    if isinstance(session.source, BridgeSource) and name == session.source.bridge and link.kind != "bridge":
        raise Refused(f"{name} is not a bridge")
    if why := unfit(session, link):
        raise Refused(why)
    if not link.up:
        remedy = f"{tool('ip', _netns(session))} link set {name} up"
        raise AbsentError(f"device is down: {name}", "device_down", remedy)
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
