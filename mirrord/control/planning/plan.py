"""Configuration and host -> what should run; and what to do about what runs already. Pure: no I/O, no clock.

A plan has one entry for each session and source device. An entry that cannot run says why: `waiting` mends itself when
the host changes (a device that is not there), `failed` needs the operator (a destination that is refused).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

from mirrord.control.host.view import AbsentError, Lease, Link, View
from mirrord.control.planning import sources
from mirrord.control.planning.blind_spots import blind_spots, bonds_captured
from mirrord.control.planning.destinations import way_out
from mirrord.control.planning.finding import ERROR, Finding
from mirrord.control.planning.guests import Resolved
from mirrord.control.planning.leases import lease, refuse_if_set_aside
from mirrord.control.planning.overlap import end_of
from mirrord.control.planning.received import too_narrow
from mirrord.control.planning.selection import Selections, about, taken_off
from mirrord.control.planning.ways_in.common import Asked
from mirrord.control.planning.ways_out.common import RemoteState, WayOut, shaping
from mirrord.control.planning.ways_out.tunnel import collectors
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.forward import encap
from mirrord.errors import Refused
from mirrord.model import (
    BridgeSource,
    Config,
    DeviceDestination,
    DeviceSource,
    FileDestination,
    Mirror,
    PcapDestination,
    Session,
    TunnelDestination,
    TunnelSource,
)
from mirrord.plans import DevicePlan, FilePlan, ForwardPlan, Netns, NowherePlan, PipelinePlan, RemotesPlan, TunnelPlan

WITHOUT_ETHERNET = "ip"  # what a source's link is where it is not Ethernet


class Key(NamedTuple):
    """Names a pipeline, and its series in the metrics."""

    mirror: str
    session: str
    source: str  # the device, or the tunnel: vxlan:192.0.2.1:4789


@dataclass(frozen=True, slots=True)
class Limit:
    """How busy the link may be that copies leave by, in percent of its speed, before their session pauses, or thins."""

    device: str
    netns: Netns | None
    share: int
    thins: bool = False  # it mirrors fewer conversations then


@dataclass(frozen=True, slots=True)
class Entry:
    """What one session wants of one source device, and whether the host allows it."""

    key: Key
    state: str  # up (is to run), waiting, failed
    reason: str = ""
    pipeline: PipelinePlan | None = None
    guest: bool = False  # ingress and egress are the guest's
    about: tuple[tuple[str, str], ...] = ()  # the session in words, for status and metrics
    warnings: tuple[Finding, ...] = ()
    limit: Limit | None = None
    notes: tuple[Finding, ...] = ()  # of the session, with the first of its sources
    cause: Finding | None = None  # why it cannot run, or why no copy gets anywhere for now, though the pipeline runs
    bypassed: bool = False  # frames of the source do not come to the tap: a warning says which
    remotes: tuple[RemoteState, ...] = ()  # how a tunnel's collectors are

    @property
    def trouble(self) -> str:
        """Why no copy gets anywhere for now, though the pipeline runs; "" where they do."""
        return self.cause.problem if self.cause is not None and self.pipeline is not None else ""


# --- what should run ---


def namespaces(config: Config) -> frozenset[str]:
    """The network namespaces that a plan needs to know, beside the daemon's own."""
    ends = [
        end
        for mirror in config.mirrors.values()
        for session in mirror.active
        for end in (session.source, session.destination)
    ]
    return frozenset(name for end in ends if (name := getattr(end, "netns", None)) is not None)


def make(wanted: Config | Resolved, view: View, *, native: bool = True) -> dict[Key, Entry]:
    """The entries of every session that is enabled, for the native data plane or the reference.

    `wanted` with guests resolved to devices, or a configuration that names none.
    """
    return Planner().make(wanted, view, native=native)


class Known(NamedTuple):
    """A session's entries by source, and what each was told of its guest."""

    session: Session
    entries: Mapping[str, tuple[Mapping[str, str], Entry]]


class Before(NamedTuple):
    """What a planner has made, and what of."""

    selections: Selections
    context: object  # all but sessions themselves that their entries follow from
    guests: object  # what is known of these
    known: Mapping[tuple[str, str], Known]  # by mirror and session


class Planner:
    """Makes one plan after the other. What is wanted as before, on a host that is as before, is not planned anew."""

    def __init__(self) -> None:
        self._before: Before | None = None

    def make(self, wanted: Config | Resolved, view: View, *, native: bool = True) -> dict[Key, Entry]:
        """As `make`."""
        resolved = wanted if isinstance(wanted, Resolved) else Resolved(wanted)
        config = resolved.config
        before, self._before = self._before, None  # who fails half-way begins anew
        selections = Selections(config, before.selections if before is not None else None)
        networks = {name: mirror.flow_network for name, mirror in config.mirrors.items() if mirror.flow_network}
        once = {name: mirror.duplicate_window for name, mirror in config.mirrors.items() if mirror.duplicates == "drop"}
        bonds = bonds_captured(config, view)
        context = view, native, config.daemon, config.flow_networks, networks, once, bonds
        guests = resolved.absent, resolved.guests, resolved.destinations, resolved.nowhere
        known = before.known if before is not None and before.context == context else {}
        same_guests = before is not None and before.guests == guests
        planned: dict[tuple[str, str], Known] = {}
        for name, mirror in config.mirrors.items():
            for session in mirror.active:
                key = name, session.name
                there = known.get(key)
                if there is None or there.session is not session:
                    planned[key] = _planned(resolved, name, session, view, selections, {}, native=native)
                elif same_guests and selections.same(name, session):
                    planned[key] = there
                else:
                    planned[key] = _planned(resolved, name, session, view, selections, there.entries, native=native)
        self._before = Before(selections, context, guests, planned)
        return _each_file_once({one.key: one for known in planned.values() for _, one in known.entries.values()})


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


def _planned(
    resolved: Resolved,
    mirror: str,
    session: Session,
    view: View,
    selections: Selections,
    known: Mapping[str, tuple[Mapping[str, str], Entry]],
    *,
    native: bool,
) -> Known:
    """The entries of a session; of those that are `known` of it on this host, the ones that hold."""
    words = dict(about(session))
    entries: dict[str, tuple[Mapping[str, str], Entry]] = {}
    absences = resolved.absent.get((mirror, session.name), ())
    for absent in absences:
        told = resolved.about(mirror, session.name, "")
        key, told_about = Key(mirror, session.name, absent.label), tuple({**words, **told}.items())
        entries[absent.label] = told, Entry(key, absent.state, absent.reason, guest=True, about=told_about)
    for number, device in enumerate(sources.devices(session, view) if not absences else ()):
        told = resolved.about(mirror, session.name, device)
        before, entry = known.get(device, (None, None))
        if entry is None or before != told or not _holds(entry, session, selections):
            key, told_about = Key(mirror, session.name, device), tuple({**words, **told}.items())
            entry = _entry(resolved, key, session, view, selections, told_about, native=native)
            notes = () if number else tuple(sources.left_out(session, view))  # said once
            entry = replace(entry, notes=notes) if notes else entry
        entries[device] = told, entry
    return Known(session, entries)


def _holds(entry: Entry, session: Session, selections: Selections) -> bool:
    """Whether an entry of this session is so, too, by the filters and by what others take now."""
    if entry.pipeline is None:
        return True
    selected = selections.of(entry.key.mirror, session, entry.key.source)
    if entry.pipeline.capture.selection != selected or isinstance(session.source, TunnelSource):
        return False
    return entry.pipeline.forward.inside == selections.inside(session)


def _entry(
    resolved: Resolved,
    key: Key,
    session: Session,
    view: View,
    selections: Selections,
    about: tuple[tuple[str, str], ...],
    *,
    native: bool,
) -> Entry:
    config = resolved.config
    guest = isinstance(session.source, DeviceSource) and session.source.perspective == "guest"
    try:
        source = sources.find(session, key.source, view)
        if isinstance(session.source, BridgeSource):  # what a session names itself, the loader has refused
            refuse_if_set_aside(config, source.name, f"it is a port of {session.source.bridge}")
        _refuse_the_source(session, source, view)
        leased = lease(config, key.mirror, view)
        strips = getattr(session.source, "strip", False)  # what is inside are frames
        mirrored = replace(source, mtu=source.mtu - taken_off(session), raw=source.raw and not strips)
        way = _way_out(resolved, key, session, mirrored, view, leased, native=native)
    except AbsentError as absent:
        cause = Finding(ERROR, absent.code, str(absent), absent.remedy) if absent.code else None
        return Entry(key, "waiting", str(absent), guest=guest, about=about, cause=cause)
    except Refused as refused:
        cause = Finding(ERROR, refused.about, str(refused), refused.remedy) if refused.about else None
        return Entry(key, "failed", str(refused), guest=guest, about=about, cause=cause)
    size = session.ring_size if session.ring_size is not None else config.daemon.ring_size
    selected = selections.of(key.mirror, session, source.name)
    capture = sources.capture(Asked(session, source, view, selected, size, selections.listeners))
    netns = getattr(session.source, "netns", None)
    spots = list(blind_spots(config.mirrors[key.mirror], session, source, view.inside(netns)))
    narrow = too_narrow(config, session, view)
    warnings = (*shaping(source, "source", netns), *(spot.finding for spot in spots), *way.warnings, *narrow)
    counted = session.filter if session.count_rules else None
    forward = replace(way.forward, guarded=not session.mirror_tunnels, inside=selections.inside(session))
    pipeline = PipelinePlan(capture, forward, way.transmit, counted or "", session.workers, session.recorder)
    pipeline = _copied_once(pipeline, config.mirrors[key.mirror], session)
    limit = _limit(config, session, view, leased)
    link = (("link", WITHOUT_ETHERNET),) if mirrored.raw else ()
    about = tuple({**dict(about), **dict(way.how), **dict(link)}.items())
    bypassed = any(spot.bypassed for spot in spots)
    if isinstance(way.transmit, NowherePlan):
        why = way.trouble.problem if way.trouble else ""
        return Entry(key, "waiting", why, pipeline, guest, about, warnings, cause=way.trouble)
    return Entry(
        key,
        "up",
        "",
        pipeline,
        guest,
        about,
        warnings,
        limit,
        cause=way.trouble,
        bypassed=bypassed,
        remotes=way.remotes,
    )


def _way_out(
    resolved: Resolved, key: Key, session: Session, source: Link, view: View, leased: Lease | None, *, native: bool
) -> WayOut:
    """The way out. AbsentError, Refused; but a tunnel is received while its destination is not there, too.

    What its senders send meanwhile, as to a VM that has just moved to another host, would be lost uncounted.
    """
    if why := resolved.nowhere.get(key[:2]):
        absent = AbsentError(why)
    else:
        try:
            return way_out(resolved.config, key.mirror, session, source, view, leased, native=native)
        except AbsentError as error:
            if not isinstance(session.source, TunnelSource):
                raise
            absent = error
    cause = Finding(ERROR, absent.code or "no_destination", str(absent), absent.remedy)
    return WayOut(NowherePlan(), ForwardPlan(encap.bare(), blocked=Slot.dropped_no_route), trouble=cause)


def _copied_once(plan: PipelinePlan, mirror: Mirror, session: Session) -> PipelinePlan:
    """The plan, where a packet of several sources is to be copied once: not to a file, which has one source."""
    if mirror.duplicates != "drop" or isinstance(session.destination, FileDestination):
        return plan
    forward = replace(plan.forward, duplicate_window=mirror.duplicate_window)
    return replace(plan, forward=forward, duplicates_of=end_of(session.destination))


def _refuse_the_source(session: Session, source: Link, view: View) -> None:
    """Refused when copies would leave by the source itself: two names of its namespace pass the loader."""
    to = session.destination
    if isinstance(session.source, DeviceSource) and isinstance(to, DeviceDestination) and to.device == source.name:
        here, there = (view.inside(name).netns for name in (session.source.netns, to.netns))
        if (here and here.inode) == (there and there.inode):
            raise Refused(f"{to.device} in {to.netns or 'this network namespace'} is also the source")


def _limit(config: Config, session: Session, view: View, leased: Lease | None) -> Limit | None:
    """The circuit breaker's; None without one, or without a route. Of several collectors' links it is the first one's
    that there is a route to.
    """
    to = session.destination
    if not session.pause_above or isinstance(to, FileDestination | PcapDestination):
        return None
    there = view.inside(getattr(to, "netns", None))
    if isinstance(to, DeviceDestination):
        return Limit(to.device, there.netns, session.pause_above, session.overload == "flows")
    assert isinstance(to, TunnelDestination)  # there are no others
    routes = (there.routes.get(one.path) for one in collectors(to, config, leased))
    route = next((one for one in routes if one is not None), None)
    link = None if route is None else there.by_index.get(route.device)
    return None if link is None else Limit(link.name, there.netns, session.pause_above, session.overload == "flows")


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
        if before is wanted:
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
    going: dict[str, list[Key]] = {}  # by source
    for action in actions:
        if isinstance(action, Remove):
            going.setdefault(action.key.source, []).append(action.key)
    renames: list[Action] = []
    rest: list[Action] = []
    for action in actions:
        if isinstance(action, Add) and action.key not in old:
            there = going.get(action.key.source, [])
            same = next((one for one in there if old[one] == action.pipeline), None)
            if same is not None:
                there.remove(same)
                renames.append(Rename(same, action.key))
                continue
        rest.append(action)
    ending = set(chain.from_iterable(going.values()))
    return renames + [one for one in rest if not isinstance(one, Remove) or one.key in ending]


def _on_its_way(before: PipelinePlan, plan: PipelinePlan) -> PipelinePlan:
    """The plan, with the source address in use where none is known: without a route it is not a new one; nor is it
    where the destination has gone. Of several collectors each finds its own way.
    """
    used, wanted = before.transmit, plan.transmit
    if isinstance(wanted, NowherePlan) and isinstance(used, DevicePlan):  # its socket stays, nothing is sent
        return replace(plan, transmit=used)
    if not (isinstance(used, TunnelPlan) and isinstance(wanted, TunnelPlan)):
        return plan
    if wanted.local or used.remote != wanted.remote:
        return plan
    return replace(plan, transmit=replace(wanted, local=used.local))


def _as(before: PipelinePlan, plan: PipelinePlan) -> PipelinePlan:
    """What runs, with the selection, the forward step and a tunnel's next hop of the plan, what it counts and keeps."""
    transmit = before.transmit
    if isinstance(transmit, TunnelPlan) and isinstance(plan.transmit, TunnelPlan):
        transmit = transmit.by_the_way_of(plan.transmit)
    if isinstance(transmit, RemotesPlan) and isinstance(plan.transmit, RemotesPlan):
        transmit = replace(transmit, remotes=plan.transmit.remotes)
    capture = replace(before.capture, selection=plan.capture.selection)
    counted, recorder = plan.count_rules_of, plan.recorder
    return replace(
        before, capture=capture, forward=plan.forward, transmit=transmit, count_rules_of=counted, recorder=recorder
    )
