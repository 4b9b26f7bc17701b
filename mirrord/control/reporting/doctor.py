"""What is wrong with the host and with each session, and what to do about it. Pure: what was found out comes in.

An error means that frames are not mirrored, or that somebody could do harm; a warning that copies are not, or soon may
not be, what they should be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import NamedTuple

from mirrord.control.configuration.config import Loaded
from mirrord.control.host.view import AbsentError, Link, View
from mirrord.control.planning import sources
from mirrord.control.planning.blind_spots import blind_spots
from mirrord.control.planning.destinations import IP_LONGEST, SHAPERS, fate, misled_bridge, path
from mirrord.control.planning.leases import lease
from mirrord.control.reporting.metrics import Reload, Row
from mirrord.control.reporting.probes import Host, Kept
from mirrord.dataplane.counters import DROPPED, Slot
from mirrord.errors import Refused, nearest
from mirrord.model import Config, DeviceDestination, DeviceSource, FileDestination, Mirror, Session, TunnelDestination
from mirrord.plans import FilePlan, ListenPlan
from mirrord.protocols import ETH_HEADER
from mirrord.values import GLOB, show_size

ERROR, WARNING = "error", "warning"
GRAVE = 1000  # one frame in so many lost is an error
LOW, EMPTY = 10, 100  # one part in so many of a file system free: a warning, an error
UNBOUNDED = 1 << 31  # an MTU that no device has
GREATER = 4  # times the ring that was too small

FEATURES = {
    "TPACKET_V3": "frames are read one by one, at many times the cost: Linux 3.2 or newer has it",
    "UDP_SEGMENT": "copies are sent one by one: Linux 4.18 or newer sends runs of them in one message",
    "NTF_EXT_MANAGED": "the kernel does not keep next hops resolved by itself: Linux 5.16 or newer does",
}
LOSSES = {  # by the reason of a drop: what happened, what to do
    "send_error": (
        "the device or its queue did not take the copy",
        "give the device that copies leave by a longer queue (txqueuelen), or set a rate_limit below its speed",
    ),
    "mtu_exceeded": (
        "the copy was longer than the path MTU",
        'raise the MTU of the path, or set on_mtu_exceeded = "truncate"',
    ),
    "no_route": (
        "there was no way to the destination",
        "look at `ip route get` of the remote, and whether the next hop answers (ip neighbour)",
    ),
    "link_down": (
        "the device that copies leave by was down or had no carrier",
        "look at `ip link`, the cable, and the other end of the device",
    ),
    "malformed": (
        "it could not be made what the wire carried, or a tunnel held no frame",
        "capture some of the source's traffic (tcpdump -w) and look at it; the sender may be broken",
    ),
    "write_error": (
        "the file could not be written",
        "look at the space and the rights of the directory",
    ),
}


class Finding(NamedTuple):
    """One thing wrong: on which session's source ("" if it is the host's), what it is, and what to do."""

    severity: str
    code: str  # stable
    problem: str
    remedy: str
    mirror: str = ""
    session: str = ""
    source: str = ""


def findings(
    loaded: Loaded,
    reload: Reload,
    view: View,
    rows: Sequence[Row],
    host: Host,
    *,
    mirror: str | None = None,
    state: str = "",
    stalled: Sequence[str] = (),
) -> list[Finding]:
    """Everything that is wrong, of one mirror alone if it is named; errors first, the host's before the sessions'.

    `state` is the state database's own problem; `stalled` are the workers that make no progress.
    """
    config = loaded.config
    found = [*_configuration(loaded, reload, state), *_workers(stalled), *_host(config, host), *_mirror(config, mirror)]
    sessions = {(name, one.name): one for name, there in config.mirrors.items() for one in there.sessions}
    for row in rows:
        key = row.entry.key  # of one that was deleted and that ends there is no session
        if mirror in (None, key.mirror) and (session := sessions.get(key[:2])):
            place = key._asdict()
            found += [one._replace(**place) for one in _about(config, session, row, view, host)]
    return sorted(dict.fromkeys(found), key=lambda one: one.severity != ERROR)


def _mirror(config: Config, name: str | None) -> Iterator[Finding]:
    """What keeps the mirror that was asked for from having rows."""
    if name is None:
        return
    if not config.mirrors[name].enabled:
        yield Finding(WARNING, "disabled", "the mirror is disabled", f"mirrorctl enable {name}", name)
    elif config.mirrors[name].sessions and not config.mirrors[name].active:
        remedy = f"mirrorctl session enable {name} SESSION"
        yield Finding(WARNING, "disabled", "every session of the mirror is disabled", remedy, name)
    elif not config.mirrors[name].sessions:
        remedy = f"mirrorctl session add {name} NAME --source DEVICE --destination ..."
        yield Finding(WARNING, "no_sessions", "the mirror has no sessions", remedy, name)


# --- the configuration and the host ---


def _configuration(loaded: Loaded, reload: Reload, state: str) -> Iterator[Finding]:
    if state:
        remedy = "see to its directory; make again what is missing (mirrorctl list); this is told until the next start"
        yield Finding(ERROR, "state_database", f"the state database: {state}", remedy)
    for problem in reload.problems:
        remedy = "mend the file (mirrord --check tells all that is wrong), then mirrorctl reload"
        yield Finding(ERROR, "reload_refused", f"the configuration before the last reload runs: {problem}", remedy)
    for one in loaded.set_aside:
        problem = f"{one.section}.{one.name}, made at run time, does not run: {one.reason}"
        yield Finding(ERROR, "set_aside", problem, "delete it, or change what it disagrees with in the file")
    for warning in loaded.warnings:
        yield Finding(WARNING, "configuration", str(warning), "change it if it is not meant")


def _workers(stalled: Sequence[str]) -> Iterator[Finding]:
    for name in stalled:
        problem = f"{name} makes no progress: the kernel keeps it waiting, or the host has no time for it"
        remedy = "a writer waits for its disk (mirrorctl status tells whose); for any other, restart the daemon"
        yield Finding(ERROR, "worker_stalled", problem, remedy)


def _host(config: Config, host: Host) -> Iterator[Finding]:
    if host.native_missing and config.daemon.dataplane != "python":
        problem = f"the native data plane is missing, the much slower Python one runs: {host.native_missing}"
        yield Finding(WARNING, "no_native_core", problem, "install mirrord with a C compiler and this Python's headers")
    for name, effect in FEATURES.items():
        if name in host.lacking:
            yield Finding(WARNING, "no_kernel_feature", f"the kernel lacks {name}", effect)
    yield from _control_socket(config, host)


def _control_socket(config: Config, host: Host) -> Iterator[Finding]:
    where, group = config.daemon.socket, config.daemon.socket_group
    if host.control_socket is None:
        problem = f"the control socket {where} is gone: nobody can reach the daemon by it"
        yield Finding(ERROR, "socket_gone", problem, "restart the daemon, and see what cleans up that directory")
        return
    if host.control_socket.mode & 0o007:
        problem = f"anybody on this host may use the control socket (mode {host.control_socket.mode:04o})"
        yield Finding(ERROR, "socket_rights", problem, f"chmod 0660 {where}")
    if group and host.control_socket.group != group:
        problem = f"the control socket belongs to group {host.control_socket.group}, not to {group}"
        yield Finding(WARNING, "socket_rights", problem, f"chgrp {group} {where}, or restart the daemon")


# --- a session on one of its sources ---


def _about(config: Config, session: Session, row: Row, view: View, host: Host) -> Iterator[Finding]:
    found = [*_source(config.mirrors[row.entry.key.mirror], session, row, view, host)]
    if isinstance(session.destination, DeviceDestination):
        found += _device(session.destination, view)
    elif isinstance(session.destination, TunnelDestination):
        found += _tunnel(config, row.entry.key.mirror, session.destination, view, host)
    if row.state != "up" and not any(one.severity == ERROR for one in found):
        found.append(Finding(ERROR, f"session_{row.state}", f"it is {row.state}: {row.reason}", _remedy(row)))
    yield from found
    for note in row.entry.notes:
        yield Finding(
            WARNING, "left_out", note, "nothing, if that is meant; else narrow the pattern, or see to the device"
        )
    yield from _mtu(config, session, row, view)
    yield from _coarse(session, row, host)
    if isinstance(session.destination, FileDestination):
        yield from _space(row, host)
        yield from _kept(row, host)
    yield from _ring(row)
    for reason in DROPPED[1:]:
        yield from _loss(row, reason)


def _remedy(row: Row) -> str:
    if row.state == "waiting":
        return "it starts by itself as soon as this has changed"
    return f"mend this, or change the session (mirrorctl show {row.entry.key.mirror})"


def _source(mirror: Mirror, session: Session, row: Row, view: View, host: Host) -> Iterator[Finding]:
    name = row.entry.key.source
    try:
        link = sources.find(session, name, view)
    except (AbsentError, Refused):
        if isinstance(session.source, DeviceSource):
            yield from _no_source(name, session.source.netns, view)
        return
    if link.qdisc in SHAPERS:
        yield _shaped(
            link, "source", "what is sent there waits before it is copied", getattr(session.source, "netns", None)
        )
    netns = getattr(session.source, "netns", None)
    if netns is None and link.index in host.offloaded:
        problem = f"the NIC of {link.name} handles flows by itself (tc, in_hw): their frames do not come to the tap"
        remedy = f"ethtool -K {link.name} hw-tc-offload off, if the host can bear them; or the NIC's own port mirroring"
        yield Finding(WARNING, "offloaded_flows", problem, remedy)
    for spot in blind_spots(mirror, session, link, view.inside(netns)):
        tool, _, rest = spot.remedy.partition(" ")
        yield Finding(WARNING, spot.code, spot.problem, f"{_tool(tool, netns)} {rest}" if tool == "ip" else spot.remedy)


def _no_source(name: str, netns: str | None, view: View) -> Iterator[Finding]:
    try:
        links = view.inside(netns).links
    except (AbsentError, Refused):
        return  # the session's own reason tells it
    remedy = "create it, or change the session; it starts by itself when the device appears"
    if GLOB.search(name):
        yield Finding(ERROR, "device_missing", f"no device matches {name}{nearest(name, links)}", remedy)
    elif name not in links:
        yield Finding(ERROR, "device_missing", f"source device {name} is missing{nearest(name, links)}", remedy)
    elif not links[name].up:
        yield _down(links[name], "source", netns)


def _down(link: Link, role: str, netns: str | None) -> Finding:
    return Finding(
        ERROR, "device_down", f"{role} device {link.name} is down", f"{_tool('ip', netns)} link set {link.name} up"
    )


def _dead(link: Link, role: str, netns: str | None) -> Iterator[Finding]:
    """Of a device that copies leave by."""
    if not link.up:
        yield _down(link, role, netns)
    elif not link.carrier:
        problem = f"{role} device {link.name} has no carrier: what is sent by it goes nowhere"
        yield Finding(ERROR, "no_carrier", problem, "see to its cable, or to what is at its other end")


def _tool(name: str, netns: str | None) -> str:
    """A tool of iproute2, where the device is."""
    if netns is None:
        return name
    if netns.startswith("/"):
        return f"nsenter --net={netns} {name}"
    return f"nsenter -t {netns} -n {name}" if netns.isdecimal() else f"{name} -n {netns}"


def _shaped(link: Link, role: str, effect: str, netns: str | None) -> Finding:
    problem = f"{role} device {link.name} is shaped ({link.qdisc}): {effect}"
    remedy = f"{_tool('tc', netns)} qdisc delete dev {link.name} root, or use a device without QoS"
    return Finding(WARNING, "shaped", problem, remedy)


def _device(to: DeviceDestination, view: View) -> Iterator[Finding]:
    try:
        view = view.inside(to.netns)
    except (AbsentError, Refused):
        return  # the session's own reason tells it
    link = view.links.get(to.device)
    if link is None:
        problem = f"destination device {to.device} is missing{nearest(to.device, view.links)}"
        yield Finding(ERROR, "device_missing", problem, "create it, or change the session")
        return
    yield from _dead(link, "destination", to.netns)
    if link.index in view.default_routes:
        problem = f"destination device {link.name} holds a default route: copies go out among this host's own traffic"
        severity = WARNING if to.allow_default_route else ERROR
        yield Finding(severity, "default_route", problem, "use another device, or a tunnel")
    if misled := misled_bridge(to, link, view):
        problem, command, effect = misled
        tool, _, arguments = command.partition(" ")
        remedy = f"{_tool(tool, to.netns)} {arguments}, which {effect}"
        yield Finding(WARNING, "learning_bridge", f"destination device {problem}", remedy)
    if link.qdisc in SHAPERS:
        yield _shaped(link, "destination", "copies wait or are lost there", to.netns)


def _tunnel(config: Config, mirror: str, to: TunnelDestination, view: View, host: Host) -> Iterator[Finding]:
    try:
        way = path(to, config, lease(config, mirror, view))
        view = view.inside(to.netns)
    except (AbsentError, Refused):
        return  # the session's own reason tells it
    route = view.routes.get(way)
    if route is None:
        why = view.unreached.get(way, f"no route to {way.remote}")
        problem = f"there is {why}" if why.startswith("no route") else why
        remedy = f"{_tool('ip', to.netns)} route add {way.remote} via GATEWAY; a device that is down has no routes"
        yield Finding(ERROR, "no_route", problem, remedy)
        return
    link = view.by_index.get(route.device)
    if link is not None and link.qdisc in SHAPERS:
        yield _shaped(link, "outgoing", "copies wait or are lost there", to.netns)
    if link is not None and not (link.up and link.carrier):
        yield from _dead(link, "outgoing", to.netns)
        return
    hop = host.hops.get(way)
    if hop and hop.state in ("incomplete", "failed"):
        what = "the remote" if hop.address == way.remote else f"the next hop to {way.remote},"
        problem = f"{what} {hop.address} does not answer on {hop.device}: its MAC address is not known"
        ask = f"{_tool('ip', to.netns)} neighbour show dev {hop.device}"
        remedy = f"see that it is up and in that network; {ask} tells the state"
        yield Finding(ERROR, "next_hop", problem, remedy)


def _mtu(config: Config, session: Session, row: Row, view: View) -> Iterator[Finding]:
    """Whether the way out carries the longest frame of the source."""
    plan = row.entry.pipeline
    if plan is None or not plan.forward.frame_limit:
        return
    try:
        source = sources.find(session, row.entry.key.source, view)
        outlet = _outlet(config, row.entry.key.mirror, session, view)
    except (AbsentError, Refused):
        return
    full = plan.forward.longest_kept(source.mtu + ETH_HEADER)
    short = full - plan.forward.frame_limit
    if outlet is None or short <= 0:
        return
    name, mtu, most = outlet
    problem = (
        f"frames of {source.name} have up to {full} bytes, so their copies need an MTU of {mtu + short}, but that of"
        f" {name} or of the path behind it is {mtu}: those longer than {plan.forward.frame_limit} bytes are"
        f" {fate(plan.forward, full)}"
    )
    remedies = []
    if mtu < most:
        there = _tool("ip", getattr(session.destination, "netns", None))
        remedies.append(f"{there} link set {name} mtu {min(mtu + short, most)}, and the same all the way")
    if mtu + short > most:
        problem += f"; there is no MTU of more than {most} there"
        here, longest = _tool("ip", getattr(session.source, "netns", None)), plan.forward.frame_limit + most - mtu
        remedies.append(f"{here} link set {source.name} mtu {longest - ETH_HEADER}, so that it has no longer ones")
    remedy = f"{'; and '.join(remedies)}; or snaplen = {plan.forward.frame_limit}"
    yield Finding(WARNING, "mtu", problem, remedy)


def _outlet(config: Config, mirror: str, session: Session, view: View) -> tuple[str, int, int] | None:
    """The device by which copies leave, the MTU that counts there, and the largest that is possible.

    AbsentError, Refused where there is none.
    """
    to = session.destination
    if isinstance(to, DeviceDestination):
        link = view.inside(to.netns).ethernet(to.device)
        return link.name, link.mtu, link.most_mtu or UNBOUNDED
    if not isinstance(to, TunnelDestination):
        return None
    view, way = view.inside(to.netns), path(to, config, lease(config, mirror, view))
    route = view.routes.get(way)
    if route is None:
        return None
    leaves_by, longest = view.by_index.get(route.device), IP_LONGEST[ip_address(way.remote).version]
    most = min((leaves_by.most_mtu if leaves_by else 0) or UNBOUNDED, longest)
    return _name(view, route.device), min(route.mtu, longest), most


def _name(view: View, index: int) -> str:
    return next((link.name for link in view.links.values() if link.index == index), f"device {index}")


def _coarse(session: Session, row: Row, host: Host) -> Iterator[Finding]:
    if row.entry.key in host.coarse:
        problem = (
            f"filter {session.filter} is too long for the kernel: a coarser one runs, and frames are matched again"
        )
        known = f" (it is {host.optmem_max})" if host.optmem_max else ""
        remedy = f"shorten it; a larger net.core.optmem_max{known} may help, once the mirror is disabled and enabled"
        yield Finding(WARNING, "coarse_filter", problem, remedy)


def _space(row: Row, host: Host) -> Iterator[Finding]:
    transmit = row.entry.pipeline.transmit if row.entry.pipeline else None
    if not isinstance(transmit, FilePlan):
        return
    space = host.space.get(transmit.directory)
    if space and space.free * LOW < space.total:
        severity = ERROR if space.free * EMPTY < space.total else WARNING
        left = f"{space.free >> 20} MiB of {space.total >> 20} MiB are free"
        problem = f"the file system of {transmit.directory} is nearly full: {left}"
        yield Finding(severity, "space", problem, "make room, or bound the files by rotate_size and keep")


def _kept(row: Row, host: Host) -> Iterator[Finding]:
    kept = host.kept.get(row.entry.key, Kept())
    if kept.ahead:
        problem = f"{kept.ahead} is dated after the clock's time now: the clock was wrong then, or it is now"
        remedy = "see that it is synchronised (timedatectl); files give way in the order of their writing all the same"
        yield Finding(WARNING, "files_dated_ahead", problem, remedy)
    if kept.unlisted:
        problem = f"finished files that keep does not count, and mirrord never deletes: {kept.unlisted}"
        remedy = "delete what nobody needs; they were written without keep, by another program or an older mirrord"
        yield Finding(WARNING, "files_not_counted", problem, remedy)


# --- what was lost ---


def _severity(row: Row, lost: int) -> str:
    return ERROR if lost * GRAVE >= row.counters[Slot.captured] else WARNING


def _ring(row: Row) -> Iterator[Finding]:
    lost = row.counters[Slot.dropped_ring_full]
    plan = row.entry.pipeline
    if not lost or plan is None:
        return
    size = plan.capture.buffer_size if isinstance(plan.capture, ListenPlan) else plan.capture.ring_size
    problem = (
        f"{_share(row, lost)} were lost in the ring of {show_size(size)}: they came faster than they could be sent"
    )
    remedy = f'ring_size = "{show_size(GREATER * size)}", a narrower filter, or snaplen'
    yield Finding(_severity(row, lost), "ring_full", problem, remedy)


def _loss(row: Row, reason: str) -> Iterator[Finding]:
    lost = row.counters[Slot[f"dropped_{reason}"]]
    if lost:
        cause, remedy = LOSSES[reason]
        yield Finding(_severity(row, lost), reason, f"{_share(row, lost)} were lost: {cause}", remedy)


def _share(row: Row, lost: int) -> str:
    return f"{lost} of {row.counters[Slot.captured]} frames since the daemon's start"
