"""A device of the host, several of them, or all that a pattern matches.

A guest's NIC has been resolved to its device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

from mirrord.control.host.view import Link, View
from mirrord.control.planning.finding import WARNING, Finding
from mirrord.control.planning.ways_in.common import Asked, mode, named, netns, target, together, unfit
from mirrord.dataplane.filter.rules import Direction
from mirrord.model import DeviceSource, Session
from mirrord.plans import CapturePlan
from mirrord.values.names import GLOB


def devices(session: Session, source: DeviceSource, view: View) -> Iterator[str]:
    """The devices' names; a pattern that matches none stands for itself.

    A pattern brings in neither the session's own destination nor what cannot be captured.
    """
    links, own = _links(session, view), target(session)
    for pattern in source.device:
        if not GLOB.search(pattern):
            yield pattern
            continue
        found = [link for name, link in links.items() if fnmatchcase(name, pattern) and name != own]
        yield from sorted(link.name for link in found if not unfit(session, link)) or [pattern]


def left_out(session: Session, source: DeviceSource, view: View) -> list[Finding]:
    """Why patterns leave out devices that they match."""
    patterns = [pattern for pattern in source.device if GLOB.search(pattern)]
    whys = {
        name: why
        for name, link in (_links(session, view).items() if patterns else ())
        if (why := unfit(session, link)) and any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    remedy = "nothing, if that is meant; else narrow the pattern, or see to the device"
    return [Finding(WARNING, "left_out", f"{whys[name]}: the pattern leaves it out", remedy) for name in sorted(whys)]


def find(session: Session, source: DeviceSource, name: str, view: View) -> Link:
    """The device of this name. Raises AbsentError when it may come later, Refused when it cannot be a source."""
    del source
    return named(session, name, view)


def capture(asked: Asked, source: DeviceSource) -> CapturePlan:
    """How the device is captured; `lo` as it receives, since it receives each frame that it sends."""
    session, link, selection = asked.session, asked.link, asked.selection
    return CapturePlan(
        device=link.name,
        index=link.index,
        netns=asked.view.inside(source.netns).netns,
        selection=replace(selection, direction=Direction.INGRESS) if link.loopback else selection,
        mode=mode(session),
        ring_size=asked.ring_size,
        promiscuous=source.promiscuous,
        raw=link.raw,
        together=_several(source) and together(asked),
    )


def _several(source: DeviceSource) -> bool:
    """Whether it can be several devices, now or later."""
    return len(source.device) > 1 or any(GLOB.search(name) for name in source.device)


def _links(session: Session, view: View) -> Mapping[str, Link]:
    name = netns(session)
    return (view if name is None else view.namespaces.get(name, View())).links
