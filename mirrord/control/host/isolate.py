"""Destination devices taken off their bridge (`isolate`): copies that come back by a bridge's port would mislead it.

Where a port was is recorded before it is taken off, in alternative names of the port itself: they last as long as the
device does, whatever becomes of the daemon, and the next start finds them. One says of which bridge
(mirrord-INDEX-of-BRIDGE), the others hold the port's settings and VLANs, which the kernel forgets. The index is in them
because no two devices may have the same name. Of a port's forwarding and multicast tables nothing is kept.

A port is given back only where nobody has moved it to another place meanwhile.

bridge(8), ip-link(8); linux/if_link.h, linux/if_bridge.h, linux/rtnetlink.h
"""

from __future__ import annotations

import base64
import errno
import re
import socket
import struct
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from mirrord import kernel
from mirrord.control.host.rtnetlink import LINK, NUMBER, Rtnetlink, attribute, attributes, number, pairs, text

SETTINGS = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 25, 27, 28, 29, 30, 31, 32, 33, 34, 39, 40, 42, 43)
"""IFLA_BRPORT_PRIORITY, _COST, _MODE, _GUARD, _PROTECT, _FAST_LEAVE, _LEARNING, _UNICAST_FLOOD, _PROXYARP,
_PROXYARP_WIFI, _MULTICAST_ROUTER, _MCAST_FLOOD, _MCAST_TO_UCAST, _VLAN_TUNNEL, _BCAST_FLOOD, _GROUP_FWD_MASK,
_NEIGH_SUPPRESS, _ISOLATED, _BACKUP_PORT, _LOCKED, _MAB, _MCAST_MAX_GROUPS, _NEIGH_VLAN_SUPPRESS: what can be set."""

CHUNK = 96  # characters; a name has up to 127
OF = re.compile(r"mirrord-\d+-of-(.+)")
PART = re.compile(r"mirrord-\d+-(\d+)-(.*)")

_VLAN = struct.Struct("=HH")  # flags, id (struct bridge_vlan_info)
_BRIDGE_INDEX = struct.Struct("!I")


def bridge_of(names: Iterable[str]) -> str:
    """The bridge that a device was taken off, by its alternative names; "" for none."""
    return next((found[1] for name in names if (found := OF.fullmatch(name))), "")


def alternative_names(properties: bytes) -> list[str]:
    """The names in an IFLA_PROP_LIST."""
    return [text(value) for kind, value in pairs(properties) if kind == kernel.IFLA_ALT_IFNAME]


class _Port(NamedTuple):
    """A device as the kernel tells of it."""

    name: str
    master: int  # index
    kind: str  # as IFLA_INFO_KIND
    bridged: bool
    settings: dict[int, bytes]  # by IFLA_BRPORT_...
    names: list[str]  # alternative ones, ours

    @property
    def bridge(self) -> str:
        return bridge_of(self.names)


class Isolations:
    """The ports that this process took off their bridges, by index. Blocks as long as the kernel takes, milliseconds.

    OSError when netlink sockets cannot be opened.
    """

    def __init__(self) -> None:
        self._held: set[int] = set()
        self._lock = threading.Lock()
        self._netlink = _Netlink()

    def hold(self, index: int) -> None:
        """Take a device off its bridge, if it is a port of one and was not taken off before; on any thread.

        One that somebody put into a bridge again stays there. OSError when it cannot be had.
        """
        with self._lock:
            port = self._netlink.port(index)
            self._held.add(index)
            if not port.bridged or port.bridge:
                return
            self._netlink.forget(index, port.names)  # parts of a record, of a daemon that was killed
            names = _record(index, port, self._netlink)
            try:
                self._netlink.add_names(index, names)
            except OSError as error:
                with suppress(OSError):
                    self._netlink.forget(index, self._netlink.port(index).names)
                where = f"where {port.name} belongs cannot be recorded in its names"
                raise OSError(error.errno, f"{where} ({error.strerror}): it is not taken off its bridge") from error
            self._netlink.set_master(index, 0)

    def keep(self, indexes: Collection[int]) -> list[str]:
        """Give every other device back; what was not as it should be, in words."""
        with self._lock:
            going = self._held.difference(indexes)
            self._held -= going
            return [word for index in sorted(going) for word in self._give_back(index)]

    def take_back_leftovers(self) -> list[str]:
        """Give back what a daemon that was killed had taken off; what it was, in words."""
        told = []
        with self._lock:
            for index, port in self._netlink.ports():
                if port.names:
                    if port.bridge:
                        told.append(f"a killed daemon had taken {port.name} off {port.bridge}: given back")
                    told += self._give_back(index)
        return told

    def close(self) -> list[str]:
        """Give every device back, as `keep`."""
        told = self.keep(())
        self._netlink.close()
        return told

    def _give_back(self, index: int) -> Iterator[str]:
        try:
            port = self._netlink.port(index)
            if port.bridge and not port.master:
                yield from self._into_bridge(index, port)
            elif port.bridge:
                master = self._netlink.port(port.master).name
                yield f"{port.name} was taken off {port.bridge}, and somebody has made it a port of {master}: it stays"
            self._netlink.forget(index, port.names)
        except OSError as error:
            if error.errno != errno.ENODEV:  # else the device is gone, and with it what was known of it
                yield f"device {index} cannot be given back to its bridge: {error.strerror}; the next start tries again"

    def _into_bridge(self, index: int, port: _Port) -> Iterator[str]:
        bridge_index, settings, vlans = _recorded(port.names)
        bridge = self._netlink.bridge(port.bridge, bridge_index)
        if not bridge:
            yield f"{port.name} was taken off {port.bridge}, which is gone: it stays without a bridge"
            return
        self._netlink.set_master(index, bridge)
        try:
            has = self._netlink.port(index).settings
            self._netlink.set_port(index, {kind: one for kind, one in settings.items() if has.get(kind) != one})
            self._netlink.set_vlans(index, vlans)
        except OSError as error:
            yield f"{port.name} is a port of {port.bridge} again, and not all as it was: {error.strerror}"


def _record(index: int, port: _Port, netlink: _Netlink) -> list[str]:
    """Names that say where a port is and how; the one that makes it a record is the last."""
    settings = b"".join(bytes((kind, len(one))) + one for kind, one in port.settings.items())
    vlans = b"".join(_VLAN.pack(*one) for one in netlink.vlans(index))
    known = _BRIDGE_INDEX.pack(port.master) + bytes((len(settings),)) + settings + vlans
    told = base64.urlsafe_b64encode(known).decode()
    parts = [told[at : at + CHUNK] for at in range(0, len(told), CHUNK)]
    bridge = netlink.port(port.master).name
    return [*(f"mirrord-{index}-{n}-{part}" for n, part in enumerate(parts)), f"mirrord-{index}-of-{bridge}"]


def _recorded(names: Iterable[str]) -> tuple[int, dict[int, bytes], list[tuple[int, int]]]:
    """The bridge's index, the port's settings, and its VLANs as flags and id."""
    parts = sorted((int(found[1]), found[2]) for name in names if (found := PART.fullmatch(name)))
    known = base64.urlsafe_b64decode("".join(part for _, part in parts))
    (bridge,) = _BRIDGE_INDEX.unpack_from(known)
    at, end = _BRIDGE_INDEX.size + 1, _BRIDGE_INDEX.size + 1 + known[_BRIDGE_INDEX.size]
    settings = {}
    while at < end:
        kind, length = known[at : at + 2]
        settings[kind] = known[at + 2 : at + 2 + length]
        at += 2 + length
    return bridge, settings, list(_VLAN.iter_unpack(known[end:]))


class _Netlink(Rtnetlink):
    """What is asked of it."""

    def port(self, index: int) -> _Port:
        """One device. OSError ENODEV when it is gone."""
        (body,) = self.ask(kernel.RTM_GETLINK, LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0))
        return _port(body)

    def ports(self) -> list[tuple[int, _Port]]:
        """Every device, by index."""
        bodies = self.dump(kernel.RTM_GETLINK, LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
        return [(LINK.unpack_from(body)[2], _port(body)) for body in bodies]

    def bridge(self, name: str, index: int) -> int:
        """The index of the bridge of this name, or of the one that had it when this was its index; 0 for none."""
        by_name = LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attribute(kernel.IFLA_IFNAME, name.encode() + b"\0")
        for question in (by_name, LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0)):
            with suppress(OSError):
                (body,) = self.ask(kernel.RTM_GETLINK, question)
                if _port(body).kind == "bridge":
                    return int(LINK.unpack_from(body)[2])
        return 0

    def set_master(self, index: int, master: int) -> None:
        self.ask(
            kernel.RTM_SETLINK,
            LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0) + attribute(kernel.IFLA_MASTER, NUMBER.pack(master)),
        )

    def set_port(self, index: int, settings: dict[int, bytes]) -> None:
        if settings:
            told = b"".join(attribute(kind, one) for kind, one in settings.items())
            head = LINK.pack(socket.AF_BRIDGE, 0, index, 0, 0)
            self.ask(kernel.RTM_SETLINK, head + attribute(kernel.IFLA_PROTINFO | kernel.NLA_F_NESTED, told))

    def vlans(self, index: int) -> list[tuple[int, int]]:
        """Of a bridge's port: flags and id, a range as two of them."""
        head = LINK.pack(socket.AF_BRIDGE, 0, 0, 0, 0)
        bodies = self.dump(
            kernel.RTM_GETLINK,
            head + attribute(kernel.IFLA_EXT_MASK, NUMBER.pack(kernel.RTEXT_FILTER_BRVLAN_COMPRESSED)),
        )
        return [
            _VLAN.unpack(one)
            for body in bodies
            if LINK.unpack_from(body)[2] == index
            for kind, one in pairs(attributes(body, LINK.size).get(kernel.IFLA_AF_SPEC, b""))
            if kind == kernel.IFLA_BRIDGE_VLAN_INFO
        ]

    def set_vlans(self, index: int, vlans: list[tuple[int, int]]) -> None:
        """Have a port be in these VLANs, and in no other: a bridge puts a new port into its own."""
        surplus = _each(self.vlans(index)) - _each(vlans)
        self._vlans(kernel.RTM_DELLINK, index, [(0, vlan) for vlan in sorted(surplus)])
        self._vlans(kernel.RTM_SETLINK, index, vlans)

    def _vlans(self, request: int, index: int, vlans: list[tuple[int, int]]) -> None:
        if vlans:
            told = b"".join(attribute(kernel.IFLA_BRIDGE_VLAN_INFO, _VLAN.pack(*one)) for one in vlans)
            self.ask(request, LINK.pack(socket.AF_BRIDGE, 0, index, 0, 0) + attribute(kernel.IFLA_AF_SPEC, told))

    def add_names(self, index: int, names: list[str]) -> None:
        self.ask(
            kernel.RTM_NEWLINKPROP, _names(index, names), kernel.NLM_F_CREATE | kernel.NLM_F_EXCL | kernel.NLM_F_APPEND
        )

    def forget(self, index: int, names: list[str]) -> None:
        """Take names away, first the one that makes them a record."""
        if names:
            self.ask(kernel.RTM_DELLINKPROP, _names(index, sorted(names, key=lambda name: not OF.fullmatch(name))))


def _each(vlans: list[tuple[int, int]]) -> set[int]:
    """The ids, those within ranges too."""
    found: set[int] = set()
    first = 0
    for flags, vlan in vlans:
        first = vlan if flags & kernel.BRIDGE_VLAN_INFO_RANGE_BEGIN else first
        found.update(range(first, vlan + 1) if flags & kernel.BRIDGE_VLAN_INFO_RANGE_END else [vlan])
    return found


def _names(index: int, names: list[str]) -> bytes:
    told = b"".join(attribute(kernel.IFLA_ALT_IFNAME, name.encode() + b"\0") for name in names)
    return LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0) + attribute(kernel.IFLA_PROP_LIST | kernel.NLA_F_NESTED, told)


def _port(body: bytes) -> _Port:
    found = attributes(body, LINK.size)
    info = attributes(found.get(kernel.IFLA_LINKINFO, b""))
    bridged = text(info.get(kernel.IFLA_INFO_SLAVE_KIND)) == "bridge"
    settings = attributes(info.get(kernel.IFLA_INFO_SLAVE_DATA, b"")) if bridged else {}
    names = alternative_names(found.get(kernel.IFLA_PROP_LIST, b""))
    return _Port(
        name=text(found[kernel.IFLA_IFNAME]),
        master=number(found.get(kernel.IFLA_MASTER)),
        kind=text(info.get(kernel.IFLA_INFO_KIND)),
        bridged=bridged,
        settings={kind: settings[kind] for kind in SETTINGS if kind in settings},
        names=[name for name in names if OF.fullmatch(name) or PART.fullmatch(name)],
    )
