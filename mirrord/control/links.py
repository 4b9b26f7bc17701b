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
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import chain
from typing import NamedTuple

from mirrord.control.rtnetlink import Announcements, Rtnetlink, attribute, attributes, number, text
from mirrord.dataplane.netns import Netns, enter, inside
from mirrord.errors import Refused

# linux/rtnetlink.h
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTA_DST, RTA_SRC, RTA_OIF, RTA_PREFSRC, RTA_METRICS, RTA_MULTIPATH, RTA_MARK = 1, 2, 4, 7, 8, 9, 16
RTAX_MTU = 2
RTN_UNICAST = 1
ROUTE_PROTOCOL = 109  # of our own rules and routes; not one of linux/rtnetlink.h
RTEXT_FILTER_SKIP_STATS = 8
# RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE, _IPV6_IFADDR, _IPV6_ROUTE, and RTNLGRP_IPV6_RULE, the 19th
GROUPS = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18

# linux/if_link.h
IFLA_IFNAME, IFLA_MTU, IFLA_QDISC, IFLA_MASTER, IFLA_LINKINFO, IFLA_EXT_MASK = 3, 4, 6, 10, 18, 29
IFLA_INFO_KIND, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 4, 5
IFLA_BRPORT_LEARNING = 8
IFF_UP = 1  # netdevice(7)
ARPHRD_ETHER, ARPHRD_LOOPBACK = 1, 772  # linux/if_arp.h

# linux/if_addr.h
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_OPTIMISTIC, IFA_F_TENTATIVE = 0x04, 0x40

_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change (struct ifinfomsg)
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index (struct ifaddrmsg)
_ROUTE = struct.Struct("=8BI")  # family, lengths of destination and source, tos, table, protocol, scope, type, flags
_NEXT_HOP = struct.Struct("=HBBi")  # length, flags, weight, index (struct rtnexthop)
_INDEX = struct.Struct("=4xi")  # where links and addresses both have the device's index
_NUMBER = struct.Struct("=I")

AT_ONCE = 100
"""To ask about more devices than this one by one costs as much as to ask about all of a large host's."""


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
    by_index: Mapping[int, Link] = field(init=False, repr=False, compare=False)  # the links again

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_index", {link.index: link for link in self.links.values()})

    def inside(self, name: str | None) -> View:
        """What is in this namespace; None: in the daemon's. AbsentError, Refused where it cannot be had."""
        if name is None:
            return self
        if name in self.barred:
            raise Refused(f"network namespace {name}: {self.barred[name]}")
        if name not in self.namespaces:
            raise AbsentError(f"no such network namespace: {name}")
        return self.namespaces[name]


@dataclass(slots=True)
class News:
    """What to ask about again."""

    indexes: set[int] = field(default_factory=set)  # of devices: they themselves and their addresses
    default_routes: bool = False
    everything: bool = False


class Links:
    """The view on request, and a callback when it may have changed.

    Of another network namespace, if one is given. OSError when netlink sockets cannot be had.
    """

    def __init__(self, netns: Netns | None = None) -> None:
        self._announcements = inside(netns, lambda: Announcements(GROUPS))
        move = None if netns is None else partial(enter, netns)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="links", initializer=move)
        self._news = News(everything=True)
        self._picture: _Picture | None = None  # that thread's

    async def read(self, paths: Iterable[Path]) -> View:
        """The network as it is now, with the routes of these paths. OSError when the kernel does not answer."""
        self._hear()
        news, self._news = self._news, News()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, news, frozenset(paths))
        except BaseException:
            self.doubt()
            raise

    def doubt(self) -> None:
        """Have the next reading ask about everything."""
        self._news.everything = True

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` in the running loop whenever devices, addresses or routes changed."""

        def ring() -> None:
            self._hear()
            changed()

        asyncio.get_running_loop().add_reader(self._announcements.fileno(), ring)

    async def close(self) -> None:
        """Stop watching and free the sockets and the thread."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._announcements.fileno())
        self._announcements.close()
        if self._picture is not None:
            await loop.run_in_executor(self._thread, self._picture.close)
        self._thread.shutdown()

    def _hear(self) -> None:
        news = self._news
        for kind, _flags, _sequence, body in self._announcements.read():
            if kind in (RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR):
                news.indexes.add(_INDEX.unpack_from(body)[0])
            # The kernel says nothing of an IPv4 route that goes with an address.
            if kind == RTM_DELADDR or (kind in (RTM_NEWROUTE, RTM_DELROUTE) and not body[1]):
                news.default_routes = True
        news.everything |= self._announcements.overrun()

    def _read(self, news: News, paths: frozenset[Path]) -> View:
        if self._picture is None:
            self._picture = _Picture()
        return self._picture.read(news, paths)


class _Picture:
    """What the kernel said last, by one thread. OSError as Rtnetlink."""

    def __init__(self) -> None:
        self._netlink = Rtnetlink()
        self._links: dict[int, Link] = {}  # by index
        self._addresses: dict[int, frozenset[IPv4Address | IPv6Address]] = {}  # by the device's index
        self._default_routes: frozenset[int] = frozenset()

    def close(self) -> None:
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
        return View(
            links={link.name: link for link in self._links.values()},
            default_routes=self._default_routes,
            routes={path: route for path in paths if (route := self._route(path)) is not None},
            addresses=frozenset(chain.from_iterable(self._addresses.values())),
        )

    def _ask_all(self) -> None:
        links = map(_link, self._netlink.dump(RTM_GETLINK, _link_question()))
        self._links = {link.index: link for link in links}
        found: dict[int, set[IPv4Address | IPv6Address]] = {index: set() for index in self._links}
        for body in self._netlink.dump(RTM_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0)):
            (index,) = _INDEX.unpack_from(body)
            if index in found:  # else it came after the devices were asked for, and there is news of it
                found[index].update(_usable(body, self._links[index].name))
        self._addresses = {index: frozenset(addresses) for index, addresses in found.items()}

    def _ask(self, index: int) -> None:
        """Ask about one device."""
        try:
            (link,) = map(_link, self._netlink.ask(RTM_GETLINK, _link_question(index)))
            bodies = self._netlink.dump(RTM_GETADDR, _ADDRESS.pack(0, 0, 0, 0, index))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            self._links.pop(index, None)
            self._addresses.pop(index, None)
        else:
            self._links[index] = link
            self._addresses[index] = frozenset(chain.from_iterable(_usable(body, link.name) for body in bodies))

    def _route(self, path: Path) -> Route | None:
        remote = ip_address(path.remote)
        family, bits = (socket.AF_INET, 32) if remote.version == 4 else (socket.AF_INET6, 128)
        body = _ROUTE.pack(family, bits, bits if path.local else 0, 0, 0, 0, 0, 0, 0) + attribute(
            RTA_DST, remote.packed
        )
        if path.local:
            body += attribute(RTA_SRC, ip_address(path.local).packed)
        if path.device:
            body += attribute(RTA_OIF, _NUMBER.pack(path.device))
        body += attribute(RTA_MARK, _NUMBER.pack(path.mark))
        try:
            (answer,) = self._netlink.ask(RTM_GETROUTE, body)
        except OSError:
            return None
        found = attributes(answer, _ROUTE.size)
        device = number(found.get(RTA_OIF))
        mtu = number(attributes(found.get(RTA_METRICS, b"")).get(RTAX_MTU))
        if not mtu and device in self._links:
            mtu = self._links[device].mtu
        source = found.get(RTA_PREFSRC)
        return Route(device, mtu, str(ip_address(source)) if source else "")


def _link_question(index: int = 0) -> bytes:
    skip = attribute(IFLA_EXT_MASK, _NUMBER.pack(RTEXT_FILTER_SKIP_STATS))
    return _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0) + skip


def _link(body: bytes) -> Link:
    _family, kind, index, flags, _change = _LINK.unpack_from(body)
    found = attributes(body, _LINK.size)
    info = attributes(found.get(IFLA_LINKINFO, b""))
    bridged = text(info.get(IFLA_INFO_SLAVE_KIND)) == "bridge"
    port = attributes(info.get(IFLA_INFO_SLAVE_DATA, b"")) if bridged else {}
    return Link(
        name=text(found[IFLA_IFNAME]),
        index=index,
        mtu=number(found[IFLA_MTU]),
        up=bool(flags & IFF_UP),
        ethernet=kind in (ARPHRD_ETHER, ARPHRD_LOOPBACK),
        kind=text(info.get(IFLA_INFO_KIND)),
        master=number(found.get(IFLA_MASTER)),
        learning=bool(number(port.get(IFLA_BRPORT_LEARNING))),
        qdisc=text(found.get(IFLA_QDISC)),
    )


def _default_routes(netlink: Rtnetlink) -> Iterable[int]:
    """The devices of every default route, of either family and in every table, multipath ones included."""
    for body in netlink.dump(RTM_GETROUTE, _ROUTE.pack(*bytes(8), 0)):
        _family, length, _, _, _, protocol, _, kind, _ = _ROUTE.unpack_from(body)
        if length or kind != RTN_UNICAST or protocol == ROUTE_PROTOCOL:
            continue
        found = attributes(body, _ROUTE.size)
        if RTA_OIF in found:
            yield number(found[RTA_OIF])
        hops = found.get(RTA_MULTIPATH, b"")
        while hops:
            size, _, _, device = _NEXT_HOP.unpack_from(hops)
            yield device
            hops = hops[size:]


def _usable(body: bytes, device: str) -> Iterable[IPv4Address | IPv6Address]:
    """An address of the host's own, unless it may turn out to be another host's (RFC 4862 5.4)."""
    _family, _length, flags, _scope, _index = _ADDRESS.unpack_from(body)
    found = attributes(body, _ADDRESS.size)
    flags = number(found[IFA_FLAGS]) if IFA_FLAGS in found else flags
    if flags & IFA_F_TENTATIVE and not flags & IFA_F_OPTIMISTIC:
        return
    address = ip_address(found.get(IFA_LOCAL) or found[IFA_ADDRESS])
    scoped = address.version == 6 and address.is_link_local
    yield ip_address(f"{address}%{device}") if scoped else address
