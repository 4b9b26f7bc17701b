"""What the host's network looks like, read from rtnetlink and kept up to date, and a bell that rings when it changed.

What the kernel announces is not believed, it only tells what to ask about again: a device by its index, default routes,
or everything after announcements were lost. So no state here can drift from the kernel's, a burst about one device is
one question, and a change among 500 devices costs as much as among five.

`Links` asks in a thread of its own. It needs no capability.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import chain
from typing import NamedTuple

from mirrord import kernel
from mirrord.control.host.neighbours import Neighbour, Neighbours
from mirrord.control.host.obstacles import ROUTE_PROTOCOL, obstacle
from mirrord.control.host.offloads import takes_ring, uncut
from mirrord.control.host.rtnetlink import (
    ADDRESS,
    LINK,
    NUMBER,
    ROUTE,
    Announcements,
    Rtnetlink,
    attribute,
    attributes,
    number,
    pairs,
    text,
)
from mirrord.control.host.traits import traits
from mirrord.control.host.view import Link, Path, Route, View
from mirrord.dataplane.netns import enter, inside
from mirrord.plans import Hop, Netns
from mirrord.protocols import ETH_ALEN

# RTMGRP_LINK, _TC, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE, _IPV6_IFADDR, _IPV6_ROUTE, and RTNLGRP_IPV6_RULE, the 19th
GROUPS = 0x1 | 0x8 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18

NOT_SENDING = {1, 2, 3, 4}
"""IF_OPER_NOTPRESENT, _DOWN, _LOWERLAYERDOWN, _TESTING (linux/if.h): what a device is given is dropped silently, also
right after the carrier came, while its queue is not in place. Many have no state (unknown): the carrier alone tells."""
ON_ANOTHER = {"vlan", "macvlan", "macvtap"}
WITHOUT_ETHERNET = {256, 257, 258, 259, 512, 519, 768, 769, 776, 778, 823, 0xFFFE}
"""ARPHRD_SLIP, _CSLIP, _SLIP6, _CSLIP6, _PPP, _RAWIP, _TUNNEL, _TUNNEL6, _SIT, _IPGRE, _IP6GRE, and _NONE, which tun,
WireGuard and XFRM devices have: a packet socket sees their packets from the network header on."""


_NEXT_HOP = struct.Struct("=HBBi")  # length, flags, weight, index (struct rtnexthop)
_VLAN = struct.Struct("=HH")  # flags, id (struct bridge_vlan_info)
_INDEX = struct.Struct("=4xi")  # where links, addresses and struct tcmsg have the device's index

OF_A_DEVICE = {
    kernel.RTM_NEWLINK,
    kernel.RTM_DELLINK,
    kernel.RTM_NEWADDR,
    kernel.RTM_DELADDR,
    kernel.RTM_NEWQDISC,
    kernel.RTM_DELQDISC,
}
"""Announcements that name a device; that another queueing discipline is in place, its own do not tell."""

NO_ROUTES = {
    errno.EACCES: "a route prohibits sending to {}",
    errno.EHOSTUNREACH: "a route says that {} cannot be reached",
    errno.EINVAL: "a blackhole route swallows what is sent to {}",
}
"""What the kernel answers to a question about a route by what is no way, ip-route(8); else there is none."""

AT_ONCE = 100
"""To ask about more devices than this one by one costs as much as to ask about all of a large host's."""


@dataclass(slots=True)
class News:
    """What to ask about again."""

    indexes: set[int] = field(default_factory=set)  # of devices: they themselves and their addresses
    default_routes: bool = False
    everything: bool = False


class Links:
    """The view on request, and a callback when it may have changed.

    Of another network namespace, if one is given. OSError when netlink sockets cannot be opened.
    """

    def __init__(self, netns: Netns | None = None) -> None:
        self._announcements = inside(netns, lambda: Announcements(GROUPS))
        move = None if netns is None else partial(enter, netns)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="links", initializer=move)
        self._neighbours = inside(netns, Neighbours)
        self._news = News(everything=True)
        self._picture: _Picture | None = None  # that thread's
        self._changed: Callable[[], None] = lambda: None
        self._alarm: asyncio.TimerHandle | None = None

    async def read(self, paths: Iterable[Path]) -> View:
        """The network as it is now, with the routes of these paths. OSError when the kernel does not answer."""
        self._hear()
        news, self._news = self._news, News()
        loop = asyncio.get_running_loop()
        try:
            view = await loop.run_in_executor(self._thread, self._read, news, frozenset(paths))
        except BaseException:
            self.doubt()
            raise
        self._cancel_alarm()
        if (seconds := self._neighbours.look_in()) is not None:
            self._alarm = loop.call_later(seconds, self._changed)
        return view

    def _cancel_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def doubt(self) -> None:
        """Ask the kernel about everything at the next reading."""
        self._news.everything = True

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` in the running loop whenever devices, addresses or routes changed."""
        self._changed = changed

        def ring() -> None:
            self._hear()
            changed()

        def ring_if_news() -> None:
            if self._neighbours.changed():
                changed()

        asyncio.get_running_loop().add_reader(self._announcements.fileno(), ring)
        asyncio.get_running_loop().add_reader(self._neighbours.bell.fileno(), ring_if_news)

    async def close(self) -> None:
        """Stop watching and free the sockets and the thread."""
        loop = asyncio.get_running_loop()
        self._cancel_alarm()
        loop.remove_reader(self._announcements.fileno())
        self._announcements.close()
        loop.remove_reader(self._neighbours.bell.fileno())
        self._neighbours.bell.close()
        if self._picture is not None:
            await loop.run_in_executor(self._thread, self._picture.close)
        self._thread.shutdown()

    def _hear(self) -> None:
        news = self._news
        for kind, _flags, _sequence, body in self._announcements.read():
            if kind in OF_A_DEVICE:
                news.indexes.add(_INDEX.unpack_from(body)[0])
            # The kernel says nothing of an IPv4 route that goes with an address.
            if kind == kernel.RTM_DELADDR or (kind in (kernel.RTM_NEWROUTE, kernel.RTM_DELROUTE) and not body[1]):
                news.default_routes = True
        news.everything |= self._announcements.overrun()

    def _read(self, news: News, paths: frozenset[Path]) -> View:
        if self._picture is None:
            self._picture = _Picture(self._neighbours)
        return self._picture.read(news, paths)


class _Picture:
    """What the kernel said last, by one thread. OSError as Rtnetlink."""

    def __init__(self, neighbours: Neighbours) -> None:
        self._netlink = Rtnetlink()
        self._neighbours = neighbours
        self._links: dict[int, Link] = {}  # by index
        self._addresses: dict[int, frozenset[IPv4Address | IPv6Address]] = {}  # by the device's index
        self._default_routes: frozenset[int] = frozenset()
        self._pvids: dict[int, int] = {}  # by index, of bridges that filter VLANs and their ports

    def close(self) -> None:
        self._neighbours.find(self._netlink, {})
        self._netlink.close()

    def read(self, news: News, paths: Collection[Path]) -> View:
        everything = news.everything or len(news.indexes) > AT_ONCE or self._netlink.interrupted
        self._netlink.interrupted = False
        if everything:
            self._ask_all()
        else:
            for index in news.indexes:
                self._ask(index)
        # Nor of one that goes with a device that is down or gone.
        if everything or news.default_routes or news.indexes & self._default_routes:
            self._default_routes = frozenset(_default_routes(self._netlink))
        if everything or news.indexes:
            self._pvids = self._ask_pvids()
        routes, unreached = self._routes(paths)
        links = (replace(link, pvid=self._pvids.get(link.index, 0)) for link in self._links.values())
        return View(
            links={link.name: link for link in links},
            default_routes=self._default_routes,
            routes=routes,
            unreached=unreached,
            addresses=frozenset(chain.from_iterable(self._addresses.values())),
        )

    def _ask_all(self) -> None:
        links = map(_link, self._netlink.dump(kernel.RTM_GETLINK, _link_question()))
        self._links = {link.index: link for link in links}
        found: dict[int, set[IPv4Address | IPv6Address]] = {index: set() for index in self._links}
        for body in self._netlink.dump(kernel.RTM_GETADDR, ADDRESS.pack(0, 0, 0, 0, 0)):
            (index,) = _INDEX.unpack_from(body)
            if index in found:  # else it came after the devices were asked for, and there is news of it
                found[index].update(_usable(body, self._links[index].name))
        self._addresses = {index: frozenset(addresses) for index, addresses in found.items()}

    def _ask(self, index: int) -> None:
        """Ask about one device."""
        try:
            (link,) = map(_link, self._netlink.ask(kernel.RTM_GETLINK, _link_question(index)))
            bodies = self._netlink.dump(kernel.RTM_GETADDR, ADDRESS.pack(0, 0, 0, 0, index))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            self._links.pop(index, None)
            self._addresses.pop(index, None)
        else:
            self._links[index] = link
            self._addresses[index] = frozenset(chain.from_iterable(_usable(body, link.name) for body in bodies))

    def _ask_pvids(self) -> dict[int, int]:
        """Which VLAN what has no tag is of, on bridges that filter VLANs and on their ports."""
        bridges = {link.index for link in self._links.values() if link.traits.vlan_filtering}
        if not bridges:
            return {}
        found = {}
        question = LINK.pack(socket.AF_BRIDGE, 0, 0, 0, 0)
        question += attribute(kernel.IFLA_EXT_MASK, NUMBER.pack(kernel.RTEXT_FILTER_BRVLAN_COMPRESSED))
        for body in self._netlink.dump(kernel.RTM_GETLINK, question):
            index = LINK.unpack_from(body)[2]
            link = self._links.get(index)
            if link is None or not {link.index, link.master} & bridges:
                continue
            for kind, one in pairs(attributes(body, LINK.size).get(kernel.IFLA_AF_SPEC, b"")):
                flags, vlan = _VLAN.unpack(one) if kind == kernel.IFLA_BRIDGE_VLAN_INFO else (0, 0)
                if flags & kernel.BRIDGE_VLAN_INFO_PVID:
                    found[index] = vlan
        return found

    def _routes(self, paths: Collection[Path]) -> tuple[dict[Path, Route], dict[Path, str]]:
        """The routes, and why other paths have none."""
        ways: dict[Path, tuple[_Found, Link, Neighbour]] = {}
        unreached: dict[Path, str] = {}
        for path in paths:
            found = self._ask_route(path)
            if isinstance(found, str):
                unreached[path] = found
            elif link := self._links.get(found.device):
                ways[path] = found, link, Neighbour(link.index, found.gateway or path.remote)
        if not ways:
            return {}, unreached
        special = {path: _special(found, link) for path, (found, link, _) in ways.items()}
        known = self._neighbours.find(
            self._netlink, {hop: self._may_ask(link, hop) for path, (_, link, hop) in ways.items() if not special[path]}
        )
        hindrance = obstacle(self._netlink)
        seen = {link.index: uncut(link, self._links.values()) for _, link, _ in ways.values()}
        routes = {}
        for path, (found, link, hop) in ways.items():
            address = known.get(hop) or (b"" if link.resolves else link.address)
            routes[path] = Route(
                device=link.index,
                mtu=found.mtu or link.mtu,
                source=found.source,
                gateway=found.gateway,
                hop=Hop(link.name, link.index, link.address, address, link.takes_ring)
                if address and not special[path]
                else None,
                obstacle=special[path] or hindrance,
                uncut=seen[link.index],
                silent=not special[path] and self._neighbours.silent(hop),
            )
        return routes, unreached

    def _may_ask(self, link: Link, hop: Neighbour) -> bool:
        """Without a link-local address that is ready, the kernel's question would fail, and come a second later."""
        ready = any(one.version == 6 and one.is_link_local for one in self._addresses.get(link.index, ()))
        return link.resolves and (ip_address(hop.address).version == 4 or ready)

    def _ask_route(self, path: Path) -> _Found | str:
        """The route, or why there is none."""
        remote = ip_address(path.remote)
        family, bits = (socket.AF_INET, 32) if remote.version == 4 else (socket.AF_INET6, 128)
        body = ROUTE.pack(family, bits, bits if path.local else 0, 0, 0, 0, 0, 0, 0) + attribute(
            kernel.RTA_DST, remote.packed
        )
        if path.local:
            body += attribute(kernel.RTA_SRC, ip_address(path.local).packed)
        if path.device:
            body += attribute(kernel.RTA_OIF, NUMBER.pack(path.device))
        body += attribute(kernel.RTA_MARK, NUMBER.pack(path.mark))
        try:
            (answer,) = self._netlink.ask(kernel.RTM_GETROUTE, body)
        except OSError as error:
            if path.local and not any(ip_address(path.local) in one for one in self._addresses.values()):
                return f"{path.local} is not an address of this host: no copies can be sent from it"
            return NO_ROUTES.get(error.errno or 0, "no route to {}").format(path.remote)
        found = attributes(answer, ROUTE.size)
        gateway = (
            found.get(kernel.RTA_GATEWAY) or found.get(kernel.RTA_VIA, b"")[2:]
        )  # struct rtvia begins with the family
        source = found.get(kernel.RTA_PREFSRC)
        return _Found(
            device=number(found.get(kernel.RTA_OIF)),
            mtu=number(attributes(found.get(kernel.RTA_METRICS, b"")).get(kernel.RTAX_MTU)),
            source=str(ip_address(source)) if source else "",
            gateway=str(ip_address(gateway)) if gateway else "",
            unicast=ROUTE.unpack_from(answer)[7] == kernel.RTN_UNICAST,
            encapsulates=kernel.RTA_ENCAP in found,
        )


class _Found(NamedTuple):
    """What the kernel says of one route."""

    device: int
    mtu: int  # what the route, or a router, says; 0 when neither does
    source: str
    gateway: str  # "" when the next hop is the destination itself
    unicast: bool
    encapsulates: bool


def _special(found: _Found, link: Link) -> str:
    """Why a packet socket cannot do what the kernel would with this route; "" when it can."""
    if not found.unicast:
        return "the route does not leave this host"
    if not link.ethernet or len(link.address) != ETH_ALEN:
        return f"{link.name} is not an Ethernet device"
    if found.encapsulates:
        return "the route encapsulates"
    return ""


def _link_question(index: int = 0) -> bytes:
    skip = attribute(kernel.IFLA_EXT_MASK, NUMBER.pack(kernel.RTEXT_FILTER_SKIP_STATS))
    return LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0) + skip


def _link(body: bytes) -> Link:
    _family, kind, index, flags, _change = LINK.unpack_from(body)
    found = attributes(body, LINK.size)
    info = attributes(found.get(kernel.IFLA_LINKINFO, b""))
    bridged = text(info.get(kernel.IFLA_INFO_SLAVE_KIND)) == "bridge"
    port = attributes(info.get(kernel.IFLA_INFO_SLAVE_DATA, b"")) if bridged else {}
    name, device_kind = text(found[kernel.IFLA_IFNAME]), text(info.get(kernel.IFLA_INFO_KIND))
    upper = device_kind in ON_ANOTHER
    return Link(
        name=name,
        index=index,
        mtu=number(found[kernel.IFLA_MTU]),
        up=bool(flags & kernel.IFF_UP),
        ethernet=kind in (kernel.ARPHRD_ETHER, kernel.ARPHRD_LOOPBACK),
        raw=kind in WITHOUT_ETHERNET,
        carrier=bool(flags & kernel.IFF_LOWER_UP) and number(found.get(kernel.IFLA_OPERSTATE)) not in NOT_SENDING,
        loopback=kind == kernel.ARPHRD_LOOPBACK,
        most_mtu=number(found.get(kernel.IFLA_MAX_MTU)),
        kind=device_kind,
        master=number(found.get(kernel.IFLA_MASTER)),
        learning=bool(number(port.get(kernel.IFLA_BRPORT_LEARNING))),
        qdisc=text(found.get(kernel.IFLA_QDISC)),
        lower=number(found.get(kernel.IFLA_LINK)) if upper and kernel.IFLA_LINK_NETNSID not in found else 0,
        address=found.get(kernel.IFLA_ADDRESS, b""),
        resolves=not flags & kernel.IFF_NOARP,
        takes_ring=takes_ring(name, device_kind),
        traits=traits(found, info),
    )


def _default_routes(netlink: Rtnetlink) -> Iterable[int]:
    """The devices of every default route, of either family and in every table, multipath ones included."""
    for body in netlink.dump(kernel.RTM_GETROUTE, ROUTE.pack(*bytes(8), 0)):
        _family, length, _, _, _, protocol, _, kind, _ = ROUTE.unpack_from(body)
        if length or kind != kernel.RTN_UNICAST or protocol == ROUTE_PROTOCOL:
            continue
        found = attributes(body, ROUTE.size)
        if kernel.RTA_OIF in found:
            yield number(found[kernel.RTA_OIF])
        hops = found.get(kernel.RTA_MULTIPATH, b"")
        while hops:
            size, _, _, device = _NEXT_HOP.unpack_from(hops)
            yield device
            hops = hops[size:]


def _usable(body: bytes, device: str) -> Iterable[IPv4Address | IPv6Address]:
    """An address of the host's own, unless it may turn out to be another host's (RFC 4862 5.4)."""
    _family, _length, flags, _scope, _index = ADDRESS.unpack_from(body)
    found = attributes(body, ADDRESS.size)
    flags = number(found[kernel.IFA_FLAGS]) if kernel.IFA_FLAGS in found else flags
    if flags & kernel.IFA_F_TENTATIVE and not flags & kernel.IFA_F_OPTIMISTIC:
        return
    address = ip_address(found.get(kernel.IFA_LOCAL) or found[kernel.IFA_ADDRESS])
    scoped = address.version == 6 and address.is_link_local
    yield ip_address(f"{address}%{device}") if scoped else address
