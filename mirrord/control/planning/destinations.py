"""A session's destination -> the way out of its copies: which sockets, which header, how long a copy may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from mirrord import model
from mirrord.control.host.view import Lease, Link, View
from mirrord.control.planning.ways_out import device, file, pcap, tunnel
from mirrord.control.planning.ways_out.common import Asked, WayOut
from mirrord.dataplane.forward import encap
from mirrord.model import (
    Config,
    DeviceDestination,
    ErspanDestination,
    FileDestination,
    GeneveDestination,
    GreDestination,
    Model,
    PcapDestination,
    Session,
    VxlanDestination,
)
from mirrord.plans import FlowLimit, ForwardPlan, OnMtuExceeded, Payload


class Kind(NamedTuple):
    """Who plans a kind of destination: `way_out` and `describe` of its file."""

    way_out: Callable[..., WayOut]
    describe: Callable[..., tuple[str, str]]


KINDS: Mapping[type[Model], Kind] = {  # a guest's NIC has been resolved to its device
    DeviceDestination: Kind(device.way_out, device.describe),
    FileDestination: Kind(file.way_out, file.describe),
    PcapDestination: Kind(pcap.way_out, pcap.describe),
    VxlanDestination: Kind(tunnel.way_out, tunnel.describe),
    GeneveDestination: Kind(tunnel.way_out, tunnel.describe),
    GreDestination: Kind(tunnel.way_out, tunnel.describe),
    ErspanDestination: Kind(tunnel.way_out, tunnel.describe),
}


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
        strip_tag=session.destination.original_vlan == "strip",
        tpid=session.destination.vlan_tpid or 0,
    )
    asked = Asked(config, mirror, session, source, view, lease, forward, native)
    return KINDS[type(session.destination)].way_out(asked, session.destination)


def describe(session: Session) -> tuple[str, str]:
    """The destination in words, and how copies are handed to the kernel, as far as that needs no look at the host."""
    return KINDS[type(session.destination)].describe(session, session.destination)


def _flow_limit(limit: model.FlowLimit | None) -> FlowLimit | None:
    if limit is None:
        return None
    return FlowLimit(limit.packets or 0, limit.bytes or 0, limit.then == "headers", limit.idle, limit.flows)
