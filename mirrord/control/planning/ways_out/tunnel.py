"""Copies in tunnels: by UDP, or by another IP protocol, that the kernel routes or whose outer headers are ours."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from itertools import chain
from typing import NamedTuple

from mirrord.control.host.view import AbsentError, Collector, Lease, Path, View
from mirrord.control.planning.finding import ERROR, Finding
from mirrord.control.planning.leases import refuse_if_set_aside
from mirrord.control.planning.transmit_choice import Way, choose
from mirrord.control.planning.ways_out import remotes
from mirrord.control.planning.ways_out.common import UNBOUNDED, Asked, Narrows, WayOut, shaping, too_long
from mirrord.control.planning.ways_out.remotes import Stopped
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.forward import encap
from mirrord.dataplane.forward.encap import Ids, Template
from mirrord.dataplane.forward.remotes import seed
from mirrord.model import (
    Config,
    ErspanDestination,
    GeneveDestination,
    GreDestination,
    Session,
    TunnelDestination,
    VxlanDestination,
)
from mirrord.plans import ForwardPlan, OnMtuExceeded, Remote, RemotesPlan, TunnelPlan
from mirrord.protocols import ETH_HEADER, IPPROTO_GRE, IPPROTO_UDP, UDP_HEADER

IP_HEADER = {4: 20, 6: 40}
IP_LONGEST = {4: 65535, 6: 65575}  # what the length fields of RFC 791 and RFC 8200 can say, headers included

Encapsulation = VxlanDestination | GeneveDestination | GreDestination | ErspanDestination


def describe(session: Session, to: Encapsulation) -> tuple[str, str]:
    """The destination in words, and how copies are handed to the kernel, as far as that needs no look at the host."""
    names = ("port", "vni", "vni_egress", "key", "key_egress", "session_id", "session_id_egress")
    details = {name: getattr(to, name, None) for name in names}
    kind = f"{to.type} {to.erspan_type}" if isinstance(to, ErspanDestination) else to.type
    words = [
        kind,
        ", ".join(map(str, to.remote)),
        *(f"{name} {value}" for name, value in details.items() if value is not None),
    ]
    words += ["to", to.spread] if len(to.remote) > 1 and to.spread == "all" else []
    words += [] if to.netns is None else ["in", to.netns]
    return " ".join(words), session.transmit


def collectors(to: TunnelDestination, config: Config, lease: Lease | None) -> tuple[Collector, ...]:
    """Who copies go to, and the ways whose routes a tunnel needs to know, in the order of the configuration."""
    port: int = getattr(to, "port", 0)
    protocol = IPPROTO_UDP if port else IPPROTO_GRE
    return tuple(Collector(_path(to, str(one), config, lease), to.liveness, protocol, port) for one in to.remote)


def _path(to: TunnelDestination, remote: str, config: Config, lease: Lease | None) -> Path:
    if lease is not None:
        return Path(remote, lease.address, config.daemon.mark, lease.device_index)
    return Path(remote, str(to.local or ""), config.daemon.mark, netns=to.netns or "")


class Toward(NamedTuple):
    """The way out to one collector: how copies leave, how long they may be, and what keeps them here."""

    plan: TunnelPlan
    reach: Remote
    routed: bool  # a socket can be opened for it
    stopped: Stopped | None
    warnings: tuple[Finding, ...]
    transmit: str  # in words
    joined: str


def way_out(asked: Asked, to: TunnelDestination) -> WayOut:
    """By the kernel's routes to the remotes, or by the mirror's flow network, if that has one."""
    guest = getattr(asked.session.source, "perspective", "host") == "guest"
    forward = replace(asked.forward, template=_template(to, guest=guest, index=asked.source.index))
    view, found = asked.view.inside(to.netns), collectors(to, asked.config, asked.lease)
    ways = [_toward(asked, to, forward, one.path, view, several=len(found) > 1) for one in found]
    states = remotes.states(found, [way.stopped for way in ways], view)
    reaches = tuple(replace(way.reach, alive=one.takes) for way, one in zip(ways, states, strict=True))
    taking = [one for one in reaches if one.alive] or reaches
    forward = replace(
        forward,
        frame_limit=min(one.frame_limit for one in taking),
        longest=min(one.longest for one in taking),
        overhead=reaches[0].overhead,
    )
    stopped = next((way.stopped for way in ways if way.stopped is not None), None)
    if not any(one.takes for one in states) and stopped is not None:
        forward = replace(forward, blocked=stopped.slot)
    elif len(found) > 1:
        forward = replace(forward, remotes=reaches, spread_all=to.spread == "all")
    transmit: TunnelPlan | RemotesPlan = ways[0].plan
    if len(found) > 1:
        addresses = tuple(way.plan.remote for way in ways)
        transmit = RemotesPlan(addresses, tuple(way.plan if way.routed else None for way in ways))
    return WayOut(
        transmit,
        forward,
        (*chain.from_iterable(way.warnings for way in ways), *remotes.warnings(states)),
        (
            ("transmit", remotes.in_words(states, [way.transmit for way in ways])),
            ("gso", remotes.in_words(states, [way.joined for way in ways])),
        ),
        remotes.trouble(states, [way.stopped for way in ways], to.netns),
        states,
    )


def _toward(
    asked: Asked, to: TunnelDestination, forward: ForwardPlan, way: Path, view: View, *, several: bool
) -> Toward:
    config, session, lease = asked.config, asked.session, asked.lease
    port: int | None = getattr(to, "port", None)
    version = ip_address(way.remote).version
    headers = IP_HEADER[version] + (0 if port is None else UDP_HEADER)
    route = view.routes.get(way)
    longest = IP_LONGEST[version] - headers - len(forward.template.header)
    limit = max(min(route.mtu - headers - len(forward.template.header), longest), ETH_HEADER) if route else 0
    fragments = forward.on_mtu_exceeded is OnMtuExceeded.fragment
    reach = Remote(
        seed(ip_address(way.remote)),
        frame_limit=limit,
        longest=longest if fragments else 0,
        overhead=ETH_HEADER + headers,
    )
    if route and route.device in view.by_index and lease is None and to.netns is None:
        refuse_if_set_aside(config, view.by_index[route.device].name, f"the route to {way.remote} leads by it")
    warnings: list[Finding] = []
    if route:
        leaves_by, most = view.by_index.get(route.device), IP_LONGEST[version]
        most = min((leaves_by.most_mtu if leaves_by else 0) or UNBOUNDED, most)
        device = leaves_by.name if leaves_by else f"device {route.device}"
        narrows = Narrows(f"the path MTU to {way.remote}", device, min(route.mtu, IP_LONGEST[version]), most)
        warnings += too_long(asked, replace(forward, frame_limit=limit, longest=reach.longest), narrows)
        if leaves_by is not None:
            warnings += shaping(leaves_by, "outgoing", to.netns)
    stopped = remotes.stopped(way, view, by_packet=session.transmit == "packet")
    try:
        how = choose(session, route, udp=port is not None, native=asked.native)
    except AbsentError as absent:
        if not several:
            raise
        how = Way(transmit="packet")
        stopped = stopped or Stopped(Slot.dropped_no_route, Finding(ERROR, "no_packet_socket", str(absent), ""))
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
        fragment=fragments,
        hop=how.hop,
        gso=how.gso,
        overtakes=session.gso == "on",
    )
    return Toward(plan, reach, route is not None, stopped, tuple(warnings), how.transmit, how.joined)


def _template(to: TunnelDestination, *, guest: bool, index: int) -> Template:
    match to:
        case VxlanDestination():
            return encap.vxlan(Ids(to.vni, to.vni_egress, guest))
        case GeneveDestination():
            return encap.geneve(Ids(to.vni, to.vni_egress, guest), metadata_of=index if to.metadata else None)
        case GreDestination():
            return encap.gre(None if to.key is None else Ids(to.key, to.key_egress, guest))
        case ErspanDestination(session_id=int(session_id), erspan_type="II" | "III"):
            ids = Ids(session_id, to.session_id_egress, guest)
            if to.erspan_type == "II":
                return encap.erspan_ii(ids, cos=to.cos, index=to.index)
            return encap.erspan_iii(ids, cos=to.cos, hardware_id=to.hardware_id, sgt=to.sgt, guest=guest)
        case _:
            return encap.erspan_i()
