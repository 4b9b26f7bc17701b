"""What the planning of every kind of source has in common: what is asked, and which devices cannot be captured."""

from __future__ import annotations

from typing import NamedTuple

from mirrord.control.host.view import AbsentError, Link, View
from mirrord.control.planning.finding import tool
from mirrord.control.planning.listeners import Named
from mirrord.dataplane.filter.rules import Selection
from mirrord.errors import Refused
from mirrord.model import DeviceDestination, DeviceSource, FileDestination, PcapDestination, Session
from mirrord.values.names import GLOB


class Asked(NamedTuple):
    """What the plan of a capture follows from."""

    session: Session
    link: Link  # the source's device
    view: View
    selection: Selection  # what is to be mirrored of its frames
    ring_size: int  # bytes
    listeners: Named  # what other sessions listen at


def netns(session: Session) -> str | None:
    """The name of the network namespace that the source is in; None for the daemon's own."""
    return session.source.netns if isinstance(session.source, DeviceSource) else None


def target(session: Session) -> str | None:
    """The session's destination device, if it is in its source's namespace."""
    end = session.destination
    return end.device if isinstance(end, DeviceDestination) and end.netns == netns(session) else None


def named(session: Session, name: str, view: View) -> Link:
    """The device of this name, if it is up. Raises AbsentError when it may come later, Refused if it is no source."""
    link = present(session, name, view)
    if why := unfit(session, link):
        raise Refused(why)
    if not link.up:
        remedy = f"{tool('ip', netns(session))} link set {name} up"
        raise AbsentError(f"device is down: {name}", "device_down", remedy)
    return link


def present(session: Session, name: str, view: View) -> Link:
    """The device of this name. Raises AbsentError when it is not there."""
    link = view.inside(netns(session)).links.get(name)
    if link is None:
        problem = f"no device matches {name}" if GLOB.search(name) else f"no such device: {name}"
        remedy = "create it, or change the session; it starts by itself when the device appears"
        raise AbsentError(problem, "device_missing", remedy)
    return link


def mode(session: Session) -> str:
    """How frames are captured: several workers share a ring's fanout from the start."""
    return "ring" if session.capture == "auto" and session.workers > 1 else session.capture


def together(asked: Asked) -> bool:
    """Whether one of several devices is captured with the others, in order: not for files, each device has its own, nor
    for streams, where each has queues of its own.
    """
    return not asked.link.raw and not isinstance(asked.session.destination, FileDestination | PcapDestination)


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
