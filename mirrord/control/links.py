"""What the host's network looks like, read from rtnetlink, and a bell that rings when it changed.

A change is not followed message by message: the bell only says that something happened, and the whole view is read
again, so that no state here can drift from the kernel's. Nor can it be lost: the kernel drops a message only while the
queue holds others, and what empties the queue has everything read afterwards. (Hence NETLINK_NO_ENOBUFS: that error
would say nothing new, and uvloop stops watching a socket that has one.)

`Links` reads in a thread of its own, because pyroute2 drives a standard asyncio loop inside each call and so cannot be
called from the control plane's uvloop. It needs no capability.

https://docs.kernel.org/userspace-api/netlink/intro.html, rtnetlink(7)
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, NamedTuple

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from mirrord.control.neighbours import Neighbour, Neighbours
from mirrord.control.obstacles import ROUTE_PROTOCOL, obstacle
from mirrord.control.offloads import uncut
from mirrord.dataplane.netns import Netns, enter, inside
from mirrord.dataplane.transmit import Hop
from mirrord.errors import Refused

SOL_NETLINK, NETLINK_NO_ENOBUFS = 270, 5  # linux/socket.h, linux/netlink.h; the socket module has no names for these
IFF_UP = 1  # netdevice(7)
ARPHRD_ETHER, ARPHRD_LOOPBACK = 1, 772  # linux/if_arp.h
ETH_ALEN = 6
RTN_UNICAST = 1  # rtnetlink(7)
IFF_NOARP = 0x80
IFA_F_OPTIMISTIC, IFA_F_TENTATIVE = 0x04, 0x40  # linux/if_addr.h
RTEXT_FILTER_SKIP_STATS = 8  # linux/rtnetlink.h
# rtnetlink(7): RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE, _IPV6_IFADDR, _IPV6_ROUTE
GROUPS = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400


class AbsentError(Exception):
    """The host does not have yet what is asked of it."""


@dataclass(frozen=True, slots=True)
class Link:
    """One network device."""

    name: str
    index: int
    mtu: int
    up: bool = True
    ethernet: bool = True  # its frames begin with an Ethernet header
    kind: str = ""  # as `ip -d link` names it: veth, bridge, ...; "" for a hardware NIC
    master: int = 0  # index of the bridge or bond it belongs to
    learning: bool = False  # a bridge port that learns addresses from what arrives
    qdisc: str = ""
    lower: int = 0  # index of the device that a VLAN lies on
    address: bytes = b""
    resolves: bool = True  # asks for the addresses of next hops


class Path(NamedTuple):
    """A way out that copies take: where to, from which local address ("": the kernel chooses), with which mark."""

    remote: str
    local: str
    mark: int
    device: int = 0  # index of the one that it must leave by; 0: the kernel chooses
    netns: str = ""  # in which network namespace, as the configuration names it; "": the daemon's


@dataclass(frozen=True, slots=True)
class Route:
    """The kernel's answer for a path."""

    device: int  # index
    mtu: int  # bytes of an IP packet
    source: str = ""  # the address that the kernel sends from
    hop: Hop | None = None  # where a packet socket has to send
    obstacle: str = "not looked for"  # why a packet socket must not be used; "" when it may
    uncut: str = "not looked for"  # who would see a datagram of many segments; "" when nobody can


class Lease(NamedTuple):
    """What a flow network has taken, or why it has nothing."""

    device: str = ""
    device_index: int = 0
    address: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """The host's network at one moment."""

    links: Mapping[str, Link] = field(default_factory=dict)  # by name
    default_routes: frozenset[int] = frozenset()  # indexes of the devices that hold one
    routes: Mapping[Path, Route] = field(default_factory=dict)  # of the paths asked for; without those that have none
    addresses: frozenset[IPv4Address | IPv6Address] = frozenset()  # that can be used; link-local ones name their device
    leases: Mapping[str, Lease] = field(default_factory=dict)  # of the flow networks, by name
    netns: Netns | None = None  # None: the daemon's own
    namespaces: Mapping[str, View] = field(default_factory=dict)  # the others, as the configuration names them
    barred: Mapping[str, str] = field(default_factory=dict)  # namespaces that are there and cannot be entered, and why

    def inside(self, name: str | None) -> View:
        """What is in this namespace; None: in the daemon's. AbsentError, Refused where it cannot be had."""
        if name is None:
            return self
        if name in self.barred:
            raise Refused(f"network namespace {name}: {self.barred[name]}")
        if name not in self.namespaces:
            raise AbsentError(f"no such network namespace: {name}")
        return self.namespaces[name]


class Links:
    """The view on request, and a callback when it may have changed.

    Of another network namespace, if one is given. OSError when netlink sockets cannot be had.
    """

    def __init__(self, netns: Netns | None = None) -> None:
        self._bell = inside(netns, _netlink_socket)
        move = None if netns is None else partial(enter, netns)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="links", initializer=move)
        self._netlink: IPRoute | None = None
        self._bell.setsockopt(SOL_NETLINK, NETLINK_NO_ENOBUFS, 1)
        self._bell.bind((0, GROUPS))
        self._neighbours = inside(netns, Neighbours)

    async def read(self, paths: Iterable[Path]) -> View:
        """The network as it is now, with the routes of these paths."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, frozenset(paths))

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` in the running loop whenever devices, addresses or routes changed."""

        def ring() -> None:
            with suppress(BlockingIOError):
                while self._bell.recv(1):  # which change it was, `read` will tell
                    pass
            changed()

        def ring_if_news() -> None:
            if self._neighbours.changed():
                changed()

        asyncio.get_running_loop().add_reader(self._bell.fileno(), ring)
        asyncio.get_running_loop().add_reader(self._neighbours.bell.fileno(), ring_if_news)

    async def close(self) -> None:
        """Stop watching and free the sockets and the thread."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._bell.fileno())
        self._bell.close()
        loop.remove_reader(self._neighbours.bell.fileno())
        self._neighbours.bell.close()
        if self._netlink is not None:
            await loop.run_in_executor(self._thread, self._let_go, self._netlink)
        self._thread.shutdown()

    def _read(self, paths: frozenset[Path]) -> View:
        if self._netlink is None:
            self._netlink = IPRoute()
        links = [_link(message) for message in self._netlink.get_links(ext_mask=RTEXT_FILTER_SKIP_STATS)]
        by_index = {link.index: link for link in links}
        addresses = frozenset(_addresses(self._netlink, {link.index: link.name for link in links}))
        return View(
            links={link.name: link for link in links},
            default_routes=frozenset(_default_routes(self._netlink)),
            routes=self._routes(self._netlink, paths, by_index, addresses),
            addresses=addresses,
        )

    def _routes(
        self,
        netlink: IPRoute,
        paths: Iterable[Path],
        links: Mapping[int, Link],
        addresses: Iterable[IPv4Address | IPv6Address],
    ) -> dict[Path, Route]:
        # Without a link-local address that is ready, the kernel's question would fail, and be repeated after a second.
        askers = {address.scope_id for address in addresses if isinstance(address, IPv6Address)}
        ways, wanted = {}, {}
        for path in paths:
            message = _route(netlink, path)
            if message is None or (link := links.get(message.get_attr("RTA_OIF"))) is None:
                continue
            hop = Neighbour(link.index, _gateway(message) or path.remote)
            ways[path] = message, link, hop
            if not _special(message, link):
                wanted[hop] = link.resolves and (ip_address(hop.address).version == 4 or link.name in askers)
        known = self._neighbours.find(netlink, wanted)
        families = (socket.AF_INET, socket.AF_INET6) if ways else ()
        hindrance = obstacle(rule for family in families for rule in netlink.get_rules(family=family)) if ways else ""
        seen = {link.index: uncut(link, links.values()) for _, link, _ in ways.values()}
        routes = {}
        for path, (message, link, hop) in ways.items():
            address = known.get(hop) or (b"" if link.resolves else link.address)
            special = _special(message, link)
            routes[path] = Route(
                device=link.index,
                mtu=_mtu(message) or link.mtu,
                source=message.get_attr("RTA_PREFSRC") or "",
                hop=Hop(link.name, link.index, link.address, address) if address and not special else None,
                obstacle=special or hindrance,
                uncut=seen[link.index],
            )
        return routes

    def _let_go(self, netlink: IPRoute) -> None:
        self._neighbours.find(netlink, {})
        netlink.close()


def _netlink_socket() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)


def _link(message: Any) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    port = info.get_attr("IFLA_INFO_SLAVE_DATA") if info and info.get_attr("IFLA_INFO_SLAVE_KIND") == "bridge" else None
    return Link(
        name=message.get_attr("IFLA_IFNAME"),
        index=message["index"],
        mtu=message.get_attr("IFLA_MTU"),
        up=bool(message["flags"] & IFF_UP),
        ethernet=message["ifi_type"] in (ARPHRD_ETHER, ARPHRD_LOOPBACK),
        kind=(info and info.get_attr("IFLA_INFO_KIND")) or "",
        master=message.get_attr("IFLA_MASTER") or 0,
        learning=bool(port and port.get_attr("IFLA_BRPORT_LEARNING")),
        qdisc=message.get_attr("IFLA_QDISC") or "",
        lower=(message.get_attr("IFLA_LINK") or 0) if info and info.get_attr("IFLA_INFO_KIND") == "vlan" else 0,
        address=bytes.fromhex((message.get_attr("IFLA_ADDRESS") or "").replace(":", "")),
        resolves=not message["flags"] & IFF_NOARP,
    )


def _default_routes(netlink: IPRoute) -> Iterable[int]:
    """The devices of every default route, of either family and in every table, multipath ones included."""
    for family in (socket.AF_INET, socket.AF_INET6):
        for message in netlink.get_routes(family=family):
            if message["dst_len"] or message["type"] != RTN_UNICAST or message["proto"] == ROUTE_PROTOCOL:
                continue
            if (device := message.get_attr("RTA_OIF")) is not None:
                yield device
            for hop in message.get_attr("RTA_MULTIPATH") or ():
                yield hop["oif"]


def _addresses(netlink: IPRoute, names: Mapping[int, str]) -> Iterable[IPv4Address | IPv6Address]:
    """The host's own addresses, without those that may turn out to be another host's (RFC 4862 5.4)."""
    for message in netlink.get_addr():
        flags = message.get_attr("IFA_FLAGS") or message["flags"]
        if flags & IFA_F_TENTATIVE and not flags & IFA_F_OPTIMISTIC:
            continue
        text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        address = ip_address(text)
        scoped = address.version == 6 and address.is_link_local
        yield ip_address(f"{text}%{names.get(message['index'], '')}") if scoped else address


def _route(netlink: IPRoute, path: Path) -> Any:
    """The kernel's answer; None when there is no route."""
    family = socket.AF_INET if ip_address(path.remote).version == 4 else socket.AF_INET6
    question = {"family": family, "dst": path.remote, "mark": path.mark} | ({"src": path.local} if path.local else {})
    question |= {"oif": path.device} if path.device else {}
    try:
        return next(iter(netlink.route("get", **question)))
    except NetlinkError:
        return None


def _mtu(message: Any) -> int:
    """What the route, or a router, says; 0 when neither does."""
    metrics = message.get_attr("RTA_METRICS")
    return (metrics and metrics.get_attr("RTAX_MTU")) or 0


def _gateway(message: Any) -> str:
    """The next hop's address; "" when that is the destination itself."""
    via = message.get_attr("RTA_VIA")
    return message.get_attr("RTA_GATEWAY") or (via["addr"] if via else "")


def _special(message: Any, link: Link) -> str:
    """Why a packet socket cannot do what the kernel would with this route; "" when it can."""
    if message["type"] != RTN_UNICAST:
        return "the route does not leave this host"
    if not link.ethernet or len(link.address) != ETH_ALEN:
        return f"{link.name} is not an Ethernet device"
    if message.get_attr("RTA_ENCAP"):
        return "the route encapsulates"
    return ""
