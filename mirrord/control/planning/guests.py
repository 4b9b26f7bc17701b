"""Sessions that name VMs and containers -> the same sessions by the host's devices behind these. Pure.

A guest that does not run, or not here, is what a device is that is not there: the session waits, and says for what.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import NamedTuple, TypeVar

from mirrord.control.guests.inventory import Answer, Guest, GuestNic, Inventory, Place
from mirrord.errors import Refused
from mirrord.model import (
    CapturedSource,
    Config,
    ContainerSource,
    DeviceDestination,
    DeviceSource,
    GuestSource,
    Mirror,
    Session,
    TunnelSource,
    VmDestination,
    VmSource,
)
from mirrord.values.names import GLOB

SHORT_ID = 12  # digits of a container's id that engines show

ENGINES = ("podman", "docker")

GUESTS = (GuestSource, VmDestination)
"""Ends that name one."""

M = TypeVar("M", Mirror, Session)


class AbsentGuestError(Exception):
    """A guest, or its NIC, is not there yet."""


class Absent(NamedTuple):
    """Why a session has nothing to capture: `label` stands for the source, `state` is waiting or failed."""

    label: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """A configuration in which every session names devices; what could not be found is left without any."""

    config: Config
    absent: Mapping[tuple[str, str], tuple[Absent, ...]] = field(default_factory=dict)  # by mirror and session
    guests: Mapping[tuple[str, str, str], str] = field(default_factory=dict)  # by device, too: the guest in words
    destinations: Mapping[tuple[str, str], str] = field(default_factory=dict)  # in words
    nowhere: Mapping[tuple[str, str], str] = field(default_factory=dict)  # why a received tunnel has no destination yet

    def about(self, mirror: str, session: str, device: str) -> dict[str, str]:
        """What a session is beside what its resolved form tells."""
        told = {"guest": self.guests.get((mirror, session, device), "")}
        if there := self.destinations.get((mirror, session)):
            told["destination"] = there
        return told


def places(config: Config) -> frozenset[Place]:
    """The managers of the guests that enabled mirrors name."""
    ends = [
        end
        for mirror in config.mirrors.values()
        for session in mirror.active
        for end in (session.source, session.destination)
    ]
    return frozenset(place for end in ends if isinstance(end, GUESTS) for place in _places(end))


def _places(end: object) -> tuple[Place, ...]:
    if isinstance(end, VmSource | VmDestination):
        return (Place("vm", end.connection),)
    if isinstance(end, ContainerSource):
        return tuple(Place("container", engine) for engine in (ENGINES if end.engine == "auto" else (end.engine,)))
    return ()


def resolve(config: Config, inventory: Inventory, before: Resolved | None = None) -> Resolved:
    """The configuration by devices; the very same object where it names no guest.

    What is the same as in the one `before` is the same object: who compares looks at what changed.
    """
    found = _Findings({}, {}, {}, {})
    known = before.config.mirrors if before is not None else {}
    mirrors = {
        name: _mirror(name, mirror, inventory, found, known.get(name)) if mirror.enabled else mirror
        for name, mirror in config.mirrors.items()
    }
    if all(mirror is config.mirrors[name] for name, mirror in mirrors.items()):
        return Resolved(config)
    return Resolved(config.model_copy(update={"mirrors": mirrors}), *found)


class _Findings(NamedTuple):
    absent: dict[tuple[str, str], tuple[Absent, ...]]
    guests: dict[tuple[str, str, str], str]
    destinations: dict[tuple[str, str], str]
    nowhere: dict[tuple[str, str], str]


def _mirror(name: str, mirror: Mirror, inventory: Inventory, found: _Findings, before: Mirror | None) -> Mirror:
    if not any(isinstance(one.source, GUESTS) or isinstance(one.destination, GUESTS) for one in mirror.sessions):
        return mirror
    known = {one.name: one for one in before.sessions} if before is not None else {}
    sessions = tuple(
        _same(known.get(session.name), _session(name, session, inventory, found)) for session in mirror.sessions
    )
    return _same(before, mirror.model_copy(update={"sessions": sessions}))


def _same(before: M | None, now: M) -> M:
    """The one before, where the two are equal."""
    return before if before is not None and before == now else now


def _session(mirror: str, session: Session, inventory: Inventory, found: _Findings) -> Session:
    key = mirror, session.name
    update: dict[str, object] = {}
    try:
        if isinstance(session.destination, VmDestination):
            update["destination"] = _found_or_nowhere(key, session, session.destination, inventory, found)
        if isinstance(session.source, GuestSource):
            nics = _of_one_namespace(tuple(_nics(session.source, inventory)))
            found.guests.update({(*key, nic.device): words for words, nic in nics})
            update["source"] = _by_device(session.source, [nic.device for _, nic in nics], nics[0][1].netns)
    except (AbsentGuestError, Refused) as error:
        state = "waiting" if isinstance(error, AbsentGuestError) else "failed"
        found.absent[key] = tuple(Absent(label, state, str(error)) for label in _labels(session))
        update = {"source": _by_device(session.source, []), "destination": _nowhere(session)}
    return session.model_copy(update=update)


def _found_or_nowhere(
    key: tuple[str, str], session: Session, to: VmDestination, inventory: Inventory, found: _Findings
) -> object:
    """The destination's device. AbsentGuestError, Refused; of a tunnel that is received, while the VM is not there,
    none: what still comes for a VM that has left is to be counted.
    """
    try:
        device, found.destinations[key] = _destination(to, inventory)
    except AbsentGuestError as error:
        if not isinstance(session.source, TunnelSource):
            raise
        found.nowhere[key] = str(error)
        found.destinations[key] = f"vm {to.vm} nic {to.nic} ({error})"
        return DeviceDestination.model_construct(type="device", device="", netns=None, isolate=False, normal_io=True)
    return device


def _of_one_namespace(nics: tuple[tuple[str, GuestNic], ...]) -> list[tuple[str, GuestNic]]:
    """Those that have an end here; if none has, those of the only namespace that they are in."""
    here = [(words, nic) for words, nic in nics if not nic.netns]
    if not here and len({nic.netns for _, nic in nics}) > 1:
        raise AbsentGuestError(
            "several containers match that have no NIC with an end on this host, only within: name one of them"
        )
    return here or list(nics)


def _by_device(source: object, devices: Iterable[str], netns: str = "") -> DeviceSource:
    looks = CapturedSource.model_fields if isinstance(source, GuestSource) else ()
    return DeviceSource.model_construct(
        **{key: getattr(source, key) for key in looks},
        type="device",
        device=tuple(dict.fromkeys(devices)),
        vlan=getattr(source, "vlan", None),
        netns=netns or None,
        perspective="host" if netns else "guest",
        promiscuous=False,
    )


def _nowhere(session: Session) -> object:
    """A destination that needs no guest, for a session without a source: nothing is sent there."""
    to = session.destination
    return DeviceDestination.model_construct(type="device", device="lo") if isinstance(to, VmDestination) else to


def _labels(session: Session) -> tuple[str, ...]:
    """What stands for the source while its devices are not known."""
    source = session.source
    if isinstance(source, VmSource):
        return (f"vm:{source.vm}",)
    if isinstance(source, ContainerSource):
        return (f"container:{source.container or source.label}",)
    return tuple(getattr(source, "device", ())) or (str(getattr(source, "bridge", source.type)),)


def _destination(to: VmDestination, inventory: Inventory) -> tuple[DeviceDestination, str]:
    """The device behind a VM's NIC, and the two in words. AbsentGuestError; Refused for its first NIC."""
    guest, index, nic = _only(to, _running(to.vm, answers(to, inventory), "VM"))
    if index == 0 and not to.allow_default_route:
        raise Refused(
            f"NIC 0 of {guest.name} is the one that the VM is reached by, copies would come among its own traffic"
            " (allow_default_route = true permits it)"
        )
    device = DeviceDestination.model_construct(
        type="device",
        device=_device(guest, nic),
        netns=None,
        allow_default_route=to.allow_default_route,
        **{key: getattr(to, key) for key in ("vlan", "original_vlan", "vlan_tpid", "normal_io", "isolate")},
    )
    return device, f"vm {guest.name} nic {index} (device {nic.device})"


def _only(to: VmDestination, guests: list[Guest]) -> tuple[Guest, int, GuestNic]:
    """The VM that copies are for, and its NIC. AbsentGuestError, too, where several have the name: a QEMU that libvirt
    knows nothing of chooses its own, and copies are not for whoever takes that of another.
    """
    found, lacking = [], AbsentGuestError("no guest")
    for guest in guests:
        try:
            found.append((guest, *_chosen(guest, to.nic)[0]))
        except AbsentGuestError as error:
            lacking = error
    there = [one for one in found if one[2].device]
    if len({nic.device for _, _, nic in there}) > 1:
        raise AbsentGuestError(f"{len(there)} VMs are called {to.vm}: give another name, or an id, to all but one")
    if not found:
        raise lacking
    return (there or found)[0]


def _nics(source: GuestSource, inventory: Inventory) -> Iterator[tuple[str, GuestNic]]:
    """The NICs of a source, each with its guest in words. AbsentGuestError when there is none.

    Of several guests, one that lacks the NIC does not keep the others from being mirrored.
    """
    told, found, lacking = answers(source, inventory), 0, AbsentGuestError("no guest")
    if isinstance(source, VmSource):
        guests, nic = _running(source.vm, told, "VM"), source.nic
    else:
        assert isinstance(source, ContainerSource)  # there are no others
        guests, nic = _containers(source, told), source.nic
    for guest in guests:
        try:
            for index, one in _chosen(guest, nic):
                _device(guest, one)
                found += 1
                yield f"{guest.name} {f'nic {index}' if isinstance(source, VmSource) else one.name}", one
        except AbsentGuestError as error:
            lacking = error
    if not found:
        raise lacking


def answers(end: object, inventory: Inventory) -> list[Answer]:
    """What the managers say of a source's or destination's guests; none for an end that names no guest."""
    unasked = Answer(problem="not asked yet")
    return [inventory.get(place, unasked) for place in _places(end)]


def _running(name: str, answers: list[Answer], kind: str) -> list[Guest]:
    """The guests of this name or id, or that the glob matches, that run; at least one."""
    known = [guest for answer in answers for guest in answer.guests if _is(guest, name)]
    running = [guest for guest in known if guest.runs]
    if running:
        return running
    if known:
        raise AbsentGuestError(f"{kind} {known[0].name} does not run")
    problems = [answer.problem for answer in answers if answer.problem]
    if len(problems) == len(answers):
        raise AbsentGuestError("; ".join(problems))
    raise AbsentGuestError(f"no {kind} matches {name}" if GLOB.search(name) else f"there is no {kind} {name} here")


def matching(end: VmSource | VmDestination, told: list[Answer]) -> list[Guest]:
    """The VMs of this name or id, or that the glob matches, whether they run or not."""
    return [guest for answer in told for guest in answer.guests if _is(guest, end.vm)]


def _is(guest: Guest, name: str) -> bool:
    if name in (guest.name, guest.id):
        return True
    if GLOB.search(name):
        return fnmatchcase(guest.name, name)
    return len(name) >= SHORT_ID and guest.id.startswith(name)


def _containers(source: ContainerSource, answers: list[Answer]) -> list[Guest]:
    if source.container is not None:
        return _running(source.container, answers, "container")
    key, equals, value = (source.label or "").partition("=")
    found = [
        guest
        for answer in answers
        for guest in answer.guests
        if guest.runs and key in guest.labels and (not equals or guest.labels[key] == value)
    ]
    if found:
        return found
    problems = [answer.problem for answer in answers if answer.problem]
    if len(problems) == len(answers):
        raise AbsentGuestError("; ".join(problems))
    raise AbsentGuestError(f"no container with the label {source.label} runs")


def _chosen(guest: Guest, nic: int | str) -> list[tuple[int, GuestNic]]:
    """The NICs of a guest by index, MAC address, name, or "*"; at least one."""
    numbered = list(enumerate(guest.nics))
    if nic == "*":
        found = [(index, one) for index, one in numbered if one.device] or numbered[:1]
    elif isinstance(nic, int):
        found = numbered[nic : nic + 1]
    else:
        found = [(index, one) for index, one in numbered if nic in (one.mac, one.name)]
    if found:
        return found
    if guest.reason:
        raise AbsentGuestError(f"{guest.name} has no NIC {nic}: {guest.reason}")
    if guest.netns and isinstance(nic, str):
        return [(0, GuestNic(nic, "", nic, netns=guest.netns))]
    has = f"has {len(numbered)} NIC{'s' * (len(numbered) != 1)}" if numbered else "has no NIC with an end on this host"
    raise AbsentGuestError(f"{guest.name} {has}, not {nic}")


def _device(guest: Guest, nic: GuestNic) -> str:
    if nic.device:
        return nic.device
    raise AbsentGuestError(f"{nic.name or nic.mac} of {guest.name} cannot be captured: {nic.reason or 'no device yet'}")
