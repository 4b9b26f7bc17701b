"""The veths of this host whose other end is in another network namespace, as the kernel tells of it.

It takes CAP_NET_ADMIN, and no visit to the namespace. rtnetlink(7); linux/net_namespace.h, linux/if_link.h
"""

from __future__ import annotations

import errno
import struct
from contextlib import closing
from pathlib import Path

from mirrord.control.guests.inventory import GuestNic
from mirrord.control.host.rtnetlink import LINK, Rtnetlink, attribute, attributes, number, text
from mirrord.kernel import (
    IFLA_ADDRESS,
    IFLA_IFNAME,
    IFLA_LINK,
    IFLA_LINK_NETNSID,
    IFLA_TARGET_NETNSID,
    NETNSA_NSID,
    NETNSA_PID,
    RTM_GETLINK,
    RTM_GETNSID,
)

_NSID = struct.Struct("=B3x")  # family (struct rtgenmsg)
_SIGNED = struct.Struct("=i")
GONE = errno.ESRCH, errno.ENOENT, errno.EINVAL


def nics_of(process: int) -> tuple[GuestNic, ...]:
    """Those of the namespace that a process is in. Empty when the process is gone."""
    with closing(Rtnetlink()) as netlink:
        try:
            place = _namespace_id(netlink, process)
            if place is None:
                return ()
            there = {index: (name, mac) for index, name, mac, _ in _links(netlink, place)}
            here = [(name, peer) for _, name, _, (peer, at) in _links(netlink) if at == place]
            return tuple(GuestNic(*there[peer], device) for device, peer in here if peer in there)
        except OSError as error:
            if error.errno in GONE:
                return ()
            raise


def is_here(process: int) -> bool:
    """Whether a process is in this network namespace, as far as that can be seen."""
    try:
        return Path(f"/proc/{process}/ns/net").stat().st_ino == Path("/proc/self/ns/net").stat().st_ino
    except OSError:
        return False


def _namespace_id(netlink: Rtnetlink, process: int) -> int | None:
    """What the kernel calls the process's network namespace in this one; None where it has no name for it."""
    for body in netlink.ask(RTM_GETNSID, _NSID.pack(0) + attribute(NETNSA_PID, struct.pack("=I", process))):
        (found,) = _SIGNED.unpack(attributes(body, _NSID.size)[NETNSA_NSID])
        return int(found) if found >= 0 else None
    return None


def _links(netlink: Rtnetlink, place: int | None = None) -> list[tuple[int, str, str, tuple[int, int | None]]]:
    """Index, name and address of each device there (None: here); for a veth, its peer's index and namespace's id."""
    where = b"" if place is None else attribute(IFLA_TARGET_NETNSID, _SIGNED.pack(place))
    found = []
    for body in netlink.dump(RTM_GETLINK, LINK.pack(0, 0, 0, 0, 0) + where):
        told = attributes(body, LINK.size)
        beyond = told.get(IFLA_LINK_NETNSID)
        peer = number(told.get(IFLA_LINK)), None if beyond is None else int(_SIGNED.unpack(beyond)[0])
        mac = told.get(IFLA_ADDRESS, b"").hex(":")
        found.append((LINK.unpack_from(body)[2], text(told.get(IFLA_IFNAME)), mac, peer))
    return found
