"""Configuration and host -> what should run; and what to do about what runs already. Pure: no I/O, no clock.

A plan has one entry for each session and source device. An entry that cannot run says why: `waiting` mends itself when
the host changes (a device that is not there), `failed` needs the operator (a destination that is refused).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from mirrord.control.host.links import AbsentError, Lease, Link, Path, View
from mirrord.control.planning import sources
from mirrord.control.planning.destinations import path, shaping, way_out
from mirrord.control.planning.guests import Resolved
from mirrord.control.planning.leases import lease, refuse_if_set_aside
from mirrord.control.planning.listeners import listen_plan
from mirrord.control.planning.selection import Selections
from mirrord.dataplane.capture.listener import ListenPlan
from mirrord.dataplane.capture.packet_socket import CapturePlan
from mirrord.dataplane.filter.rules import Direction, Selection
from mirrord.dataplane.netns import Netns
from mirrord.dataplane.pipeline import PipelinePlan
from mirrord.dataplane.transmit.file import FilePlan
from mirrord.dataplane.transmit.sockets import TunnelPlan
from mirrord.errors import Refused
from mirrord.model import (
    BridgeSource,
    Config,
    DeviceDestination,
    DeviceSource,
    FileDestination,
    Session,
    TunnelDestination,
    TunnelSource,
)

NO_LEASES: Mapping[str, Lease] = {}


class Key(NamedTuple):
    """Names a pipeline, and its series in the metrics."""

    mirror: str
    session: str
    source: str  # the device, or the tunnel: vxlan:192.0.2.1:4789


@dataclass(frozen=True, slots=True)
class Limit:
    """How busy the link may be that copies leave by, in percent of its speed, before their session pauses."""

    device: str
    netns: Netns | None
    share: int


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
    limit: Limit | None = None
    notes: tuple[str, ...] = ()  # of the session, with the first of its sources
    trouble: str = ""  # why no copy gets anywhere for now, though the pipeline runs


# --- what should run ---


def paths(config: Config, leases: Mapping[str, Lease] = NO_LEASES) -> frozenset[Path]:
    """The ways out whose routes a plan needs to know."""
    return frozenset(
        path(session.destination, config, leases.get(mirror.flow_network or ""))
        for mirror in config.mirrors.values()
        for session in mirror.sessions
        if isinstance(session.destination, TunnelDestination)
    )


def namespaces(config: Config) -> frozenset[str]:
    """The network namespaces that a plan needs to know, beside the daemon's own."""
    ends = [
        end
        for mirror in config.mirrors.values()
        for session in mirror.active
        for end in (session.source, session.destination)
    ]
    return frozenset(name for end in ends if (name := getattr(end, "netns", None)) is not None)


def make(
    wanted: Config | Resolved, view: View, selections: Selections | None = None, *, native: bool = True
) -> dict[Key, Entry]:
    """The entries of every session that is enabled, for the native data plane or the reference.

    `wanted` with guests resolved to devices, or a configuration that names none; `selections` are of its last time.
    """
    resolved = wanted if isinstance(wanted, Resolved) else Resolved(wanted)
    config = resolved.config
    if selections is None or selections.config is not config:
        selections = Selections(config)
    entries = {
        entry.key: entry
        for name, mirror in config.mirrors.items()
        for session in mirror.active
        for entry in _entries(resolved, name, session, view, selections, native=native)
    }
    selections.keep(entries)
    return _each_file_once(entries)


def _each_file_once(entries: dict[Key, Entry]) -> dict[Key, Entry]:
    """The entries, of which those fail whose file another one writes: devices' names make files' names."""
    writers: dict[str, Key] = {}
    for key, entry in entries.items():
        way = entry.pipeline.transmit if entry.pipeline is not None else None
        if isinstance(way, FilePlan) and writers.setdefault(way.path, key) != key:
            other = writers[way.path]
            who = f"session {other.session!r} of mirror {other.mirror!r} on {other.source}"
            reason = f"{way.path}: {who} writes this file"
            entries[key] = replace(entry, state="failed", reason=reason, pipeline=None, warnings=(), limit=None)
    return entries


def _entries(
    resolved: Resolved, mirror: str, session: Session, view: View, selections: Selections, *, native: bool
) -> Iterator[Entry]:
    about = dict(selections.about(mirror, session))
    for absent in resolved.absent.get((mirror, session.name), ()):
        words = tuple({**about, **resolved.about(mirror, session.name, "")}.items())
        yield Entry(Key(mirror, session.name, absent.label), absent.state, absent.reason, guest=True, about=words)
    notes = tuple(sources.left_out(session, view))
    for device in sources.devices(session, view) if (mirror, session.name) not in resolved.absent else ():
        words = tuple({**about, **resolved.about(mirror, session.name, device)}.items())
        key = Key(mirror, session.name, device)
        entry = _entry(resolved.config, key, session, view, selections, words, native=native)
        yield replace(entry, notes=notes) if notes else entry
        notes = ()  # said once


def _entry(
    config: Config,
    key: Key,
    session: Session,
    view: View,
    selections: Selections,
    about: tuple[tuple[str, str], ...],
    *,
    native: bool,
) -> Entry:
    guest = isinstance(session.source, DeviceSource) and session.source.perspective == "guest"
    try:
        source = sources.find(session, key.source, view)
        if isinstance(session.source, BridgeSource):  # what a session names itself, the loader has refused
            refuse_if_set_aside(config, source.name, f"it is a port of {session.source.bridge}")
        _refuse_the_source(session, source, view)
        leased = lease(config, key.mirror, view)
        way = way_out(config, session, source, view, leased, native=native)
    except AbsentError as absent:
        return Entry(key, "waiting", str(absent), guest=guest, about=about)
    except Refused as refused:
        return Entry(key, "failed", str(refused), guest=guest, about=about)
    capture = _capture(config, session, source, view, selections.of(key.mirror, session, source.name))
    warnings = (*shaping(source, "source"), *way.warnings)
    counted = session.filter if session.count_rules else None
    forward = replace(way.forward, guards=selections.guards(session))
    pipeline = PipelinePlan(capture, forward, way.transmit, counted or "", session.workers)
    limit = _limit(config, session, view, leased)
    about = tuple({**dict(about), **dict(way.how)}.items())
    return Entry(key, "up", "", pipeline, guest, about, warnings, limit, trouble=way.trouble)


def _refuse_the_source(session: Session, source: Link, view: View) -> None:
    """Refused when copies would leave by the source itself: two names of its namespace pass the loader."""
    to = session.destination
    if isinstance(session.source, DeviceSource) and isinstance(to, DeviceDestination) and to.device == source.name:
        here, there = (view.inside(name).netns for name in (session.source.netns, to.netns))
        if (here and here.inode) == (there and there.inode):
            raise Refused(f"{to.device} in {to.netns or 'this network namespace'} is also the source")


def _limit(config: Config, session: Session, view: View, leased: Lease | None) -> Limit | None:
    """The circuit breaker's; None without one, or without a route."""
    to = session.destination
    if not session.pause_above or isinstance(to, FileDestination):
        return None
    there = view.inside(getattr(to, "netns", None))
    if isinstance(to, DeviceDestination):
        return Limit(to.device, there.netns, session.pause_above)
    assert isinstance(to, TunnelDestination)  # there are no others
    route = there.routes.get(path(to, config, leased))
    names = [link.name for link in there.links.values() if route is not None and link.index == route.device]
    return Limit(names[0], there.netns, session.pause_above) if names else None


def _capture(
    config: Config, session: Session, source: Link, view: View, selected: Selection
) -> CapturePlan | ListenPlan:
    size = session.ring_size if session.ring_size is not None else config.daemon.ring_size
    if isinstance(session.source, TunnelSource):
        return listen_plan(config, session.source, selected, size)
    return CapturePlan(
        device=source.name,
        index=source.index,
        netns=view.inside(session.source.netns).netns if isinstance(session.source, DeviceSource) else None,
        selection=replace(selected, direction=Direction.INGRESS) if source.loopback else selected,
        mode="ring" if session.capture == "auto" and session.workers > 1 else session.capture,
        ring_size=size,
        promiscuous=isinstance(session.source, DeviceSource) and session.source.promiscuous,
    )


# --- what to do about what runs already ---


@dataclass(frozen=True, slots=True)
class Remove:
    """End a pipeline."""

    key: Key


@dataclass(frozen=True, slots=True)
class Replace:
    """Change what is selected, how copies are made, a tunnel's next hop; the ring and the counters stay."""

    key: Key
    pipeline: PipelinePlan


@dataclass(frozen=True, slots=True)
class Add:
    """Begin a pipeline."""

    key: Key
    pipeline: PipelinePlan


@dataclass(frozen=True, slots=True)
class Rename:
    """Call a pipeline something else, and let it go on as it is."""

    old: Key
    new: Key


Action = Remove | Replace | Add | Rename


def diff(old: Mapping[Key, PipelinePlan], new: Mapping[Key, PipelinePlan]) -> list[Action]:
    """The least that leads from what runs to what should: what is the same in both is left alone."""
    removes: list[Action] = [Remove(key) for key in old if key not in new]
    changes: list[Action] = []
    for key, wanted in new.items():
        before = old.get(key)
        if before is None:
            changes.append(Add(key, wanted))
            continue
        plan = _on_its_way(before, wanted)
        if before == plan:
            continue
        if plan == _as(before, plan):
            changes.append(Replace(key, plan))
        else:
            removes.append(Remove(key))
            changes.append(Add(key, plan))
    return _renamed(old, removes + changes)


def _renamed(old: Mapping[Key, PipelinePlan], actions: list[Action]) -> list[Action]:
    """The actions, where one pipeline's end and the same one's beginning under another name are no end."""
    going = [action.key for action in actions if isinstance(action, Remove)]
    renames: list[Action] = []
    rest: list[Action] = []
    for action in actions:
        if isinstance(action, Add) and action.key not in old:
            same = next((one for one in going if one.source == action.key.source and old[one] == action.pipeline), None)
            if same is not None:
                going.remove(same)
                renames.append(Rename(same, action.key))
                continue
        rest.append(action)
    return renames + [one for one in rest if not isinstance(one, Remove) or one.key in going]


def _on_its_way(before: PipelinePlan, plan: PipelinePlan) -> PipelinePlan:
    """The plan, with the source address in use where none is known: without a route it is not a new one."""
    used, wanted = before.transmit, plan.transmit
    if not (isinstance(used, TunnelPlan) and isinstance(wanted, TunnelPlan)):
        return plan
    if wanted.local or used.remote != wanted.remote:
        return plan
    return replace(plan, transmit=replace(wanted, local=used.local))


def _as(before: PipelinePlan, plan: PipelinePlan) -> PipelinePlan:
    """What runs, with the selection, the forward step and a tunnel's next hop of the plan, and what it counts."""
    transmit = before.transmit
    if isinstance(transmit, TunnelPlan) and isinstance(plan.transmit, TunnelPlan):
        way = plan.transmit
        transmit = replace(transmit, hop=way.hop, gso=way.gso, overtakes=way.overtakes)
    capture = replace(before.capture, selection=plan.capture.selection)
    return replace(before, capture=capture, forward=plan.forward, transmit=transmit, count_rules_of=plan.count_rules_of)
