"""rtnetlink as bytes: requests and their answers, what the kernel announces, and attributes by number.

Why not pyroute2: it makes an object of every attribute of every message, of 500 devices in 280 ms, where to pick the
few attributes that are wanted takes a twelfth of it; what follows the host many times a second cannot afford more. And
its import takes 0.16 s and 22 MB, a fifth of the time from a daemon's start to its first copy: so what asks seldom
(qdiscs, bridges, rules) asks here, too, and pyroute2 is the tests' alone.

rtnetlink(7), https://docs.kernel.org/userspace-api/netlink/intro.html
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

from mirrord import kernel

RECEIVE = 1 << 17  # bytes; the kernel's own limit for a part of a dump is 32 KiB

# What messages begin with.
LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change (struct ifinfomsg)
ADDRESS = struct.Struct("=4BI")  # family, prefix length, flags, scope, index (struct ifaddrmsg)
ROUTE = struct.Struct("=8BI")  # family, lengths of destination and source, tos, table, protocol, scope, type, flags
RULE = struct.Struct("=8BI")  # the same but for action in type's place (struct fib_rule_hdr)
NEIGHBOUR = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type (struct ndmsg)
TRAFFIC = struct.Struct("=BxxxiIII")  # family, index, handle, parent, info (struct tcmsg)

NUMBER = struct.Struct("=I")  # in an attribute

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # length, type


class Message(NamedTuple):
    """A message without its header."""

    kind: int  # RTM_...
    flags: int  # NLM_F_...
    sequence: int
    body: bytes


class Rtnetlink:
    """One request and its answer at a time, in the network namespace of the thread that makes it.

    Other protocols of netlink are asked in the same way. OSError with the kernel's errno, or when a netlink socket
    cannot be had.
    """

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.setsockopt(kernel.SOL_NETLINK, kernel.NETLINK_GET_STRICT_CHK, 1)  # a dump can be of one device
        self._sequence = 0
        self.interrupted = False
        """Whether something changed during a dump since this was last set to False: the dump may lack something."""

    def close(self) -> None:
        self._socket.close()

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """Everything of a kind."""
        return self.ask(kind, body, kernel.NLM_F_DUMP)

    def ask(self, kind: int, body: bytes, flags: int = 0) -> list[bytes]:
        """The bodies of the answer's messages."""
        self._sequence += 1
        flags |= kernel.NLM_F_REQUEST | kernel.NLM_F_ACK
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0) + body)
        found: list[bytes] = []
        while True:
            for message in messages(self._socket.recv(RECEIVE)):
                if message.sequence != self._sequence:
                    continue  # of an answer that an error cut short
                if message.flags & kernel.NLM_F_DUMP_INTR:
                    self.interrupted = True
                if message.kind in (kernel.NLMSG_DONE, kernel.NLMSG_ERROR):
                    number = -int.from_bytes(message.body[:4], sys.byteorder, signed=True)
                    if number:
                        raise OSError(number, os.strerror(number))
                    return found
                found.append(message.body)


class Announcements:
    """What the kernel announces to some groups of listeners, a bit for each; never blocks.

    Made on any thread, it listens in that thread's network namespace. OSError as Rtnetlink.
    """

    def __init__(self, groups: int) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self.socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self._lost = 0
        # uvloop ceases to watch a socket that has an error, and ENOBUFS says no more than the count of lost messages.
        self.socket.setsockopt(kernel.SOL_NETLINK, kernel.NETLINK_NO_ENOBUFS, 1)
        self.socket.bind((0, groups))

    def fileno(self) -> int:
        return self.socket.fileno()

    def read(self) -> Iterator[Message]:
        """What was announced since the last time."""
        while True:
            try:
                data = self.socket.recv(RECEIVE)
            except BlockingIOError:
                return
            yield from messages(data)

    def overrun(self) -> bool:
        """Whether messages were lost since the last time: the queue was full."""
        memory = self.socket.getsockopt(socket.SOL_SOCKET, kernel.SO_MEMINFO, kernel.MEMINFO.size)
        before, self._lost = self._lost, kernel.MEMINFO.unpack(memory)[kernel.SK_MEMINFO_DROPS]
        return self._lost != before

    def close(self) -> None:
        self.socket.close()


def messages(data: bytes) -> Iterator[Message]:
    """The messages of one datagram."""
    at = 0
    while at < len(data):
        length, kind, flags, sequence, _port = _HEADER.unpack_from(data, at)
        yield Message(kind, flags, sequence, data[at + _HEADER.size : at + length])
        at += _aligned(length)


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(_aligned(length) - length)


def attributes(data: bytes, at: int = 0) -> dict[int, bytes]:
    """The attributes from this offset on, by number; of one that comes again the last."""
    return dict(pairs(data, at))


def pairs(data: bytes, at: int = 0) -> Iterator[tuple[int, bytes]]:
    """The attributes from this offset on, each with its number, in their order."""
    while len(data) - at >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        yield kind & kernel.NLA_TYPE_MASK, data[at + _ATTRIBUTE.size : at + length]
        at += _aligned(max(length, _ATTRIBUTE.size))


def number(value: bytes | None) -> int:
    """A number in an attribute; 0 for none."""
    return int.from_bytes(value or b"", sys.byteorder)


def text(value: bytes | None) -> str:
    """A string in an attribute; "" for none."""
    return (value or b"").rstrip(b"\0").decode(errors="replace")


def _aligned(length: int) -> int:
    return length + 3 & ~3
