"""rtnetlink as bytes: requests and their answers, what the kernel announces, and attributes by number.

pyroute2 makes an object of every attribute of every message: of 500 devices in 280 ms, where to pick the few attributes
that are wanted takes a twelfth of it. What follows the host many times a second cannot afford more.

rtnetlink(7), https://docs.kernel.org/userspace-api/netlink/intro.html
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

SOL_NETLINK, NETLINK_NO_ENOBUFS, NETLINK_GET_STRICT_CHK = 270, 5, 12  # linux/socket.h, linux/netlink.h
SO_MEMINFO, SK_MEMINFO_DROPS = 55, 8  # asm-generic/socket.h, linux/sock_diag.h
NLMSG_ERROR, NLMSG_DONE = 2, 3  # linux/netlink.h
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR = 1, 4, 0x10
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_DUMP, NLM_F_CREATE = 0x100, 0x200, 0x300, 0x400
NLA_TYPE_MASK, NLA_F_NESTED = 0x3FFF, 0x8000

RECEIVE = 1 << 17  # bytes; the kernel's own limit for a part of a dump is 32 KiB

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_MEMINFO = struct.Struct("=9I")


class Message(NamedTuple):
    """A message without its header."""

    kind: int  # RTM_...
    flags: int  # NLM_F_...
    sequence: int
    body: bytes


class Rtnetlink:
    """One request and its answer at a time, in the network namespace of the thread that makes it.

    OSError with the kernel's errno, or when a netlink socket cannot be had.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)  # a dump can be of one device
        self._sequence = 0
        self.interrupted = False
        """Whether something changed during a dump since this was last set to False: the dump may lack something."""

    def close(self) -> None:
        self._socket.close()

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """Everything of a kind."""
        return self.ask(kind, body, NLM_F_DUMP)

    def ask(self, kind: int, body: bytes, flags: int = 0) -> list[bytes]:
        """The bodies of the answer's messages."""
        self._sequence += 1
        flags |= NLM_F_REQUEST | NLM_F_ACK
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0) + body)
        found: list[bytes] = []
        while True:
            for message in messages(self._socket.recv(RECEIVE)):
                if message.sequence != self._sequence:
                    continue  # of an answer that an error cut short
                if message.flags & NLM_F_DUMP_INTR:
                    self.interrupted = True
                if message.kind in (NLMSG_DONE, NLMSG_ERROR):
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
        self.socket.setsockopt(SOL_NETLINK, NETLINK_NO_ENOBUFS, 1)
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
        memory = self.socket.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, _MEMINFO.size)
        before, self._lost = self._lost, _MEMINFO.unpack(memory)[SK_MEMINFO_DROPS]
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
        yield kind & NLA_TYPE_MASK, data[at + _ATTRIBUTE.size : at + length]
        at += _aligned(max(length, _ATTRIBUTE.size))


def number(value: bytes | None) -> int:
    """A number in an attribute; 0 for none."""
    return int.from_bytes(value or b"", sys.byteorder)


def text(value: bytes | None) -> str:
    """A string in an attribute; "" for none."""
    return (value or b"").rstrip(b"\0").decode(errors="replace")


def _aligned(length: int) -> int:
    return length + 3 & ~3
