"""A session's source -> the host's devices that its frames are captured on, and how each of them is captured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from mirrord.control.host.view import Link, View
from mirrord.control.planning.finding import Finding
from mirrord.control.planning.ways_in import bridge, device, tunnel
from mirrord.control.planning.ways_in.common import Asked
from mirrord.model import (
    BridgeSource,
    DeviceSource,
    ErspanSource,
    GeneveSource,
    GreSource,
    Model,
    Session,
    TzspSource,
    VxlanSource,
)
from mirrord.plans import SourcePlan
from mirrord.values.names import GLOB


class Kind(NamedTuple):
    """Who plans a kind of source: the functions of its file."""

    devices: Callable[..., Iterator[str]]
    find: Callable[..., Link]
    left_out: Callable[..., list[Finding]]
    capture: Callable[..., SourcePlan]


_DEVICE = Kind(device.devices, device.find, device.left_out, device.capture)
_BRIDGE = Kind(bridge.devices, bridge.find, bridge.left_out, bridge.capture)
_TUNNEL = Kind(tunnel.devices, tunnel.find, tunnel.left_out, tunnel.capture)

KINDS: Mapping[type[Model], Kind] = {  # a guest's NIC has been resolved to its device
    DeviceSource: _DEVICE,
    BridgeSource: _BRIDGE,
    VxlanSource: _TUNNEL,
    GeneveSource: _TUNNEL,
    GreSource: _TUNNEL,
    ErspanSource: _TUNNEL,
    TzspSource: _TUNNEL,
}


def devices(session: Session, view: View) -> Iterator[str]:
    """The names of the session's devices, those that are named and not there included."""
    return KINDS[type(session.source)].devices(session, session.source, view)


def find(session: Session, name: str, view: View) -> Link:
    """The device of this name. Raises AbsentError when it may come later, Refused when it cannot be a source."""
    return KINDS[type(session.source)].find(session, session.source, name, view)


def left_out(session: Session, view: View) -> list[Finding]:
    """Why the source leaves out devices that it could mean."""
    return KINDS[type(session.source)].left_out(session, session.source, view)


def capture(asked: Asked) -> SourcePlan:
    """How a device of the session's is captured."""
    return KINDS[type(asked.session.source)].capture(asked, asked.session.source)


def matches(device: str, pattern: str) -> bool:
    """Whether a source's name or pattern means this device; a name is told from a pattern faster than it matches."""
    return device == pattern or (GLOB.search(pattern) is not None and fnmatchcase(device, pattern))
