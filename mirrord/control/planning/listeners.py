"""The tunnels that end here: a session's source -> what to listen for; and which destinations lead to it."""

from __future__ import annotations

from collections.abc import Mapping

from mirrord.control.host.view import AbsentError, Link, View
from mirrord.dataplane.filter.rules import Selection
from mirrord.dataplane.forward import encap
from mirrord.model import (
    Config,
    ErspanDestination,
    ErspanSource,
    GeneveDestination,
    GeneveSource,
    GreDestination,
    GreSource,
    TunnelDestination,
    TunnelSource,
    TzspSource,
    VxlanDestination,
    VxlanSource,
)
from mirrord.plans import ListenPlan, Tunnel
from mirrord.protocols import UDP_HEADER
from mirrord.values.addresses import Address

TZSP_HEADER = 5  # version, type, protocol, and the tag that ends the tags

Named = Mapping[tuple[Tunnel, int, int], tuple[Address, ...]]
"""By tunnel, port and version, the addresses that listeners name."""


def label(source: TunnelSource) -> str:
    """The source in one word, for the metrics: "vxlan:192.0.2.1:4789", "gre:[2001:db8::1]"."""
    local = f"{source.local}" if source.local.version == 4 else f"[{source.local}]"
    tunnel, port, _ = _ends(source)
    return f"{tunnel.name.lower()}:{local}" + (f":{port}" if port else "")


def end(source: TunnelSource, view: View) -> Link:
    """The tunnel as a device, with no MTU: it does not tell how long its frames are.

    Raises AbsentError where the host does not have the address.
    """
    if not source.local.is_unspecified and source.local not in view.addresses:
        raise AbsentError(f"{source.local} is not an address of this host")
    return Link(label(source), index=0, mtu=0)


def overhead(source: TunnelSource) -> int:
    """Bytes of the headers between the outer IP header and the frame, at the least: GRE may have no key, ERSPAN be of
    type I, Geneve without options.
    """
    match source:
        case VxlanSource():
            return UDP_HEADER + len(encap.vxlan(0).header)
        case GeneveSource():
            return UDP_HEADER + len(encap.geneve(0).header)
        case TzspSource():
            return UDP_HEADER + TZSP_HEADER
        case GreSource():
            return len(encap.gre(source.key).header)
        case _:
            return len(encap.erspan_i().header)


def listen_plan(
    named: Named, source: TunnelSource, selection: Selection, buffer_size: int, *, told: bool = False
) -> ListenPlan:
    """What the data plane is to take; `told`: in the direction that is told."""
    tunnel, port, ident = _ends(source)
    elsewhere = named.get((tunnel, port, source.local.version), ()) if source.local.is_unspecified else ()
    return ListenPlan(tunnel, source.local, selection, port, ident, source.allow, elsewhere, buffer_size, told)


def listeners(config: Config) -> Named:
    """The addresses for which sources are there: what comes to one of them is not for who listens at any address.

    So does the kernel choose among UDP sockets, whatever the VNI, key or session id of what comes.
    """
    found: dict[tuple[Tunnel, int, int], set[Address]] = {}
    sources = [session.source for mirror in config.mirrors.values() for session in mirror.active]
    for one in sources:
        if isinstance(one, TunnelSource) and not one.local.is_unspecified:
            tunnel, port, _ = _ends(one)
            found.setdefault((tunnel, port, one.local.version), set()).add(one.local)
    return {end: tuple(sorted(addresses)) for end, addresses in found.items()}


def reaches(destination: TunnelDestination, source: TunnelSource) -> bool:
    """Whether copies to this destination come back in by this source."""
    if destination.netns is not None or source.local not in destination.remote:
        return False
    tunnel, port, ident = _ends(source)
    match destination:
        case VxlanDestination() | GeneveDestination():
            ours = ident in (None, destination.vni, destination.vni_egress)
            same = Tunnel.VXLAN if isinstance(destination, VxlanDestination) else Tunnel.GENEVE
            return (tunnel, port) == (same, destination.port) and ours
        case GreDestination():
            return tunnel is Tunnel.GRE and ident in (None, destination.key, destination.key_egress)
        case ErspanDestination(erspan_type="I"):
            return tunnel is Tunnel.ERSPAN and ident is None
        case ErspanDestination():
            return tunnel is Tunnel.ERSPAN and ident in (None, destination.session_id, destination.session_id_egress)
        case _:
            return False


def _ends(source: TunnelSource) -> tuple[Tunnel, int, int | None]:
    """The tunnel, its UDP port or 0, and its VNI, key or session id."""
    match source:
        case VxlanSource():
            return Tunnel.VXLAN, source.port, source.vni
        case GeneveSource():
            return Tunnel.GENEVE, source.port, source.vni
        case TzspSource():
            return Tunnel.TZSP, source.port, None
        case GreSource():
            return Tunnel.GRE, 0, source.key
        case ErspanSource():
            return Tunnel.ERSPAN, 0, source.session_id
        case _:
            raise TypeError(type(source))
