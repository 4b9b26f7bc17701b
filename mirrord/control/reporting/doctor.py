"""What is wrong with the host and with each session, and what to do about it. Pure: what was found out comes in.

An error means that frames are not mirrored, or that somebody could do harm; a warning that copies are not, or soon may
not be, what they should be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mirrord.control.configuration.config import Loaded
from mirrord.control.host.view import AbsentError, Collector, View
from mirrord.control.planning.finding import ERROR, WARNING, Finding, tool
from mirrord.control.planning.leases import lease
from mirrord.control.planning.ways_out.tunnel import collectors
from mirrord.control.reporting.metrics import Reload, Row, WorkerState
from mirrord.control.reporting.probes import Host, Kept
from mirrord.dataplane.counters import DROPPED, Slot
from mirrord.errors import Refused, nearest
from mirrord.model import Config, Session, TunnelDestination
from mirrord.plans import FilePlan, ListenPlan
from mirrord.values.quantities import show_size

GRAVE = 1000  # one frame in so many lost is an error
LOW, EMPTY = 10, 100  # one part in so many of a file system free: a warning, an error
IDLE = WorkerState()
NEARLY = 10  # all but one part in so many
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
    "queue_full": (
        "a client's queue had no room for the copy, or its connection ended before it had it",
        "see what slows the receiver or the way to it; a larger buffer bridges a longer stall",
    ),
}


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
    costs: WorkerState = IDLE,
) -> list[Finding]:
    """Everything that is wrong, of one mirror alone if it is named; errors first, the host's before the sessions'.

    `state` is the state database's own problem; `stalled` are the workers that make no progress.
    `costs` is what all of them take.
    """
    config = loaded.config
    found = [*_configuration(loaded, reload, state), *_workers(stalled), *_costs(costs), *_host(config, host)]
    found += _mirror(config, mirror)
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


def _costs(costs: WorkerState) -> Iterator[Finding]:
    if costs.cpu_limit and costs.left_out:
        limit = f"{costs.cpu_limit:.0%} of a core (daemon.cpu_limit)"
        problem = f"{costs.left_out} frames were left out while workers rested, since they had used up {limit}"
        remedy = "raise cpu_limit, or mirror less: narrower filters, sampling_rate, snaplen"
        yield Finding(WARNING, "cpu_limit", problem, remedy)
    if costs.memory_limit and costs.memory * NEARLY > costs.memory_limit * (NEARLY - 1):
        taken = f"{show_size(costs.memory)} of {show_size(costs.memory_limit)} (daemon.memory_limit)"
        problem = f"rings, tables and recorders take {taken}: what comes next may have none"
        yield Finding(WARNING, "memory_limit", problem, "raise memory_limit, or set smaller rings (ring_size)")


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
    cause = _cause(row, view)
    if cause is not None:
        yield cause
    yield from row.entry.warnings
    yield from row.entry.notes
    yield from _offloaded(session, row, view, host)
    if isinstance(session.destination, TunnelDestination):
        ways = _ways(config, row, session.destination, view)
        if cause is None:
            yield from _next_hop(row, session.destination, ways, host)
        yield from _unbound(ways, host)
    yield from _coarse(session, row, host)
    yield from _space(row, host)
    yield from _kept(row, host)
    yield from _ring(row)
    for reason in DROPPED[1:]:
        yield from _loss(row, reason)


def _cause(row: Row, view: View) -> Finding | None:
    """Why it does not run, or why its copies get nowhere: as planning says, or as it turned out."""
    cause = row.entry.cause
    if cause is None and row.state != "up":
        remedy = f"mend this, or change the session (mirrorctl show {row.entry.key.mirror})"
        if row.state == "waiting":
            remedy = "it starts by itself as soon as this has changed"
        return Finding(ERROR, f"session_{row.state}", f"it is {row.state}: {row.reason}", remedy)
    if cause is not None and cause.code == "device_missing":
        name = cause.problem.rpartition(" ")[2]
        return cause._replace(problem=cause.problem + nearest(name, view.links))
    return cause


def _offloaded(session: Session, row: Row, view: View, host: Host) -> Iterator[Finding]:
    link = view.links.get(row.entry.key.source)
    if link is not None and getattr(session.source, "netns", None) is None and link.index in host.offloaded:
        problem = f"the NIC of {link.name} handles flows by itself (tc, in_hw): their frames do not come to the tap"
        remedy = f"ethtool -K {link.name} hw-tc-offload off, if the host can bear them; or the NIC's own port mirroring"
        yield Finding(WARNING, "offloaded_flows", problem, remedy)


def _ways(config: Config, row: Row, to: TunnelDestination, view: View) -> Sequence[Collector]:
    try:
        return collectors(to, config, lease(config, row.entry.key.mirror, view))
    except (AbsentError, Refused):
        return ()  # the session's own reason tells it


def _unbound(ways: Sequence[Collector], host: Host) -> Iterator[Finding]:
    """Collectors that are there, and have no socket for what is sent to them."""
    for one in ways:
        if one in host.unbound:
            to = f"UDP port {one.port}" if one.port else f"IP protocol {one.protocol}"
            problem = (
                f"{one.path.remote} says that its {host.unbound[one]} is unreachable: nothing is bound to {to} there"
            )
            remedy = "nothing, where a sensor reads the NIC, which takes no socket; else start the receiver"
            yield Finding(WARNING, "unbound", problem, remedy)


def _next_hop(row: Row, to: TunnelDestination, ways: Sequence[Collector], host: Host) -> Iterator[Finding]:
    """What the kernel knows of the next hop already, before a session's copies are lost for it."""
    told = {one.remote for one in row.entry.remotes if not one.up}
    for way in (one.path for one in ways):
        hop = host.hops.get(way)
        if hop is None or hop.state not in ("incomplete", "failed") or way.remote in told:
            continue
        what = "the remote" if hop.address == way.remote else f"the next hop to {way.remote},"
        problem = f"{what} {hop.address} does not answer on {hop.device}: its MAC address is not known"
        ask = f"{tool('ip', to.netns)} neighbour show dev {hop.device}"
        remedy = f"see that it is up and in that network; {ask} tells the state"
        yield Finding(ERROR, "next_hop", problem, remedy)


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
