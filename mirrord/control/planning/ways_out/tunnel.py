"""Copies in tunnels: by UDP, or by another IP protocol, that the kernel routes or whose outer headers are ours."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from mirrord.control.host.view import Lease, Path, View
from mirrord.control.planning.finding import ERROR, Finding, tool
from mirrord.control.planning.leases import refuse_if_set_aside
from mirrord.control.planning.transmit_choice import choose, no_answer
from mirrord.control.planning.ways_out.common import UNBOUNDED, Asked, Narrows, WayOut, dead, shaping, too_long
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.forward import encap
from mirrord.dataplane.forward.encap import Ids, Template
from mirrord.model import (
    Config,
    ErspanDestination,
    GeneveDestination,
    GreDestination,
    Session,
    TunnelDestination,
    VxlanDestination,
)
from mirrord.plans import OnMtuExceeded, TunnelPlan
from mirrord.protocols import ETH_HEADER, IPPROTO_GRE, IPPROTO_UDP, UDP_HEADER

IP_HEADER = {4: 20, 6: 40}
IP_LONGEST = {4: 65535, 6: 65575}  # what the length fields of RFC 791 and RFC 8200 can say, headers included

Encapsulation = VxlanDestination | GeneveDestination | GreDestination | ErspanDestination


def describe(session: Session, to: Encapsulation) -> tuple[str, str]:
    """The destination in words, and how copies are handed to the kernel, as far as that needs no look at the host."""
    names = ("port", "vni", "vni_egress", "key", "key_egress", "session_id", "session_id_egress")
    details = {name: getattr(to, name, None) for name in names}
    kind = f"{to.type} {to.erspan_type}" if isinstance(to, ErspanDestination) else to.type
    words = [kind, str(to.remote), *(f"{name} {value}" for name, value in details.items() if value is not None)]
    words += [] if to.netns is None else ["in", to.netns]
    return " ".join(words), session.transmit


def path(to: TunnelDestination, config: Config, lease: Lease | None) -> Path:
    """The way whose route a tunnel needs to know."""
    if lease is not None:
        return Path(str(to.remote), lease.address, config.daemon.mark, lease.device_index)
    return Path(str(to.remote), str(to.local or ""), config.daemon.mark, netns=to.netns or "")


def way_out(asked: Asked, to: TunnelDestination) -> WayOut:
    """By the kernel's route to the remote, or by the mirror's flow network, if that has one."""
    config, session, lease = asked.config, asked.session, asked.lease
    guest = getattr(session.source, "perspective", "host") == "guest"
    template = _template(to, guest=guest)
    way = path(to, config, lease)
    view = asked.view.inside(to.netns)
    port: int | None = getattr(to, "port", None)
    version = ip_address(way.remote).version
    headers = IP_HEADER[version] + (0 if port is None else UDP_HEADER)
    route = view.routes.get(way)
    longest = IP_LONGEST[version] - headers - len(template.header)
    limit = max(min(route.mtu - headers - len(template.header), longest), ETH_HEADER) if route else 0
    forward = replace(asked.forward, template=template, frame_limit=limit, overhead=ETH_HEADER + headers)
    if forward.on_mtu_exceeded is OnMtuExceeded.fragment:
        forward = replace(forward, longest=longest)
    if route and route.device in view.by_index and lease is None and to.netns is None:
        refuse_if_set_aside(config, view.by_index[route.device].name, f"the route to {way.remote} leads by it")
    warnings: list[Finding] = []
    if route:
        leaves_by, most = view.by_index.get(route.device), IP_LONGEST[version]
        most = min((leaves_by.most_mtu if leaves_by else 0) or UNBOUNDED, most)
        device = leaves_by.name if leaves_by else f"device {route.device}"
        narrows = Narrows(f"the path MTU to {way.remote}", device, min(route.mtu, IP_LONGEST[version]), most)
        warnings += too_long(asked, forward, narrows)
        if leaves_by is not None:
            warnings += shaping(leaves_by, "outgoing", to.netns)
    blocked, trouble = _stopped(session, way, view)
    forward = replace(forward, blocked=blocked)
    how = choose(session, route, udp=port is not None, native=asked.native)
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
    if trouble := dead(link, way.netns or None):
        return Slot.dropped_link_down, trouble
    if route.silent or (session.transmit == "packet" and route.hop is None):  # which no other socket is to stand in for
        ask = f"{ip} neighbour show dev {link.name if link else route.device}"
        remedy = f"see that it is up and in that network; {ask} tells the state"
        return Slot.dropped_no_route, Finding(ERROR, "next_hop", no_answer(way.remote, route), remedy)
    return None, None


def _template(to: TunnelDestination, *, guest: bool) -> Template:
    match to:
        case VxlanDestination():
            return encap.vxlan(Ids(to.vni, to.vni_egress, guest))
        case GeneveDestination():
            return encap.geneve(Ids(to.vni, to.vni_egress, guest))
        case GreDestination():
            return encap.gre(None if to.key is None else Ids(to.key, to.key_egress, guest))
        case ErspanDestination(session_id=int(session_id), erspan_type="II" | "III"):
            ids = Ids(session_id, to.session_id_egress, guest)
            if to.erspan_type == "II":
                return encap.erspan_ii(ids, cos=to.cos, index=to.index)
            return encap.erspan_iii(ids, cos=to.cos, hardware_id=to.hardware_id, sgt=to.sgt, guest=guest)
        case _:
            return encap.erspan_i()
