"""A frame from a packet socket with the index of its device. Python's own recvmsg gives the device's name, which one
that is gone since has no more; and to look first (MSG_PEEK) spoils what PACKET_AUXDATA says of the frame's length.

recvmsg(2), cmsg(3), packet(7).
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_ADDRESS = struct.Struct("=HHiHBB8x")  # struct sockaddr_ll: family, protocol, index, hatype, pkttype, halen, address
_HEADER = struct.Struct("@Nii")  # struct cmsghdr
_CONTROL = 256  # bytes
LARGEST = (512 << 10) + 16
"""Bytes of the longest frame, BIG TCP's, with its vnet header."""

_libc = ctypes.CDLL(None, use_errno=True)


class Received(NamedTuple):
    """A frame, what came beside it (level, type, value), its device's index, its packet type and protocol."""

    data: bytes
    ancillary: list[tuple[int, int, bytes]]
    device: int
    packet_type: int
    protocol: int  # by its Ethertype, host byte order


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(_Vector)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Room(threading.local):
    """Where a thread's messages are put, one at a time."""

    def __init__(self) -> None:
        self.data = ctypes.create_string_buffer(LARGEST)
        self.address = ctypes.create_string_buffer(_ADDRESS.size)
        self.control = ctypes.create_string_buffer(_CONTROL)
        self.vector = _Vector(ctypes.addressof(self.data), LARGEST)
        self.message = _Message(
            name=ctypes.addressof(self.address),
            vectors=ctypes.pointer(self.vector),
            vector_count=1,
            control=ctypes.addressof(self.control),
        )


_room = _Room()


def receive(sock: socket.socket) -> Received:
    """The next frame. OSError as recvmsg: BlockingIOError where there is none."""
    room = _room
    message = room.message
    message.name_length, message.control_length = _ADDRESS.size, _CONTROL
    length = _libc.recvmsg(sock.fileno(), ctypes.byref(message), 0)
    if length < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    _, protocol, device, _, packet_type, _ = _ADDRESS.unpack(room.address)
    data = ctypes.string_at(room.data, length)
    control = ctypes.string_at(room.control, message.control_length)
    return Received(data, list(_ancillary(control)), device, packet_type, socket.ntohs(protocol))


def _ancillary(control: bytes) -> Iterator[tuple[int, int, bytes]]:
    at, align = 0, struct.calcsize("@N")
    while at + _HEADER.size <= len(control):
        length, level, kind = _HEADER.unpack_from(control, at)
        yield level, kind, control[at + _HEADER.size : at + length]
        at += -(-length // align) * align
