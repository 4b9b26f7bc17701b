"""A session's destination -> the way out of its copies: which sockets, which header, how long a copy may be."""

from __future__ import annotations

import os
from dataclasses import replace
from ipaddress import ip_address
from pathlib import PurePath
from typing import NamedTuple

from mirrord import model
from mirrord.control.host.view import Lease, Link, Path, View
from mirrord.control.planning.files import file_of
from mirrord.control.planning.finding import ERROR, WARNING, Finding, tool
from mirrord.control.planning.leases import refuse_if_set_aside
from mirrord.control.planning.transmit_choice import choose, no_answer
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.forward import encap
from mirrord.dataplane.forward.encap import Template
from mirrord.errors import Refused
from mirrord.model import (
    Config,
    DeviceDestination,
    ErspanDestination,
    FileDestination,
    GeneveDestination,
    GreDestination,
    Session,
    TunnelDestination,
    VxlanDestination,
)
from mirrord.plans import DevicePlan, FilePlan, FlowLimit, ForwardPlan, OnMtuExceeded, Payload, TunnelPlan
from mirrord.protocols import ETH_HEADER, IPPROTO_GRE, IPPROTO_UDP, UDP_HEADER

IP_HEADER = {4: 20, 6: 40}
IP_LONGEST = {4: 65535, 6: 65575}  # what the length fields of RFC 791 and RFC 8200 can say, headers included
UNBOUNDED = 1 << 31  # an MTU that no device has
SHAPERS = frozenset({"cake", "cbq", "hfsc", "htb", "netem", "tbf"})  # queueing disciplines that hold traffic back


class WayOut(NamedTuple):
    """What the data plane is to do with a session's frames, and what the operator should know about it."""

    transmit: DevicePlan | TunnelPlan | FilePlan
    forward: ForwardPlan
    warnings: tuple[Finding, ...] = ()
    how: tuple[tuple[str, str], ...] = ()  # in words, of a tunnel: by which kind of socket, whether copies are joined
    trouble: Finding | None = None  # why no copy gets anywhere for now; the step counts each frame as lost


def way_out(
    config: Config,
    mirror: str,
    session: Session,
    source: Link,
    view: View,
    lease: Lease | None = None,
    *,
    native: bool = True,
) -> WayOut:
    """The way out of frames captured on `source`; a tunnel's leads by the mirror's flow network, if that has one.

    Raises AbsentError for what the host may have later, Refused for what would do harm.
    """
    forward = ForwardPlan(
        template=encap.bare(),
        snaplen=0 if session.snaplen.past_headers else session.snaplen.length,
        payload=Payload[session.payload],
        past_headers=session.snaplen.length if session.snaplen.past_headers else None,
        on_mtu_exceeded=OnMtuExceeded[session.on_mtu_exceeded],
        sampling_rate=session.sampling_rate,
        overload=session.overload == "flows",
        flow_limit=_flow_limit(session.flow_limit),
        rate_limit=session.rate_limit,
        packet_limit=session.packet_limit,
    )
    if isinstance(session.destination, DeviceDestination):
        return _device(config, session, session.destination, source, view, forward)
    if isinstance(session.destination, FileDestination):
        return _file(config, mirror, session, session.destination, source, forward)
    assert isinstance(session.destination, TunnelDestination)  # the others are refused by the loader
    guest = getattr(session.source, "perspective", "host") == "guest"
    forward = replace(forward, template=_template(session.destination, guest=guest))
    return _tunnel(config, session, session.destination, source, view, forward, lease, native=native)


def _flow_limit(limit: model.FlowLimit | None) -> FlowLimit | None:
    if limit is None:
        return None
    return FlowLimit(limit.packets or 0, limit.bytes or 0, limit.then == "headers", limit.idle, limit.flows)


def path(to: TunnelDestination, config: Config, lease: Lease | None) -> Path:
    """The way whose route a tunnel needs to know."""
    if lease is not None:
        return Path(str(to.remote), lease.address, config.daemon.mark, lease.device_index)
    return Path(str(to.remote), str(to.local or ""), config.daemon.mark, netns=to.netns or "")


def describe(session: Session) -> tuple[str, str]:
    """The destination in words, and how copies are handed to the kernel, as far as that needs no look at the host."""
    to = session.destination
    if isinstance(to, DeviceDestination):
        vlan = "" if to.vlan is None else f" vlan {to.vlan}"
        place = "" if to.netns is None else f" in {to.netns}"
        held = ("" if to.normal_io else ", reserved") + (", off its bridge" if to.isolate else "")
        return f"device {to.device}{vlan}{place}{held}", "packet"
    if isinstance(to, FileDestination):
        return f"file {to.path}", "file"
    assert isinstance(to, TunnelDestination)  # the others are refused by the loader
    details = {name: getattr(to, name, None) for name in ("port", "vni", "key", "session_id")}
    kind = f"{to.type} {to.erspan_type}" if isinstance(to, ErspanDestination) else to.type
    words = [kind, str(to.remote), *(f"{name} {value}" for name, value in details.items() if value is not None)]
    words += [] if to.netns is None else ["in", to.netns]
    return " ".join(words), session.transmit


def shaping(link: Link, role: str, netns: str | None) -> list[Finding]:
    """A warning when this device holds traffic back."""
    if link.qdisc not in SHAPERS:
        return []
    effect = "what is sent there waits before it is copied" if role == "source" else "copies wait or are lost there"
    problem = f"{role} device {link.name} is shaped ({link.qdisc}): {effect}"
    remedy = f"{tool('tc', netns)} qdisc delete dev {link.name} root, or use a device without QoS"
    return [Finding(WARNING, "shaped", problem, remedy)]


def _misled_bridge(to: DeviceDestination, link: Link, view: View) -> list[Finding]:
    """A warning when a destination is a bridge's port.

    With `isolate` it is taken off the bridge while the session runs, unless somebody made it a port again.
    """
    if to.isolate and link.traits.taken_off and link.master:
        bridge = view.by_index[link.master].name if link.master in view.by_index else f"device {link.master}"
        problem = (
            f"{link.name} was taken off {link.traits.taken_off}, and somebody has made it a port of {bridge} since"
        )
        remedy = f"{tool('ip', to.netns)} link set dev {link.name} nomaster, which has the copies mislead no bridge"
    elif link.learning and not to.isolate:
        problem = f"{link.name} is a port of a bridge that learns addresses: copies would mislead it"
        remedy = f"{tool('bridge', to.netns)} link set dev {link.name} learning off, which has it learn no more"
        if to.netns is None:
            remedy += "; isolate = true takes it off the bridge while it is a destination"
    else:
        return []
    return [Finding(WARNING, "learning_bridge", problem, remedy)]


def _default_route(to: DeviceDestination, link: Link, view: View) -> list[Finding]:
    """A warning when a destination holds a default route; Refused where that is not permitted."""
    if link.index not in view.default_routes:
        return []
    problem = f"{to.device} holds a default route of this host, copies would go out among its own traffic"
    remedy = "use another device, or a tunnel"
    if not to.allow_default_route:
        permits = " (allow_default_route = true permits it)"
        raise Refused(problem + permits, about="default_route", remedy=remedy)
    if not to.normal_io:
        raise Refused(
            f"{to.device} holds a default route of this host, to reserve it would cut the host off",
            about="default_route",
            remedy=remedy,
        )
    return [Finding(WARNING, "default_route", problem, remedy)]


def _dead(link: Link | None, netns: str | None) -> Finding | None:
    """Why nothing that is given to this device leaves it; None when it does."""
    if link is None or (link.up and link.carrier):
        return None
    name = f"{link.name}{f' in {netns}' if netns else ''}, by which copies leave,"
    if link.up:
        remedy = "see to its cable, or to what is at its other end"
        return Finding(ERROR, "no_carrier", f"{name} has no carrier", remedy)
    return Finding(ERROR, "device_down", f"{name} is down", f"{tool('ip', netns)} link set {link.name} up")


def _device(
    config: Config, session: Session, to: DeviceDestination, source: Link, view: View, forward: ForwardPlan
) -> WayOut:
    view = view.inside(to.netns)
    link = view.ethernet(to.device)
    warnings = _default_route(to, link, view)
    strip = to.original_vlan == "strip"
    forward = replace(forward, frame_limit=link.mtu + ETH_HEADER, strip_tag=strip, push_tag=to.vlan or 0)
    warnings += shaping(link, "destination", to.netns)
    most = link.most_mtu or UNBOUNDED
    warnings += _too_long(session, source, forward, _Narrows(f"the MTU of {link.name}", link.name, link.mtu, most))
    warnings += _misled_bridge(to, link, view)
    if trouble := _dead(link, to.netns):
        forward = replace(forward, blocked=Slot.dropped_link_down)
    plan = DevicePlan(
        link.name,
        link.index,
        config.daemon.mark,
        view.netns,
        reserved=not to.normal_io,
        isolated=to.isolate,
        takes_ring=to.netns is None and link.takes_ring,
    )
    return WayOut(plan, forward, tuple(warnings), trouble=trouble)


def _file(
    config: Config, mirror: str, session: Session, to: FileDestination, source: Link, forward: ForwardPlan
) -> WayOut:
    """Blocks of a file; where the session may have more than one source device, a file for each of them."""
    file = file_of(session, to.path, source.name)
    directories = [PurePath(os.path.normpath(one)) for one in config.daemon.capture_directories]
    directory = next(one for one in directories if one in file.parents)  # the loader refuses any other
    plan = FilePlan(
        directory=str(directory),
        name=str(file.relative_to(directory)),
        interface=source.name,
        comment=f"mirror {mirror}, session {session.name}",
        snaplen=forward.snaplen,
        rotate_size=to.rotate_size,
        rotate_seconds=to.rotate_seconds,
        keep=to.keep,
        raw=source.raw,
    )
    template = encap.packet_block()
    forward = replace(forward, template=template, overhead=-len(template.header), strip_ethernet=source.raw)
    return WayOut(plan, forward)


def _tunnel(
    config: Config,
    session: Session,
    to: TunnelDestination,
    source: Link,
    view: View,
    forward: ForwardPlan,
    lease: Lease | None,
    *,
    native: bool,
) -> WayOut:
    way = path(to, config, lease)
    view = view.inside(to.netns)
    template = forward.template
    port: int | None = getattr(to, "port", None)
    version = ip_address(way.remote).version
    headers = IP_HEADER[version] + (0 if port is None else UDP_HEADER)
    route = view.routes.get(way)
    longest = IP_LONGEST[version] - headers - len(template.header)
    limit = max(min(route.mtu - headers - len(template.header), longest), ETH_HEADER) if route else 0
    forward = replace(forward, frame_limit=limit, overhead=ETH_HEADER + headers)
    if forward.on_mtu_exceeded is OnMtuExceeded.fragment:
        forward = replace(forward, longest=longest)
    if route and route.device in view.by_index and lease is None and to.netns is None:
        refuse_if_set_aside(config, view.by_index[route.device].name, f"the route to {way.remote} leads by it")
    warnings: list[Finding] = []
    if route:
        leaves_by, most = view.by_index.get(route.device), IP_LONGEST[version]
        most = min((leaves_by.most_mtu if leaves_by else 0) or UNBOUNDED, most)
        device = leaves_by.name if leaves_by else f"device {route.device}"
        narrows = _Narrows(f"the path MTU to {way.remote}", device, min(route.mtu, IP_LONGEST[version]), most)
        warnings += _too_long(session, source, forward, narrows)
        if leaves_by is not None:
            warnings += shaping(leaves_by, "outgoing", to.netns)
    blocked, trouble = _stopped(session, way, view)
    forward = replace(forward, blocked=blocked)
    how = choose(session, route, udp=port is not None, native=native)
    plan = TunnelPlan(
        remote=way.remote,
        port=port or 0,
        protocol=IPPROTO_GRE if port is None else IPPROTO_UDP,
        local=way.local or (route.source if route else ""),
        device=lease.device if lease else "",
        index=way.device,
        netns=view.netns,
        ttl=to.ttl,
        dscp=to.dscp,
        mark=config.daemon.mark,
        fragment=forward.on_mtu_exceeded is OnMtuExceeded.fragment,
        hop=how.hop,
        gso=how.gso,
        overtakes=session.gso == "on",
    )
    return WayOut(plan, forward, tuple(warnings), (("transmit", how.transmit), ("gso", how.joined)), trouble)


def _stopped(session: Session, way: Path, view: View) -> tuple[Slot | None, Finding | None]:
    """What copies by this way are lost as, and why: the kernel would take them and discard them silently."""
    route, ip = view.routes.get(way), tool("ip", way.netns or None)
    if route is None:
        problem = view.unreached.get(way, f"no route to {way.remote}")
        remedy = f"{ip} route add {way.remote} via GATEWAY; a device that is down has no routes"
        return Slot.dropped_no_route, Finding(ERROR, "no_route", problem, remedy)
    link = view.by_index.get(route.device)
    if trouble := _dead(link, way.netns or None):
        return Slot.dropped_link_down, trouble
    if route.silent or (session.transmit == "packet" and route.hop is None):  # which no other socket is to stand in for
        ask = f"{ip} neighbour show dev {link.name if link else route.device}"
        remedy = f"see that it is up and in that network; {ask} tells the state"
        return Slot.dropped_no_route, Finding(ERROR, "next_hop", no_answer(way.remote, route), remedy)
    return None, None


def _template(to: TunnelDestination, *, guest: bool) -> Template:
    match to:
        case VxlanDestination():
            return encap.vxlan(to.vni)
        case GeneveDestination():
            return encap.geneve(to.vni)
        case GreDestination():
            return encap.gre(to.key)
        case ErspanDestination(erspan_type="II"):
            return encap.erspan_ii(to.session_id or 0, cos=to.cos, index=to.index)
        case ErspanDestination(erspan_type="III"):
            return encap.erspan_iii(to.session_id or 0, cos=to.cos, hardware_id=to.hardware_id, sgt=to.sgt, guest=guest)
        case _:
            return encap.erspan_i()


class _Narrows(NamedTuple):
    """What bounds the length of copies. `mtu` is of an IP packet, or of a frame without its Ethernet header."""

    words: str
    device: str
    mtu: int
    most: int  # the largest MTU that is possible there


def _too_long(session: Session, source: Link, forward: ForwardPlan, narrows: _Narrows) -> list[Finding]:
    """A warning when the way out does not carry the longest frame of the source."""
    full = forward.longest_kept(source.mtu + ETH_HEADER)
    short = full - forward.frame_limit
    if short <= 0:
        return []
    problem = (
        f"{narrows.words}, {narrows.mtu}, carries frames of {forward.frame_limit} bytes, but those of {source.name}"
        f" have up to {full}: longer ones are {fate(forward, full)}"
    )
    needed, remedies = narrows.mtu + short, []
    if narrows.mtu < narrows.most:
        there = tool("ip", getattr(session.destination, "netns", None))
        remedies.append(f"{there} link set {narrows.device} mtu {min(needed, narrows.most)}, and the same all the way")
    if needed > narrows.most:
        problem += f"; there is no MTU of more than {narrows.most} there"
        here, longest = tool("ip", getattr(session.source, "netns", None)), narrows.most - narrows.mtu
        mtu = forward.frame_limit + longest - ETH_HEADER
        remedies.append(f"{here} link set {source.name} mtu {mtu}, so that it has no longer ones")
    remedy = f"{'; and '.join(remedies)}; or snaplen = {forward.frame_limit}"
    return [Finding(WARNING, "mtu", problem, remedy)]


def fate(forward: ForwardPlan, full: int) -> str:
    """What becomes of frames of up to `full` bytes that are longer than the path MTU lets a copy carry, in words."""
    fates = {OnMtuExceeded.truncate: "truncated", OnMtuExceeded.fragment: "fragmented", OnMtuExceeded.drop: "dropped"}
    words = fates[forward.on_mtu_exceeded]
    if 0 < forward.longest < full:
        words += f", and those of more than {forward.longest}, which fit no IP packet, dropped"
    return words
