"""What a packet tap on a source does not see, or sees in an odd form, by what kind of device the source is. Pure.

Each is a fact about the kernel that no counter tells: the session is up, and frames are missing. docs/verifying.md has
what was measured of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mirrord.control.host.view import Link, View
from mirrord.control.planning.finding import WARNING, Finding, tool
from mirrord.control.planning.sources import matches
from mirrord.model import BridgeSource, Config, DeviceSource, FileDestination, Mirror, PcapDestination, Session

XDP = {  # how it is attached: where it runs
    "native": "in native mode (in the driver)",
    "generic": "in generic mode (in the kernel, but before the tap)",
    "offloaded": "offloaded to the NIC",
    "several": "in several modes",
}
BONDS = ("bond", "team")


class BlindSpot(NamedTuple):
    """One of a source's. `bypassed`: frames of the source do not come to the tap at all."""

    finding: Finding
    bypassed: bool


def blind_spots(mirror: Mirror, session: Session, link: Link, view: View) -> Iterator[BlindSpot]:
    """Those of a session on one of its sources; `view` is of the network namespace that the source is in."""
    if not isinstance(session.source, DeviceSource | BridgeSource):
        return  # a tunnel ends in a socket
    if link.traits.xdp:
        yield _xdp(link, getattr(session.source, "netns", None))
    yield from _hardware(session, link)
    yield from _kind(link, view)
    if isinstance(session.source, BridgeSource):
        if link.name == session.source.bridge:
            yield from _bridge(session, link)
    else:
        yield from _seen_twice(mirror, session.source, link, view)


def _xdp(link: Link, netns: str | None) -> BlindSpot:
    problem = (
        f"{link.name} has an XDP program {XDP[link.traits.xdp]}: received frames that it drops, redirects or sends back"
        " never come to the tap, and are not mirrored; those that it passes are, as it leaves them, and so is all that"
        " the device sends otherwise"
    )
    how = {"native": "xdpdrv", "generic": "xdpgeneric", "offloaded": "xdpoffload"}.get(link.traits.xdp, "xdp")
    ip = tool("ip", netns)
    remedy = f"{ip} link set dev {link.name} {how} off, if nothing needs it; else mirror at the other end of the link"
    return _spot("xdp", problem, remedy, bypassed=True)


def _hardware(session: Session, link: Link) -> Iterator[BlindSpot]:
    traits = link.traits
    if traits.functions:
        problem = (
            f"the NIC of {link.name} has {traits.functions} virtual functions (SR-IOV): what its own switch passes to,"
            " from and between them does not come to the tap"
        )
        yield _spot("sriov", problem, "mirror inside their guests, or by the NIC's own port mirroring", bypassed=True)
    promiscuous = isinstance(session.source, DeviceSource) and session.source.promiscuous
    if traits.virtual and (promiscuous or link.master):
        problem = (
            f"{link.name} is a virtual function (SR-IOV): the NIC's switch gives it the frames for its own address, and"
            " others only where it is trusted, promiscuous or not"
        )
        yield _spot("sriov", problem, "`ip link set dev PF vf N trust on`, if its driver knows that", bypassed=True)
    if link.kind == "netkit":
        problem = (
            f"{link.name} is a netkit device: a BPF program decides where its frames go, and those that it redirects"
            " may pass the tap by; mirrord cannot read what it does"
        )
        yield _spot("netkit", problem, "compare with a capture inside the container", bypassed=False)


def _kind(link: Link, view: View) -> Iterator[BlindSpot]:
    if link.kind == "vrf":
        problem = f"{link.name} is a VRF device: what it receives is tapped as sent, so that both directions are egress"
        yield _spot("vrf", problem, "mirror the devices that belong to it, for directions", bypassed=False)
    if link.kind == "ipvlan" and link.traits.mode == "l3s":
        problem = f"{link.name} is an ipvlan device in mode l3s: frames that it receives never come to its tap"
        yield _spot("ipvlan_l3s", problem, "mirror the device that it lies on", bypassed=True)
    if link.index in view.macvlan_parents:
        problem = (
            f"{link.name} has macvlan children: what they send to each other counts as ingress of {link.name}, both"
            " ways, though it is never on the wire"
        )
        yield _spot("macvlan_parent", problem, "nothing, if that is meant; else mirror the children", bypassed=False)


def _bridge(session: Session, link: Link) -> Iterator[BlindSpot]:
    if isinstance(session.destination, FileDestination):
        problem = (
            f"each port of {link.name} has a file of its own, of what comes in by it:"
            " the two directions of a conversation are in two files"
        )
        yield _spot("bridge_files", problem, "`mergecap -w ALL.pcapng FILES` makes one of them", bypassed=False)
    if isinstance(session.destination, PcapDestination):
        problem = (
            f"each port of {link.name} has a queue of its own, of what comes in by it: in the stream an answer"
            " may stand before its question"
        )
        yield _spot("bridge_stream", problem, "`reordercap` puts what was received in order", bypassed=False)


def _seen_twice(mirror: Mirror, source: DeviceSource, link: Link, view: View) -> Iterator[BlindSpot]:
    bond = view.by_index.get(link.master)
    if bond is not None and bond.kind in BONDS and _is_source(mirror, source.netns, bond.name):
        problem = (
            f"{link.name} belongs to {bond.name}, which is a source of the mirror as well: frames are seen on both"
        )
        yield _spot("seen_twice", problem, f"take {bond.name} alone, or its devices alone", bypassed=False)
    lower = view.by_index.get(link.lower)
    if lower is not None and not source.vlan and any(matches(lower.name, pattern) for pattern in source.device):
        problem = f"{link.name} lies on {lower.name}, which is a source of the session as well: frames are seen on both"
        yield _spot("seen_twice", problem, "take one of them, by a narrower pattern", bypassed=False)


def bonds_captured(config: Config, view: View) -> frozenset[tuple[str, str | None, str]]:
    """The bonds that are sources, by mirror, network namespace and name: their devices' frames are seen there, too."""
    there = ((None, view), *view.namespaces.items())
    bonds = [(netns, link.name) for netns, inside in there for link in inside.links.values() if link.kind in BONDS]
    mirrors = config.mirrors.items() if bonds else ()
    return frozenset((name, *bond) for name, mirror in mirrors for bond in bonds if _is_source(mirror, *bond))


def _is_source(mirror: Mirror, netns: str | None, device: str) -> bool:
    """Whether a session of the mirror captures this device of a network namespace."""
    others = (one.source for one in mirror.sessions)
    return any(
        isinstance(other, DeviceSource)
        and other.netns == netns
        and any(matches(device, pattern) for pattern in other.device)
        for other in others
    )


def _spot(code: str, problem: str, remedy: str, *, bypassed: bool) -> BlindSpot:
    return BlindSpot(Finding(WARNING, code, problem, remedy), bypassed)
