"""Copies out of a device."""

from __future__ import annotations

from dataclasses import replace

from mirrord.control.host.view import Link, View
from mirrord.control.planning.finding import WARNING, Finding, tool
from mirrord.control.planning.ways_out.common import UNBOUNDED, Asked, Narrows, WayOut, dead, shaping, too_long
from mirrord.dataplane.counters import Slot
from mirrord.errors import Refused
from mirrord.model import DeviceDestination, Session
from mirrord.plans import DevicePlan
from mirrord.protocols import ETH_HEADER


def describe(_session: Session, to: DeviceDestination) -> tuple[str, str]:
    """The destination in words, and how copies are handed to the kernel."""
    vlan = "" if to.vlan is None else f" vlan {to.vlan}"
    place = "" if to.netns is None else f" in {to.netns}"
    held = ("" if to.normal_io else ", reserved") + (", off its bridge" if to.isolate else "")
    return f"device {to.device}{vlan}{place}{held}", "packet"


def way_out(asked: Asked, to: DeviceDestination) -> WayOut:
    """AbsentError while the device is not there, Refused where copies would do harm."""
    view = asked.view.inside(to.netns)
    link = view.ethernet(to.device)
    warnings = _default_route(to, link, view)
    forward = replace(asked.forward, frame_limit=link.mtu + ETH_HEADER, push_tag=to.vlan or 0)
    warnings += shaping(link, "destination", to.netns)
    most = link.most_mtu or UNBOUNDED
    warnings += too_long(asked, forward, Narrows(f"the MTU of {link.name}", link.name, link.mtu, most))
    warnings += _misled_bridge(to, link, view)
    if trouble := dead(link, to.netns):
        forward = replace(forward, blocked=Slot.dropped_link_down)
    plan = DevicePlan(
        link.name,
        link.index,
        asked.config.daemon.mark,
        view.netns,
        reserved=not to.normal_io,
        isolated=to.isolate,
        takes_ring=to.netns is None and link.takes_ring,
    )
    return WayOut(plan, forward, tuple(warnings), trouble=trouble)


def _default_route(to: DeviceDestination, link: Link, view: View) -> list[Finding]:
    """A warning when a destination holds a default route; Refused where that is not permitted."""
    if link.index not in view.default_routes:
        return []
    problem = f"{to.device} holds a default route of this host, copies would go out among its own traffic"
    remedy = "use another device, or a tunnel"
    if not to.allow_default_route:
        permits = " (allow_default_route = true permits it)"
        raise Refused(problem + permits, about="default_route", remedy=remedy)
    if not to.normal_io:
        raise Refused(
            f"{to.device} holds a default route of this host, to reserve it would cut the host off",
            about="default_route",
            remedy=remedy,
        )
    return [Finding(WARNING, "default_route", problem, remedy)]


def _misled_bridge(to: DeviceDestination, link: Link, view: View) -> list[Finding]:
    """A warning when a destination is a bridge's port.

    With `isolate` it is taken off the bridge while the session runs, unless somebody made it a port again.
    """
    if to.isolate and link.traits.taken_off and link.master:
        bridge = view.by_index[link.master].name if link.master in view.by_index else f"device {link.master}"
        problem = (
            f"{link.name} was taken off {link.traits.taken_off}, and somebody has made it a port of {bridge} since"
        )
        remedy = f"{tool('ip', to.netns)} link set dev {link.name} nomaster, which has the copies mislead no bridge"
    elif link.learning and not to.isolate:
        problem = f"{link.name} is a port of a bridge that learns addresses: copies would mislead it"
        remedy = f"{tool('bridge', to.netns)} link set dev {link.name} learning off, which has it learn no more"
        if to.netns is None:
            remedy += "; isolate = true takes it off the bridge while it is a destination"
    else:
        return []
    return [Finding(WARNING, "learning_bridge", problem, remedy)]
