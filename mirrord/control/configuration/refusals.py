"""What section 2 refuses because of how objects go together; only what the configuration alone tells.

Sessions that are disabled count as well: enabling one is not the moment to find out that it cannot run.
"""

from __future__ import annotations

import os.path
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import chain
from typing import NamedTuple

from mirrord.control.configuration.memory import beyond_memory
from mirrord.control.planning.files import device_in, has_one_file, unfinished
from mirrord.control.planning.listeners import reaches
from mirrord.errors import Problem, nearest
from mirrord.model import (
    BridgeSource,
    Config,
    Daemon,
    Destination,
    DeviceDestination,
    DeviceSource,
    FileDestination,
    Filter,
    FlowNetwork,
    GeneveDestination,
    Mirror,
    Model,
    PcapDestination,
    Session,
    TunnelDestination,
    TunnelSource,
    VxlanDestination,
)
from mirrord.model.validation import join
from mirrord.values.names import GLOB

MOST_OBJECTS = 4096  # of a kind
MOST_SESSIONS, MOST_RULES = 10_000, 100_000  # altogether: what a daemon has the memory for


class Use(NamedTuple):
    """Where a filter or a flow network is named."""

    path: str
    section: str
    name: str


@dataclass(frozen=True)
class Declared:
    """A configuration, taken apart: every object by its path, also from one with problems."""

    daemon: Daemon
    objects: Mapping[str, Model]  # by path: flow networks, filters, mirrors and their sessions
    names: Mapping[str, frozenset[str]]  # by section; of objects with problems, too
    uses: tuple[Use, ...]
    complete: bool = True  # False: there is more that could not be read, so that no name is known to be missing
    newest: tuple[str, ...] = ()  # paths of what is to blame where two do not go together; the others were there before

    @classmethod
    def of(cls, config: Config) -> Declared:
        """Take a whole configuration apart."""
        objects: dict[str, Model] = {}
        uses = []
        for section in ("flow_networks", "filters", "mirrors"):
            objects |= {join(section, name): one for name, one in getattr(config, section).items()}
        for name, mirror in config.mirrors.items():
            path = join("mirrors", name)
            if mirror.flow_network is not None:
                uses.append(Use(join(path, "flow_network"), "flow_networks", mirror.flow_network))
            for index, session in enumerate(mirror.sessions):
                at = join(path, "sessions", index)
                objects[at] = session
                if session.filter is not None:
                    uses.append(Use(join(at, "filter"), "filters", session.filter))
                if isinstance(session.source, TunnelSource) and session.source.flow_network is not None:
                    uses.append(Use(join(at, "source", "flow_network"), "flow_networks", session.source.flow_network))
        names = {"flow_networks": frozenset(config.flow_networks), "filters": frozenset(config.filters)}
        return cls(config.daemon, objects, names, tuple(uses))

    def blaming(self, newest: tuple[str, ...]) -> Declared:
        """The same, what is below these paths behind all that was there before."""
        if not newest:
            return self
        new = {path: one for path, one in self.objects.items() if _below(path, newest)}
        objects = {path: one for path, one in self.objects.items() if path not in new} | new
        uses = tuple(sorted(self.uses, key=lambda use: _below(use.path, newest)))
        return replace(self, objects=objects, uses=uses, newest=newest)

    def is_new(self, path: str) -> bool:
        """Whether what is at this path is to blame."""
        return _below(path, self.newest)

    @cached_property
    def sessions(self) -> Sequence[tuple[str, Session]]:
        """Every session and its path, in the order of the configuration."""
        return [(path, one) for path, one in self.objects.items() if isinstance(one, Session)]


def _below(path: str, tops: tuple[str, ...]) -> bool:
    return path.startswith(tops) and any(
        path.startswith(top) and path[len(top) : len(top) + 1] in ("", ".", "[") for top in tops
    )


def refusals(declared: Declared) -> list[Problem]:
    """Everything that must not run."""
    return [
        *_same_ends(declared),
        *_cycles(declared),
        *_shared_flow_networks(declared),
        *_chosen_otherwise(declared),
        *_shared_vnis(declared),
        *_files(declared),
        *_same_listeners(declared),
        *_too_many(declared),
        *beyond_memory(declared.daemon, declared.sessions, declared.objects),
    ]


def unknown_names(declared: Declared) -> Iterator[Problem]:
    """Filters and flow networks that are named somewhere and defined nowhere."""
    for path, section, name in declared.uses:
        if declared.complete and name not in declared.names[section]:
            kind = section.removesuffix("s").replace("_", " ")
            yield Problem(path, f"there is no {kind} {name!r}{nearest(name, declared.names[section])}")


def _devices(session: Session) -> tuple[str, ...]:
    """Names and globs of the source's devices in the daemon's own network namespace."""
    if isinstance(session.source, DeviceSource) and session.source.netns is None:
        return session.source.device
    return (session.source.bridge,) if isinstance(session.source, BridgeSource) else ()


def _target(session: Session) -> str | None:
    """The destination's device, if that is in the daemon's own network namespace."""
    end = session.destination
    return end.device if isinstance(end, DeviceDestination) and end.netns is None else None


def _reads(session: Session, device: str) -> bool:
    """Whether the source names the device, or matches it; a pattern leaves the session's own destination out."""
    patterns = _devices(session)
    matched = any(fnmatchcase(device, pattern) for pattern in patterns)
    return device in patterns or (matched and device != _target(session))


def _same_ends(declared: Declared) -> Iterator[Problem]:
    for path, session in declared.sessions:
        end = session.destination
        if isinstance(end, TunnelDestination) and not isinstance(session.source, TunnelSource):
            continue  # as nearly all are
        if isinstance(end, DeviceDestination) and _comes_in(session, end):
            place = "" if end.netns is None else f" in {end.netns!r}"
            yield Problem(join(path, "destination", "device"), f"{end.device!r}{place} is also the source")
        if isinstance(end, TunnelDestination) and _comes_in(session, end):
            named = " or ".join(map(str, end.remote))
            yield Problem(join(path, "destination", "remote"), f"{named} is also the source")


def _comes_in(session: Session, end: Destination) -> bool:
    """Whether copies to this destination are what the session's source reads."""
    source = session.source
    if isinstance(end, DeviceDestination) and end.netns is None:
        return _reads(session, end.device)
    if isinstance(end, DeviceDestination):
        return isinstance(source, DeviceSource) and source.netns == end.netns and end.device in source.device
    if isinstance(end, TunnelDestination) and end.netns is None and isinstance(source, TunnelSource):
        return reaches(end, source)
    return False


class _Readers:
    """Sessions by what their sources read: those that read what is sent to a destination are found without a search."""

    def __init__(self, sessions: Iterable[tuple[str, Session]]) -> None:
        self._named: dict[Hashable, list[tuple[str, Session]]] = {}
        self._patterns: dict[str, list[tuple[str, Session]]] = {}
        self._receive = False  # some: only these take copies in tunnels on
        for path, session in sessions:
            source = session.source
            if isinstance(source, TunnelSource):
                self._receive = True
                self._named.setdefault(source.local, []).append((path, session))
            for device in _devices(session):
                if GLOB.search(device):
                    self._patterns.setdefault(device, []).append((path, session))
                self._named.setdefault((None, device), []).append((path, session))
            if isinstance(source, DeviceSource) and source.netns is not None:
                for device in source.device:
                    self._named.setdefault((source.netns, device), []).append((path, session))
        self._matched: dict[str, list[tuple[str, Session]]] = {}  # by device, what patterns match

    def of(self, end: Destination) -> dict[str, Session]:
        """Those that read it, by their paths."""
        found: list[tuple[str, Session]] = []
        if isinstance(end, DeviceDestination):
            found = self._named.get((end.netns, end.device), []) + (self._matching(end) if end.netns is None else [])
        elif isinstance(end, TunnelDestination) and self._receive:
            found = list(chain.from_iterable(self._named.get(one, []) for one in end.remote))
        return {path: session for path, session in found if _comes_in(session, end)}

    def _matching(self, end: DeviceDestination) -> list[tuple[str, Session]]:
        if end.device not in self._matched:
            fitting = [sessions for pattern, sessions in self._patterns.items() if fnmatchcase(end.device, pattern)]
            self._matched[end.device] = list(chain.from_iterable(fitting))
        return self._matched[end.device]


def _cycles(declared: Declared) -> Iterator[Problem]:
    """Sessions whose copies come back to where they were taken from, over one session more or several."""
    sessions = dict(declared.sessions)
    received = any(isinstance(one.source, TunnelSource) for one in sessions.values())
    ends = (DeviceDestination, TunnelDestination) if received else DeviceDestination
    leading = {path: one for path, one in sessions.items() if isinstance(one.destination, ends)}
    ways: dict[str, Session] = {}
    readers = _Readers(sessions.items() if leading else ())
    for path, session in leading.items():
        if not readers.of(session.destination) or _comes_in(session, session.destination):
            continue  # nobody takes its copies on; or it is told of already
        reached = _reached_from(session.destination, ways, readers)
        closing = [at for at in reached if _comes_in(session, ways[at].destination)]
        if closing:
            end = "device" if isinstance(session.destination, DeviceDestination) else "remote"
            first = next(at for at in ways if at in closing)
            yield Problem(join(path, "destination", end), f"closes a cycle of copies with {first}")
        else:
            ways[path] = session


def _reached_from(end: Destination, ways: Mapping[str, Session], readers: _Readers) -> set[str]:
    """Paths of those of `ways` that copy on, directly or not, what is sent to a destination."""
    reached: set[str] = set()
    ends = [end]
    while ends:
        for path, session in readers.of(ends.pop()).items():
            if path in ways and path not in reached:
                reached.add(path)
                ends.append(session.destination)
    return reached


def _shared_flow_networks(declared: Declared) -> Iterator[Problem]:
    users: dict[str, str] = {}
    for path, section, name in declared.uses:
        if section != "flow_networks":
            continue
        first = users.setdefault(name, path)
        if _mirror_of(first) != _mirror_of(path):
            yield Problem(path, f"flow network {name!r} is already used at {first}")
    owners: dict[str, str] = {}
    for path, one in declared.objects.items():
        if isinstance(one, FlowNetwork) and owners.setdefault(one.device, path) != path:
            yield Problem(join(path, "device"), f"{one.device!r} is already set aside by {owners[one.device]}")
    for path, session in declared.sessions:
        for device, owner in owners.items():
            for key, used in (("source", _reads(session, device)), ("destination.device", _target(session) == device)):
                if used and declared.is_new(owner) and not declared.is_new(path):
                    yield Problem(join(owner, "device"), f"{device!r} is already used at {path}.{key}")
                elif used:
                    yield Problem(f"{path}.{key}", f"{device!r} is set aside for copies by {owner}")


def _mirror_of(use: str) -> str:
    """The path of the mirror that uses a flow network, for its copies or as a source of its sessions."""
    return use.rpartition(".sessions[")[0] or use.removesuffix(".flow_network")


def _chosen_otherwise(declared: Declared) -> Iterator[Problem]:
    """Tunnels that name what their mirror's flow network decides, or go where it cannot lead."""
    users = {
        use.path.removesuffix(".flow_network"): use.name for use in declared.uses if use.section == "flow_networks"
    }
    for path, session in declared.sessions:
        name = users.get(path.rpartition(".sessions[")[0])
        if name is None or not isinstance(session.destination, TunnelDestination):
            continue
        for key in ("local", "netns"):
            if getattr(session.destination, key) is not None:
                yield Problem(join(path, "destination", key), f"flow network {name!r} decides where copies leave")
        network = declared.objects.get(join("flow_networks", name))
        for remote in session.destination.remote:
            if isinstance(network, FlowNetwork) and network.addresses.first.version != remote.version:
                why = f"{remote} is IPv{remote.version}, but flow network {name!r} is not"
                yield Problem(join(path, "destination", "remote"), why)


def _shared_vnis(declared: Declared) -> Iterator[Problem]:
    first: dict[tuple[object, ...], tuple[str, bool | None]] = {}
    sessions = ((path, session.destination) for path, session in declared.sessions)
    ends = [(path, end) for path, end in sessions if isinstance(end, (VxlanDestination, GeneveDestination))]
    times = Counter([end.vni for _, end in ends])
    times.update(end.vni_egress for _, end in ends if end.vni_egress is not None)
    for path, end in ends:
        if times[end.vni] == 1 and (end.vni_egress is None or times[end.vni_egress] == 1):
            continue  # to compare addresses takes longer than all else here
        shared = end.shared_vni if isinstance(end, VxlanDestination) else None  # None: it has no such key
        for key in ("vni", "vni_egress"):
            vni = getattr(end, key)
            if vni is None:
                continue
            others: dict[str, str] = {}  # what to do about each that sends there, too
            for remote in end.remote:
                other, also_shared = first.setdefault((end.netns, remote, end.port, vni), (path, shared))
                if other != path and not (shared and also_shared):
                    lacking = None in (shared, also_shared)
                    others[other] = "choose another" if lacking else "set shared_vni = true in both if that is meant"
            for other, remedy in others.items():
                why = f"{other} sends to the same remote, port and VNI; {remedy}"
                yield Problem(join(path, "destination", key), why)


def _files(declared: Declared) -> Iterator[Problem]:
    """Files that two sessions would write, and files in places that are not for them."""
    first: dict[str, str] = {}
    patterns: list[tuple[str, str, tuple[str, ...]]] = []
    for path, session in declared.sessions:
        if not isinstance(session.destination, FileDestination):
            continue
        file, at = os.path.normpath(session.destination.path), join(path, "destination", "path")
        directories = [os.path.normpath(one) for one in declared.daemon.capture_directories]
        if not any(os.path.commonpath([file, one]) == one != file for one in directories):
            yield Problem(at, f"expected a file in one of capture_directories ({', '.join(directories)}), not {file!r}")
        if first.setdefault(file, path) != path:
            yield Problem(at, f"{first[file]} writes the same file")
        if not has_one_file(session):
            patterns.append((path, file, _devices_anywhere(session)))
    several = {path for path, _, _ in patterns}
    for file, path in first.items():
        at = join(path, "destination", "path")
        if path not in several:
            for other, of, devices in patterns:
                device = device_in(of, file)
                if device and any(fnmatchcase(device, one) for one in devices):
                    yield Problem(at, f"{other} writes the same file for its source {device}")
        if (of := unfinished(file)) in first:
            yield Problem(at, f"{first[of]} may give a finished file of {of} this name")


def _same_listeners(declared: Declared) -> Iterator[Problem]:
    """Streams that would listen in one place: on the same port of the same address, or of any."""
    ports: dict[int, list[tuple[IPv4Address | IPv6Address, str]]] = {}
    for path, session in declared.sessions:
        end = session.destination
        if not isinstance(end, PcapDestination) or end.listen is None:
            continue
        address, others = ip_address(end.listen.host), ports.setdefault(end.listen.port, [])
        for other, at in others:
            any_address = address.is_unspecified or other.is_unspecified
            if address == other or (any_address and address.version == other.version):
                yield Problem(join(path, "destination", "listen"), f"{at} listens there")
                break
        others.append((address, path))


def _devices_anywhere(session: Session) -> tuple[str, ...]:
    """Names and globs of the source's devices, wherever they are. A bridge's ports nobody knows beforehand."""
    return session.source.device if isinstance(session.source, DeviceSource) else ()


def _too_many(declared: Declared) -> Iterator[Problem]:
    """More than a daemon is made for; each costs memory, also where it does not run."""
    count = Counter(type(one) for one in declared.objects.values())
    rules = sum(len(one.rules) for one in declared.objects.values() if isinstance(one, Filter))
    for path, what, found, most in (
        ("mirrors", "mirrors", count[Mirror], MOST_OBJECTS),
        ("filters", "filters", count[Filter], MOST_OBJECTS),
        ("flow_networks", "flow networks", count[FlowNetwork], MOST_OBJECTS),
        ("mirrors", "sessions altogether", count[Session], MOST_SESSIONS),
        ("filters", "rules altogether", rules, MOST_RULES),
    ):
        if found > most:
            yield Problem(path, f"expected at most {most} {what}, not {found}")
