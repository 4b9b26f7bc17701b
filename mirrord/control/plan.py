"""Configuration and host -> what should run; and what to do about what runs already. Pure: no I/O, no clock.

A plan has one entry for each session and source device. An entry that cannot run says why: `waiting` mends itself when
the host changes (a device that is not there), `failed` needs the operator (a destination that is refused).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import NamedTuple

from mirrord.control.destinations import describe, path, shaping, way_out
from mirrord.control.links import AbsentError, Link, Path, View
from mirrord.control.overlap import before
from mirrord.control.selection import guards, selection
from mirrord.dataplane.capture import CapturePlan
from mirrord.dataplane.filter import Guard
from mirrord.dataplane.forward import ForwardPlan
from mirrord.dataplane.worker import PipelinePlan
from mirrord.errors import Refused
from mirrord.model import Config, DeviceSource, Session, TunnelDestination
from mirrord.values import GLOB


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


# --- what should run ---


def paths(config: Config) -> frozenset[Path]:
    """The ways out whose routes a plan needs to know."""
    return frozenset(
        path(session.destination, config)
        for mirror in config.mirrors.values()
        for session in mirror.sessions
        if isinstance(session.destination, TunnelDestination)
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
        way = way_out(config, session, source, view)
    except AbsentError as absent:
        return replace(entry, state="waiting", reason=str(absent))
    except Refused as refused:
        return replace(entry, state="failed", reason=str(refused))
    others = before(config.mirrors[key.mirror], session, source.name)
    selected = selection(config, session, tunnels)
    capture = CapturePlan(
        device=source.name,
        index=source.index,
        selection=replace(selected, before=tuple(selection(config, one, tunnels) for one in others)),
        mode="socket" if session.capture == "socket" else "ring",
        ring_size=session.ring_size if session.ring_size is not None else config.daemon.ring_size,
        promiscuous=session.source.promiscuous,
    )
    warnings = (*shaping(source, "source"), *way.warnings)
    return replace(entry, pipeline=PipelinePlan(capture, way.forward, way.transmit), warnings=warnings)


def _about(session: Session) -> tuple[tuple[str, str], ...]:
    destination, transmit = describe(session)
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
