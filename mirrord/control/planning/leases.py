"""What of a flow network a plan needs: whether its device may be used, and the address that was taken on it. Pure."""

from __future__ import annotations

from mirrord.control.host.view import AbsentError, Lease, Link, View
from mirrord.errors import Refused
from mirrord.model import Config, FlowNetwork


def lease(config: Config, mirror: str, view: View) -> Lease | None:
    """What a mirror's copies are to be bound to; None without a flow network.

    Raises AbsentError while there is none to be had, Refused where the device must not be used.
    """
    name = config.mirrors[mirror].flow_network
    if name is None:
        return None
    device(config.flow_networks[name], view)
    found = view.leases.get(name, Lease(reason=f"flow network {name}: looking for a free address"))
    if not found.address:
        raise AbsentError(found.reason)
    return found


def refuse_if_set_aside(config: Config, used: str, what: str) -> None:
    """Refused when a flow network has set this device aside; `what` says what else it would be used for."""
    for name, network in config.flow_networks.items():
        if network.device == used:
            raise Refused(f"{used} is set aside for the copies of flow network {name!r} alone, but {what}")


def device(network: FlowNetwork, view: View) -> Link:
    """The network's device. AbsentError, Refused as `lease`."""
    link = view.ethernet(network.device)
    if link.index in view.default_routes:
        raise Refused(f"{network.device} holds a default route of this host, it cannot be set aside for copies")
    if not link.up:
        raise AbsentError(f"device is down: {network.device}")
    return link
