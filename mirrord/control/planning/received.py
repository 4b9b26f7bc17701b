"""Tunnels that end in a flow network -> the same by the address that this host has there. Pure.

While the flow network has no address the session waits, as for a guest that is not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mirrord.control.host.view import Lease, View
from mirrord.control.planning.finding import WARNING, Finding
from mirrord.control.planning.guests import Absent, Resolved
from mirrord.control.planning.listeners import overhead
from mirrord.model import Config, DeviceDestination, DeviceSource, Mirror, Session, TunnelSource
from mirrord.protocols import ETH_HEADER, IPV4_HEADER, IPV6_HEADER
from mirrord.values.addresses import parse_address

NOT_YET = "looking for a free address"


def resolve(before: Resolved, leases: Mapping[str, Lease]) -> Resolved:
    """The configuration by addresses; the very same object where no session receives by a flow network."""
    config = before.config
    absent: dict[tuple[str, str], tuple[Absent, ...]] = {}
    mirrors = {
        name: mirror
        if not (mirror.enabled and any(_flow_network(one) for one in mirror.sessions))
        else _mirror(name, mirror, config, leases, absent)
        for name, mirror in config.mirrors.items()
    }
    if all(mirror is config.mirrors[name] for name, mirror in mirrors.items()):
        return before
    absent = {**absent, **before.absent}
    return replace(before, config=config.model_copy(update={"mirrors": mirrors}), absent=absent)


def too_narrow(config: Config, session: Session, view: View) -> list[Finding]:
    """A warning where the flow network that a session receives by does not carry the frames of its destination: those
    of a NIC that is mirrored to it are most likely as long.
    """
    to, name = session.destination, _flow_network(session)
    if not name or not isinstance(to, DeviceDestination):
        return []
    there = view.inside(to.netns).links.get(to.device)
    device = view.links.get(config.flow_networks[name].device)
    if there is None or device is None:
        return []
    ip = IPV4_HEADER if config.flow_networks[name].addresses.network.version == 4 else IPV6_HEADER
    assert isinstance(session.source, TunnelSource)  # it has a flow network
    carried, full = device.mtu - ip - overhead(session.source), there.mtu + ETH_HEADER
    if carried >= full:
        return []
    problem = (
        f"the MTU of {device.name}, {device.mtu}, by which flow network {name} has copies come, carries frames of"
        f" {carried} bytes, but those of {there.name} have up to {full}: senders cut, fragment or drop longer ones"
    )
    needed = device.mtu + full - carried
    remedy = f"ip link set {device.name} mtu {needed}, and the same on every host of the flow network"
    return [Finding(WARNING, "mtu", problem, remedy)]


def _flow_network(session: Session) -> str:
    return (session.source.flow_network or "") if isinstance(session.source, TunnelSource) else ""


def _mirror(
    name: str,
    mirror: Mirror,
    config: Config,
    leases: Mapping[str, Lease],
    absent: dict[tuple[str, str], tuple[Absent, ...]],
) -> Mirror:
    sessions = []
    for session in mirror.sessions:
        network = _flow_network(session)
        lease = leases.get(network)
        if not network:
            sessions.append(session)
        elif lease is not None and lease.address:
            source = session.source
            assert isinstance(source, TunnelSource)  # it has a flow network
            allow = source.allow or (config.flow_networks[network].addresses.network,)
            update = {"local": parse_address(lease.address), "allow": allow}
            sessions.append(session.model_copy(update={"source": source.model_copy(update=update)}))
        else:
            kind = getattr(session.source, "type", "")
            reason = lease.reason if lease is not None else NOT_YET
            absent[name, session.name] = (Absent(f"{kind}:{network}", "waiting", f"flow network {network}: {reason}"),)
            nothing = DeviceSource.model_construct(type="device", device=(), perspective="host", promiscuous=False)
            sessions.append(session.model_copy(update={"source": nothing}))
    return mirror.model_copy(update={"sessions": tuple(sessions)})
