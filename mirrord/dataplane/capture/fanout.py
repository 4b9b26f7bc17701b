"""Packet sockets that share a source's frames: the kernel gives each frame to exactly one of them (PACKET_FANOUT).

Which one, a program says. By addresses, `workers` divide a busy source: see spread.py.

By number, a capture moves from one socket to another. To set another program is to wait until no frame is under way by
the old one (synchronize_net in __fanout_set_data_bpf, net/packet/af_packet.c). So each frame is in one socket and
counted there once, and after the call the socket that is not meant any more gets nothing: what it holds comes before
all that the other one holds.

Kernel: Documentation/networking/packet_mmap.rst, "AF_PACKET fanout mode"; include/uapi/linux/if_packet.h.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING

from mirrord.dataplane.capture import spread
from mirrord.dataplane.filter import assembler as op
from mirrord.kernel import PACKET_FANOUT, PACKET_FANOUT_DATA, SOL_PACKET

if TYPE_CHECKING:
    import socket

    from mirrord.dataplane.filter.assembler import Program

_BY_PROGRAM = 6  # PACKET_FANOUT_CBPF
_UNIQUE_ID = 0x2000  # PACKET_FANOUT_FLAG_UNIQUEID
_OPTION = struct.Struct("=I")  # id, and from bit 16 on how frames are given out

_libc = ctypes.CDLL(None, use_errno=True)


class Group:
    """A group without sockets yet; the kernel gives it an id that no other has when the first one joins.

    `divides`: frames are for all of its sockets, by their addresses; else for the one that `steer` says. `raw`: of a
    device without Ethernet.
    """

    def __init__(self, *, divides: bool = False, raw: bool = False) -> None:
        self.divides, self._raw = divides, raw
        self._id: int | None = None
        self.sockets = 0
        self.sender: socket.socket | None = None  # one of them, which captures nothing: see sender.py

    def join(self, sock: socket.socket) -> None:
        """Take a socket in, after it was bound to a device and to all protocols. OSError as setsockopt.

        Takes the kernel milliseconds for the first socket of a group that divides.
        """
        if self._id is not None:
            sock.setsockopt(SOL_PACKET, PACKET_FANOUT, _OPTION.pack(self._id | _BY_PROGRAM << 16))
            self.sockets += 1
            return
        sock.setsockopt(SOL_PACKET, PACKET_FANOUT, _OPTION.pack((_BY_PROGRAM | _UNIQUE_ID) << 16))
        self.sockets += 1
        self._id = _OPTION.unpack(sock.getsockopt(SOL_PACKET, PACKET_FANOUT, _OPTION.size))[0] & 0xFFFF
        if self.divides:
            _go_by(sock, spread.by_addresses(raw=self._raw))

    def leave(self) -> None:
        """One of its sockets was closed: the kernel has put the last one in its place."""
        self.sockets -= 1
        if self.sockets == 1 and self.sender is not None:
            self.sender.close()
            self.sender, self.sockets = None, 0


def steer(sock: socket.socket, number: int) -> None:
    """Give all frames to the nth socket (from 0, in the order that they joined) of this one's group.

    Returns when no frame is on its way to another any more. OSError as setsockopt.
    """
    _go_by(sock, (op.Instruction(op.RET, k=number),))


def _go_by(sock: socket.socket, program: Program) -> None:
    code = ctypes.create_string_buffer(op.pack(program))
    # struct sock_fprog of linux/filter.h: the count, and where the instructions are.
    set_slowly(sock, PACKET_FANOUT_DATA, struct.pack("HP", len(program), ctypes.addressof(code)))


def set_slowly(sock: socket.socket, option: int, value: bytes) -> None:
    """Set an option of SOL_PACKET for which the kernel takes milliseconds; Python's own call would hold the GIL."""
    if _libc.setsockopt(sock.fileno(), SOL_PACKET, option, value, len(value)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
