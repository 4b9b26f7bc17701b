"""Configuration and host -> what should run; and what to do about what runs already. Pure: no I/O, no clock.

A plan has one entry for each session and source device. An entry that cannot run says why: `waiting` mends itself when
the host changes (a device that is not there), `failed` needs the operator (a destination that is refused).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from ipaddress import ip_address
from typing import NamedTuple

from mirrord.control.links import Link, Path, View
from mirrord.control.selection import guards, selection
from mirrord.dataplane import encap
from mirrord.dataplane.capture import CapturePlan
from mirrord.dataplane.filter import Guard
from mirrord.dataplane.forward import ForwardPlan
from mirrord.dataplane.headers import ETH_HEADER
from mirrord.dataplane.transmit import DevicePlan, UdpPlan
from mirrord.dataplane.worker import PipelinePlan
from mirrord.errors import Refused
from mirrord.model import Config, DeviceDestination, DeviceSource, Session, VxlanDestination
from mirrord.values import GLOB

UDP_HEADER, VXLAN_HEADER = 8, 8
IP_HEADER = {4: 20, 6: 40}
SHAPERS = frozenset({"cake", "cbq", "hfsc", "htb", "netem", "tbf"})  # queueing disciplines that hold traffic back


class Key(NamedTuple):
    """Names a pipeline, and its series in the metrics."""

    mirror: str
    session: str
    source: str  # the device


@dataclass(frozen=True, slots=True)
class Entry:
    """What one session wants of one source device, and whether the host allows it."""

    key: Key
    state: str  # up (is to run), waiting, failed
    reason: str = ""
    pipeline: PipelinePlan | None = None
    guest: bool = False  # ingress and egress are the guest's
    about: tuple[tuple[str, str], ...] = ()  # the session in words, for status and metrics
    warnings: tuple[str, ...] = ()


class AbsentError(Exception):
    """The host does not have yet what a session asks for."""


# --- what should run ---


def paths(config: Config) -> frozenset[Path]:
    """The ways out whose routes a plan needs to know."""
    return frozenset(
        _path(session.destination, config.daemon.mark)
        for mirror in config.mirrors.values()
        for session in mirror.sessions
        if isinstance(session.destination, VxlanDestination)
    )


def make(config: Config, view: View) -> dict[Key, Entry]:
    """The entries of every enabled mirror."""
    tunnels = guards(config)
    return {
        key: _entry(config, key, session, view, tunnels)
        for name, mirror in config.mirrors.items()
        if mirror.enabled
        for session in mirror.sessions
        for key in _keys(name, session, view)
    }


def _keys(mirror: str, session: Session, view: View) -> Iterator[Key]:
    """One for each device that the source names or matches; a pattern that matches none stands for itself."""
    assert isinstance(session.source, DeviceSource)  # the others are refused by the loader
    for pattern in session.source.device:
        if not GLOB.search(pattern):
            yield Key(mirror, session.name, pattern)
            continue
        matches = sorted(name for name in view.links if fnmatchcase(name, pattern))
        for name in matches or [pattern]:
            yield Key(mirror, session.name, name)


def _entry(config: Config, key: Key, session: Session, view: View, tunnels: tuple[Guard, ...]) -> Entry:
    assert isinstance(session.source, DeviceSource)  # the others are refused by the loader
    guest = session.source.perspective == "guest"
    entry = Entry(key, "up", guest=guest, about=_about(session))
    try:
        source = _source(key.source, view)
        transmit, forward, warnings = _way_out(config, session, source, view)
    except AbsentError as absent:
        return replace(entry, state="waiting", reason=str(absent))
    except Refused as refused:
        return replace(entry, state="failed", reason=str(refused))
    capture = CapturePlan(
        device=source.name,
        index=source.index,
        selection=selection(config, session, tunnels),
        mode="socket" if session.capture == "socket" else "ring",
        ring_size=session.ring_size if session.ring_size is not None else config.daemon.ring_size,
        promiscuous=session.source.promiscuous,
    )
    shaped = _shaping(source, "source")
    return replace(entry, pipeline=PipelinePlan(capture, forward, transmit), warnings=(*shaped, *warnings))


def _about(session: Session) -> tuple[tuple[str, str], ...]:
    to = session.destination
    if isinstance(to, DeviceDestination):
        destination, transmit = f"device {to.device}", "packet"
    else:
        assert isinstance(to, VxlanDestination)  # the others are refused by the loader
        destination, transmit = f"vxlan {to.remote} port {to.port} vni {to.vni}", "socket"
    return (
        ("direction", session.direction),
        ("destination", destination),
        ("filter", session.filter or ""),
        ("capture", "socket" if session.capture == "socket" else "ring"),
        ("transmit", transmit),
    )


def _source(name: str, view: View) -> Link:
    link = view.links.get(name)
    if link is None:
        raise AbsentError(f"no such device: {name}")
    if not link.ethernet:
        raise Refused(f"{name} is not an Ethernet device")
    if not link.up:
        raise AbsentError(f"device is down: {name}")
    return link


# --- the way out ---


def _way_out(
    config: Config, session: Session, source: Link, view: View
) -> tuple[DevicePlan | UdpPlan, ForwardPlan, tuple[str, ...]]:
    forward = ForwardPlan(
        template=encap.bare(),
        snaplen=session.snaplen,
        on_mtu_exceeded=session.on_mtu_exceeded,
        sampling_rate=session.sampling_rate,
        rate_limit=session.rate_limit,
    )
    if isinstance(session.destination, DeviceDestination):
        return _span(config, session.destination, source, view, forward)
    assert isinstance(session.destination, VxlanDestination)  # the others are refused by the loader
    return _vxlan(config, session.destination, source, view, forward)


def _span(
    config: Config, to: DeviceDestination, source: Link, view: View, forward: ForwardPlan
) -> tuple[DevicePlan, ForwardPlan, tuple[str, ...]]:
    link = view.links.get(to.device)
    if link is None:
        raise AbsentError(f"no such device: {to.device}")
    if not link.ethernet:
        raise Refused(f"{to.device} is not an Ethernet device")
    if link.index in view.default_routes and not to.allow_default_route:
        raise Refused(
            f"{to.device} holds a default route of this host, copies would go out among its own traffic"
            " (allow_default_route = true permits it)"
        )
    forward = replace(forward, frame_limit=link.mtu + ETH_HEADER)
    warnings = [*_shaping(link, "destination"), *_too_long(source, forward, f"the MTU of {link.name}, {link.mtu}")]
    if not link.up:
        warnings.append(f"destination device is down: {link.name}")
    if link.learning:
        warnings.append(f"{link.name} is a port of a bridge that learns addresses: copies would mislead it")
    return DevicePlan(link.name, link.index, config.daemon.mark), forward, tuple(warnings)


def _vxlan(
    config: Config, to: VxlanDestination, source: Link, view: View, forward: ForwardPlan
) -> tuple[UdpPlan, ForwardPlan, tuple[str, ...]]:
    path = _path(to, config.daemon.mark)
    headers = IP_HEADER[ip_address(path.remote).version] + UDP_HEADER
    route = view.routes.get(path)
    limit = max(route.mtu - headers - VXLAN_HEADER, ETH_HEADER) if route else 0
    forward = replace(forward, template=encap.vxlan(to.vni), frame_limit=limit, overhead=ETH_HEADER + headers)
    if route:
        warnings = _too_long(source, forward, f"the path MTU to {path.remote}, {route.mtu}")
        for link in view.links.values():
            if link.index == route.device:
                warnings += _shaping(link, "outgoing")
    else:
        warnings = [f"no route to {path.remote}"]
    plan = UdpPlan(
        remote=path.remote,
        port=to.port,
        local=path.local,
        ttl=to.ttl,
        dscp=to.dscp,
        mark=config.daemon.mark,
        fragment=forward.on_mtu_exceeded == "fragment",
    )
    return plan, forward, tuple(warnings)


def _path(to: VxlanDestination, mark: int) -> Path:
    return Path(str(to.remote), str(to.local or ""), mark)


def _too_long(source: Link, forward: ForwardPlan, limit: str) -> list[str]:
    full = source.mtu + ETH_HEADER
    if forward.snaplen:
        full = min(full, forward.snaplen)
    if full <= forward.frame_limit:
        return []
    fate = {"truncate": "truncated", "fragment": "fragmented", "drop": "dropped"}[forward.on_mtu_exceeded]
    limit = f"{limit}, carries frames of {forward.frame_limit} bytes"
    return [f"{limit}, but those of {source.name} have up to {full}: longer ones are {fate}"]


def _shaping(link: Link, role: str) -> list[str]:
    return [f"{role} device {link.name} is shaped ({link.qdisc})"] if link.qdisc in SHAPERS else []


# --- what to do about what runs already ---


@dataclass(frozen=True, slots=True)
class Remove:
    """End a pipeline."""

    key: Key


@dataclass(frozen=True, slots=True)
class Replace:
    """Change how copies are made; the ring and the counters stay."""

    key: Key
    forward: ForwardPlan


@dataclass(frozen=True, slots=True)
class Add:
    """Begin a pipeline."""

    key: Key
    pipeline: PipelinePlan


Action = Remove | Replace | Add


def diff(old: Mapping[Key, PipelinePlan], new: Mapping[Key, PipelinePlan]) -> list[Action]:
    """The least that leads from what runs to what should: what is the same in both is left alone."""
    removes: list[Action] = [Remove(key) for key in old if key not in new]
    changes: list[Action] = []
    for key, plan in new.items():
        before = old.get(key)
        if before is None:
            changes.append(Add(key, plan))
        elif (before.capture, before.transmit) != (plan.capture, plan.transmit):
            removes.append(Remove(key))
            changes.append(Add(key, plan))
        elif before.forward != plan.forward:
            changes.append(Replace(key, plan.forward))
    return removes + changes
