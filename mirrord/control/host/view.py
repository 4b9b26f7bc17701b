"""The host's network at one moment as pure values; links.py reads them from the kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from mirrord.errors import Refused
from mirrord.plans import Hop, Netns


class AbsentError(Exception):
    """The host does not have yet what is asked of it. `code` and `remedy` are a finding's, where it has its own."""

    def __init__(self, problem: str, code: str = "", remedy: str = "") -> None:
        super().__init__(problem)
        self.code, self.remedy = code, remedy


class Traits(NamedTuple):
    """Of one device; most devices have none."""

    mode: str = ""  # of a macvlan, macvtap or ipvlan, as `ip -d link` names it
    xdp: str = ""  # how an XDP program is attached: native, generic, offloaded, several; "": none is
    vlan_filtering: bool = False  # a bridge with VLANs of its own, of 802.1Q tags
    functions: int = 0  # SR-IOV: how many virtual functions the NIC has
    virtual: bool = False  # SR-IOV: a virtual function itself
    multipoint: bool = False  # a GRE device without a remote of its own: its packets begin with the outer headers
    taken_off: str = ""  # the bridge that mirrord took it off, while it is a destination


NO_TRAITS = Traits()


@dataclass(frozen=True, slots=True)
class Link:
    """One network device."""

    name: str
    index: int
    mtu: int
    up: bool = True
    ethernet: bool = True  # its frames begin with an Ethernet header
    raw: bool = False  # they begin with their network header: IP packets
    kind: str = ""  # as `ip -d link` names it: veth, bridge, ...; "" for a hardware NIC
    master: int = 0  # index of the bridge or bond it belongs to
    learning: bool = False  # a bridge port that learns addresses from what arrives
    qdisc: str = ""
    lower: int = 0  # index of the device that a VLAN, macvlan or macvtap lies on, in the same network namespace
    address: bytes = b""
    resolves: bool = True  # asks for the addresses of next hops
    carrier: bool = True  # what leaves by it gets somewhere
    loopback: bool = False
    pvid: int = 0  # of a bridge with VLANs of its own, or its port: the one of what comes in without a tag; 0: none
    most_mtu: int = 0  # the largest that its driver takes; 0: unknown
    takes_ring: bool = False  # takes packets out of a TX ring as they are
    traits: Traits = NO_TRAITS


class Path(NamedTuple):
    """A way out that copies take: where to, from which local address ("": the kernel chooses), with which mark."""

    remote: str
    local: str
    mark: int
    device: int = 0  # index of the one that it must leave by; 0: the kernel chooses
    netns: str = ""  # in which network namespace, as the configuration names it; "": the daemon's


class Collector(NamedTuple):
    """Who is at the end of a path, and how it is known whether it is there: `liveness` as in the configuration."""

    path: Path
    liveness: str
    protocol: int  # of IP, that copies take,
    port: int = 0  # and their UDP port


class Silence(NamedTuple):
    """Why a collector is taken for dead. `over`: it is there again, and is waited for a while whether it stays."""

    reason: str
    over: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """The kernel's answer for a path."""

    device: int  # index
    mtu: int  # bytes of an IP packet
    source: str = ""  # the address that the kernel sends from
    gateway: str = ""  # "" when the next hop is the destination itself
    hop: Hop | None = None  # where a packet socket has to send
    obstacle: str = "not looked for"  # why a packet socket must not be used; "" when it may
    uncut: str = "not looked for"  # who would see a datagram of many segments; "" when nobody can
    silent: bool = False  # the next hop was asked for its address, and has not answered for a while


class Lease(NamedTuple):
    """What a flow network has taken, or why it has nothing; `in_use`: others on the link have all its addresses."""

    device: str = ""
    device_index: int = 0
    address: str = ""
    reason: str = ""
    in_use: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """The host's network at one moment."""

    links: Mapping[str, Link] = field(default_factory=dict)  # by name
    default_routes: frozenset[int] = frozenset()  # indexes of the devices that hold one
    routes: Mapping[Path, Route] = field(default_factory=dict)  # of the paths asked for; without those that have none
    unreached: Mapping[Path, str] = field(default_factory=dict)  # those that have none, and why
    addresses: frozenset[IPv4Address | IPv6Address] = frozenset()  # that can be used; link-local ones name their device
    silent: Mapping[Collector, Silence] = field(default_factory=dict)  # those that are taken for dead
    leases: Mapping[str, Lease] = field(default_factory=dict)  # of the flow networks, by name
    netns: Netns | None = None  # None: the daemon's own, by whatever name
    namespaces: Mapping[str, View] = field(default_factory=dict)  # the others, as the configuration names them
    barred: Mapping[str, str] = field(default_factory=dict)  # namespaces that are there and cannot be entered, and why
    by_index: Mapping[int, Link] = field(init=False, repr=False, compare=False)  # the links again
    macvlan_parents: frozenset[int] = field(
        init=False, repr=False, compare=False
    )  # indexes; of children in bridge mode

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_index", {link.index: link for link in self.links.values()})
        parents = frozenset(link.lower for link in self.links.values() if link.lower and link.traits.mode == "bridge")
        object.__setattr__(self, "macvlan_parents", parents)

    def inside(self, name: str | None) -> View:
        """What is in this namespace; None: in the daemon's. AbsentError, Refused where it cannot be had."""
        if name is None:
            return self
        if name in self.barred:
            raise Refused(f"network namespace {name}: {self.barred[name]}")
        if name not in self.namespaces:
            raise AbsentError(f"no such network namespace: {name}")
        return self.namespaces[name]

    def ethernet(self, name: str) -> Link:
        """A device that frames can leave by. AbsentError when it may come later, Refused when it is of another kind."""
        link = self.links.get(name)
        if link is None:
            raise AbsentError(f"no such device: {name}", "device_missing", "create it, or change the session")
        if not link.ethernet:
            raise Refused(f"{name} is not an Ethernet device")
        return link
