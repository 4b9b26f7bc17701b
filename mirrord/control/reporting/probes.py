"""What `doctor` has to look at the host for: next hops, kernel features, space for files, the socket.

Each probe asks the kernel and changes nothing. All of it blocks, for milliseconds: call it on a thread.
"""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path as FilePath
from typing import NamedTuple

from mirrord.control.host import neighbours
from mirrord.control.host.neighbours import Neighbour
from mirrord.control.host.offloaded import with_offloaded_flows
from mirrord.control.host.rtnetlink import NEIGHBOUR, NUMBER, Rtnetlink, attribute
from mirrord.control.host.view import Collector, Path, View
from mirrord.control.planning.plan import Key
from mirrord.control.reporting.metrics import Row
from mirrord.dataplane import native
from mirrord.dataplane.filter.several import attach
from mirrord.dataplane.netns import inside
from mirrord.dataplane.transmit import file_names, retention
from mirrord.kernel import (
    NDA_DST,
    NDA_FLAGS_EXT,
    PACKET_VERSION,
    RTM_NEWNEIGH,
    SOL_PACKET,
    TPACKET_V3,
    UDP_SEGMENT,
)
from mirrord.model import Daemon
from mirrord.plans import CapturePlan, FilePlan

NO_DEVICE = 0x7FFFFFFF  # an index that no device has

NEIGHBOUR_STATES = {0x01: "incomplete", 0x02: "reachable", 0x04: "stale", 0x08: "delay", 0x10: "probe", 0x20: "failed"}
"""linux/neighbour.h, NUD_*; the others (no address needed, permanent) are good."""


class Hop(NamedTuple):
    """Whom a path's copies are handed to. `state` tells what the kernel knows of the MAC address; "": nothing bad."""

    device: str
    address: str
    state: str


class Space(NamedTuple):
    """Bytes of a file system."""

    free: int
    total: int


class Kept(NamedTuple):
    """What is odd about the finished files of a session."""

    ahead: str = ""  # one that is dated after the clock's time
    unlisted: int = 0  # how many are not in the list of those that may be deleted, where there is a bound


class ControlSocket(NamedTuple):
    """The control socket's file."""

    mode: int
    group: str


NOBODY: Mapping[Collector, str] = {}


@dataclass(frozen=True, slots=True)
class Host:
    """What the probes found."""

    native_missing: str = ""
    lacking: frozenset[str] = frozenset()  # of FEATURES
    optmem_max: int = 0  # net.core.optmem_max, bytes; 0 where the network namespace does not show it
    control_socket: ControlSocket | None = None  # None: the control socket's file is gone
    hops: Mapping[Path, Hop] = field(default_factory=dict)  # of tunnels' paths that have a route
    coarse: frozenset[Key] = frozenset()  # whose filter the kernel cannot run as it is
    space: Mapping[str, Space] = field(default_factory=dict)  # of the directories that sessions write to
    kept: Mapping[Key, Kept] = field(default_factory=dict)  # of sessions that write files
    unbound: Mapping[Collector, str] = field(
        default_factory=dict
    )  # that said it of a port or protocol: which of the two
    offloaded: frozenset[int] = frozenset()  # indexes of sources, here, whose NIC handles flows by itself


def look(daemon: Daemon, view: View, rows: Sequence[Row], unbound: Mapping[Collector, str] = NOBODY) -> Host:
    """Ask everything once. OSError where not even a socket can be had."""
    plans = {row.entry.key: row.entry.pipeline for row in rows if row.entry.pipeline is not None}
    captures = {key: plan.capture for key, plan in plans.items()}
    directories = {plan.transmit.directory for plan in plans.values() if isinstance(plan.transmit, FilePlan)}
    return Host(
        unbound=unbound,
        native_missing=native.missing,
        lacking=frozenset(name for name, there in FEATURES.items() if not there()),
        optmem_max=_optmem_max(),
        control_socket=_control_socket(daemon.socket),
        hops=_all_hops(view),
        coarse=frozenset(key for key, one in captures.items() if isinstance(one, CapturePlan) and _is_coarse(one)),
        kept={key: _kept(plan.transmit) for key, plan in plans.items() if isinstance(plan.transmit, FilePlan)},
        offloaded=with_offloaded_flows(
            {one.index for one in captures.values() if isinstance(one, CapturePlan) and one.netns is None}
        ),
        space={directory: space for directory in directories if (space := _space(directory)) is not None},
    )


# --- kernel features ---


def _has_option(family: int, kind: int, level: int, option: int, value: int) -> bool:
    with socket.socket(family, kind, 0) as probe:
        try:
            probe.setsockopt(level, option, value)
        except OSError:
            return False
    return True


def _has_managed_neighbours() -> bool:
    """Whether neighbours have extended flags, NTF_EXT_MANAGED the first of them (Linux 5.16).

    Asked to make an entry on a device that does not exist, with a flag that no kernel has: one that knows the
    attribute refuses the flag, an older one looks for the device.
    """
    message = NEIGHBOUR.pack(socket.AF_INET, NO_DEVICE, 0, 0, 0) + attribute(NDA_DST, bytes(4))
    with closing(Rtnetlink()) as netlink:
        try:
            netlink.ask(RTM_NEWNEIGH, message + attribute(NDA_FLAGS_EXT, NUMBER.pack(1 << 31)))
        except OSError as error:
            return error.errno == errno.EINVAL
    return False


FEATURES: Mapping[str, Callable[[], bool]] = {
    "TPACKET_V3": partial(_has_option, socket.AF_PACKET, socket.SOCK_RAW, SOL_PACKET, PACKET_VERSION, TPACKET_V3),
    "UDP_SEGMENT": partial(_has_option, socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_UDP, UDP_SEGMENT, 1400),
    "NTF_EXT_MANAGED": _has_managed_neighbours,
}
"""By name, how to find out whether the kernel has it."""


def _is_coarse(plan: CapturePlan) -> bool:
    """Whether a socket of the same room takes less than the whole selection as its filter."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            return not attach(probe, plan.selection, raw=plan.raw, pvid=plan.pvid)
        except OSError:
            return True


# --- the rest of the host ---


def _optmem_max() -> int:
    with suppress(OSError):
        return int(FilePath("/proc/sys/net/core/optmem_max").read_text())
    return 0


def _control_socket(path: str) -> ControlSocket | None:
    try:
        found = os.stat(path)  # noqa: PTH116 (a path of the configuration is text)
    except FileNotFoundError:
        return None
    try:
        group = grp.getgrgid(found.st_gid).gr_name
    except KeyError:
        group = str(found.st_gid)
    return ControlSocket(stat.S_IMODE(found.st_mode), group)


def _space(directory: str) -> Space | None:
    with suppress(OSError):
        found = os.statvfs(directory)
        return Space(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)
    return None


def _kept(plan: FilePlan) -> Kept:
    file = FilePath(plan.path)
    with suppress(OSError):
        directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            there, listed = os.listdir(directory), retention.read(directory, file.name)  # noqa: PTH208 (of a descriptor)
        finally:
            os.close(directory)
        finished = [name for name in there if file_names.final_names(file.name).fullmatch(name)]
        unlisted = len({*finished} - {*listed}) if plan.keep else 0
        return Kept(file_names.dated_ahead(finished, file.name, time.time_ns()), unlisted)
    return Kept()


def _all_hops(view: View) -> dict[Path, Hop]:
    """The next hops of the tunnels' paths, in every network namespace of the view."""
    hops = {}
    for place in (view, *view.namespaces.values()):
        if place.routes:
            with suppress(OSError):  # the namespace has gone meanwhile
                states = inside(place.netns, _states)
                for path, route in place.routes.items():
                    hop = Neighbour(route.device, route.gateway or path.remote)
                    state = NEIGHBOUR_STATES.get(states.get(hop, 0), "")
                    hops[path] = Hop(place.by_index[route.device].name, hop.address, state)
    return hops


def _states() -> Mapping[Neighbour, int]:
    with closing(Rtnetlink()) as netlink:
        return neighbours.states(netlink)
