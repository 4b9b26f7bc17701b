"""The next hops of copies whose outer headers are ours: their addresses, which the kernel is asked to keep fresh.

The kernel resolves a next hop when it sends there itself. For ours it is asked to (NTF_EXT_MANAGED, Linux 5.16; before,
NTF_USE with each look). A neighbour that an operator made permanent is left as it is.

rtnetlink(7), linux/neighbour.h
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, NamedTuple

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

RTMGRP_NEIGH = 0x4
RTM_NEWNEIGH, RTM_DELNEIGH = 28, 29
NTF_USE, NTF_EXT_MANAGED = 0x01, 0x01
NUD_PERMANENT, NUD_NOARP = 0x80, 0x40
NUD_VALID = NUD_PERMANENT | NUD_NOARP | 0x02 | 0x04 | 0x08 | 0x10  # reachable, stale, delay, probe
NDA_DST, NDA_LLADDR = 1, 2
SOL_NETLINK, NETLINK_NO_ENOBUFS = 270, 5  # linux/socket.h, linux/netlink.h
MANY = 64  # messages: a quarter of what a queue holds by default
PATIENCE_SECONDS = 0.2
POLL_SECONDS = 0.002
"""How long an answer is waited for when a neighbour is first asked for. Later ones are told of by the bell."""


class Neighbour(NamedTuple):
    """An address on a link."""

    device: int  # index
    address: str


class Neighbours:
    """Reads with the netlink socket that it is given. Its bell is its own, of the network namespace it was made in."""

    def __init__(self) -> None:
        self.bell = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self.bell.setsockopt(SOL_NETLINK, NETLINK_NO_ENOBUFS, 1)  # uvloop stops watching a socket that has an error
        self.bell.bind((0, RTMGRP_NEIGH))
        self._known: dict[Neighbour, bytes] = {}  # with what was last told of them; b"": not resolved
        self._managed: set[Neighbour] = set()

    def find(self, netlink: IPRoute, wanted: Mapping[Neighbour, bool]) -> dict[Neighbour, bytes]:
        """The MAC addresses of all that are wanted, b"" where one is not known; the kernel may forget about all others.

        `wanted` tells which the kernel may be asked to resolve. Takes up to `PATIENCE_SECONDS` where some are new.
        """
        self._let_go(netlink, self._known.keys() - wanted.keys())
        found, open_questions = {}, []
        for one, may_ask in wanted.items():
            state, found[one] = _look(netlink, one)
            if may_ask and not state & (NUD_PERMANENT | NUD_NOARP) and one not in self._managed:
                self._ask(netlink, one)
                found[one] = _look(netlink, one)[1]
                if not (found[one] or one in self._known):
                    open_questions.append(one)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while open_questions and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            found |= {one: _look(netlink, one)[1] for one in open_questions}
            open_questions = [one for one in open_questions if not found[one]]
        self._known = found
        return found

    def _let_go(self, netlink: IPRoute, gone: Iterable[Neighbour]) -> None:
        for one in self._managed & set(gone):
            self._managed.discard(one)
            with suppress(NetlinkError):
                netlink.neigh("replace", dst=one.address, ifindex=one.device, state=0, flags=NTF_USE)

    def changed(self) -> bool:
        """Empty the bell: whether what it told is news of a next hop, or so much that some of it may be lost."""
        news, messages = False, 0
        with suppress(BlockingIOError):
            while True:
                messages += 1
                for kind, neighbour, state, address in _messages(self.bell.recv(1 << 16)):
                    known = self._known.get(neighbour)
                    if known is None:
                        continue
                    if kind == RTM_DELNEIGH:
                        self._managed.discard(neighbour)
                    news |= kind == RTM_DELNEIGH or (address if state & NUD_VALID else b"") != known
        return news or messages > MANY

    def _ask(self, netlink: IPRoute, wanted: Neighbour) -> None:
        use: dict[str, Any] = {"dst": wanted.address, "ifindex": wanted.device, "state": 0, "flags": NTF_USE}
        with suppress(NetlinkError):
            netlink.neigh("replace", **use, flags_ext=NTF_EXT_MANAGED)
            message = next(iter(netlink.neigh("get", dst=wanted.address, ifindex=wanted.device)), None)
            if message is not None and (message.get_attr("NDA_FLAGS_EXT") or 0) & NTF_EXT_MANAGED:
                self._managed.add(wanted)


def _look(netlink: IPRoute, wanted: Neighbour) -> tuple[int, bytes]:
    """The neighbour's state, and its address when that state lets it be used."""
    try:
        message = next(iter(netlink.neigh("get", dst=wanted.address, ifindex=wanted.device)))
    except (NetlinkError, StopIteration):
        return 0, b""
    text = message.get_attr("NDA_LLADDR") if message["state"] & NUD_VALID else None
    return message["state"], bytes.fromhex(text.replace(":", "")) if text else b""


def _messages(data: bytes) -> Iterable[tuple[int, Neighbour, int, bytes]]:
    while len(data) >= 28:
        length, kind = struct.unpack_from("=IH", data)
        index, state = struct.unpack_from("=iH", data, 20)
        attributes, found = data[28:length], {}
        while len(attributes) >= 4:
            size, name = struct.unpack_from("=HH", attributes)
            if size < 4:
                break
            found[name] = attributes[4:size]
            attributes = attributes[(size + 3) & ~3 :]
        if kind in (RTM_NEWNEIGH, RTM_DELNEIGH) and len(found.get(NDA_DST, b"")) in (4, 16):
            yield kind, Neighbour(index, str(ip_address(found[NDA_DST]))), state, found.get(NDA_LLADDR, b"")
        data = data[(length + 3) & ~3 :]
        if length < 16:
            return
