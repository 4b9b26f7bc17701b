"""Queues of packet blocks between a worker and the threads that send them: one for each client of a stream.

A worker never waits: what a queue has no room for is lost, counted. A client takes whole blocks off, whatever the
worker does meanwhile. Positions are counted in bytes from the beginning of time; one thread writes each of them: the
worker `head`, `frames` and `settled`, the client `tail` and `acked`. The native core has the same memory
(transmit/queue.c).

What becomes of a frame. One that not every client's queue had room for is lost. One that is in all of them is mirrored,
until a connection ends before the client's host has acknowledged it: then it is lost after all. For that a queue notes
where each such frame ends.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from bisect import bisect_right
from typing import TYPE_CHECKING

from mirrord.dataplane.transmit.pcapng import PACKET_HEADER_LENGTH
from mirrord.plans import ends_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirrord.dataplane.forward.step import Copy

MOST_CLIENTS = 16
_BLOCK = struct.Struct("<8xIIIII")  # interface, time (high, low), captured, original length: pcapng.packet_header
_RECORD = struct.Struct("<IIII")  # seconds, nanoseconds, captured, original length: a record of a pcap file
_END = struct.Struct("=Q")


class Queue(ctypes.Structure):
    """One client's. The native core reads and writes the same (struct queue)."""

    memory: int  # its address
    size: int  # bytes
    head: int  # bytes that were ever put in
    tail: int  # of these, those that the client has taken out
    ends: int  # the address of the positions that frames end at, a row that begins again behind the last one
    slots: int  # of the row
    frames: int  # whose ends were ever noted
    settled: int  # of these, those whose ends are not needed any more
    wakes_at: int  # the client waits for the bell until the head is here; 0: it is awake
    bell: int  # an eventfd
    refused: int  # 1: there was no room for a copy of the frame at hand
    base: int  # the position that is at the memory's beginning: the worker's, and moved where the queue is empty

    _fields_ = (
        ("memory", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("head", ctypes.c_uint64),
        ("tail", ctypes.c_uint64),
        ("ends", ctypes.c_uint64),
        ("slots", ctypes.c_uint64),
        ("frames", ctypes.c_uint64),
        ("settled", ctypes.c_uint64),
        ("wakes_at", ctypes.c_uint64),
        ("bell", ctypes.c_int64),
        ("refused", ctypes.c_uint64),
        ("base", ctypes.c_uint64),
    )


class Queues(ctypes.Structure):
    """Those of one source, for the native core (struct queues)."""

    count: int
    interface: int  # that the packets are of, in each stream
    pcap: int  # 1: records of a pcap file; 0: blocks of a pcapng file
    queued: int  # frames that are or were in every queue that there was
    each: ctypes.Array[ctypes.c_uint64]  # their addresses

    _fields_ = (
        ("count", ctypes.c_uint64),
        ("interface", ctypes.c_uint64),
        ("pcap", ctypes.c_uint64),
        ("queued", ctypes.c_uint64),
        ("each", ctypes.c_uint64 * MOST_CLIENTS),
    )


class Bell:
    """What wakes a client: an eventfd, for as long as anybody may ring it."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def ring(self) -> None:
        os.eventfd_write(self.descriptor, 1)

    def __del__(self) -> None:
        os.close(self.descriptor)


class Channel:
    """A queue of `size` bytes, its memory, and how far its client has got. OSError: there is no memory.

    Where the queue is empty the next block goes to the memory's beginning: what keeps up takes little of it.
    """

    def __init__(self, size: int, bell: Bell) -> None:
        self._bell = bell
        self.memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        slots = ends_of(size)
        self.ends = mmap.mmap(-1, slots * _END.size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.row = Queue(memory=_address(self.memory), size=size, ends=_address(self.ends), slots=slots)
        self.row.bell = bell.descriptor
        self.acked = 0
        """Bytes that the client's host has acknowledged, or more than it lacks."""
        self.over = False
        """Whether its client takes nothing any more."""
        self.before: int | None = None
        """Frames that were queued before its first one; None: it is not in use yet."""

    @property
    def address(self) -> int:
        """Of its row, for the native core."""
        return ctypes.addressof(self.row)

    def waiting(self, until: int) -> memoryview:
        """What there is up to a position that was its head lately: all, or as much as is in one piece."""
        row = self.row
        at = (row.tail - row.base) % row.size
        return memoryview(self.memory)[at : min(at + until - row.tail, row.size)]

    def await_bytes(self, enough: int) -> bool:
        """Have the bell rung as soon as so many wait, or a quarter of what there is room for. Whether they do already.

        It is the client's, which takes it back: wakes_at.
        """
        row = self.row
        row.wakes_at = row.tail + min(enough, row.size // 4)
        return row.head >= row.wakes_at

    def wake(self) -> None:
        """A client that is at work comes upon what is new by itself; one that waits for more is let wait."""
        if 0 < self.row.wakes_at <= self.row.head:
            self.row.wakes_at = 0
            self._bell.ring()

    def put(self, block: bytes) -> bool:
        """Put a block in whole, or leave it out."""
        row = self.row
        if row.refused or row.head + len(block) - row.tail > row.size:
            row.refused = 1
            return False
        if row.tail == row.head:
            row.base = row.head
        at = (row.head - row.base) % row.size
        first = min(len(block), row.size - at)
        self.memory[at : at + first] = block[:first]
        self.memory[: len(block) - first] = block[first:]
        row.head += len(block)
        return True

    def has_room_for_end(self) -> bool:
        """Whether the end of one more frame can be noted."""
        return self.row.frames - self.row.settled < self.row.slots

    def note_end(self) -> None:
        """A frame that is in every queue ends here."""
        _END.pack_into(self.ends, self.row.frames % self.row.slots * _END.size, self.row.head)
        self.row.frames += 1

    def done(self) -> int:
        """How many of the noted frames the client's host has."""
        row = self.row
        return bisect_right(range(row.frames), self.acked, row.settled, key=self._end)

    def _end(self, number: int) -> int:
        end: int = _END.unpack_from(self.ends, number % self.row.slots * _END.size)[0]
        return end


def put(queues: Queues, channels: Sequence[Channel], copies: Sequence[Copy]) -> int:
    """Put a frame's copies into every queue that has room for them all. How many of the copies are in all of them; if
    that is not all, the frame is lost. The native core's queue_batch does the same.
    """
    accepted = 0
    for channel in channels:
        channel.row.refused = not channel.has_room_for_end()
    for copy in copies:
        block = record(copy.data + copy.trailer) if queues.pcap else of_interface(copy.data, queues) + copy.trailer
        taken = [channel.put(block) for channel in channels]
        accepted += bool(taken) and all(taken)
    if accepted == len(copies):
        queues.queued += 1
        for channel in channels:
            channel.note_end()
    return accepted


def of_interface(block: bytes, queues: Queues) -> bytes:
    """A packet block with its interface's number in it."""
    return block[:8] + queues.interface.to_bytes(4, "little") + block[12:]


def record(block: bytes) -> bytes:
    """A packet block of a pcapng file as a record of a pcap file with nanoseconds."""
    _, high, low, captured, original = _BLOCK.unpack_from(block)
    seconds, nanoseconds = divmod(high << 32 | low, 1_000_000_000)
    packet = block[PACKET_HEADER_LENGTH : PACKET_HEADER_LENGTH + captured]
    return _RECORD.pack(seconds & 0xFFFFFFFF, nanoseconds, captured, original) + packet


class Fates:
    """Which of the frames that were in every queue, numbered from 1 on, are lost after all: each once."""

    def __init__(self) -> None:
        self.settled = 0
        """Of so many of the first ones it is known."""
        self._lost: list[tuple[int, int]] = []  # behind these, behind one and up to another, apart and ascending

    def lose(self, after: int, last: int) -> int:
        """A client has not got those behind `after`, up to the `last` there is. How many were not lost before."""
        known = self._lost_between(after, last)
        before = [(first, min(end, after)) for first, end in self._lost if first < after]
        self._lost = [*before, (after, last)] if after < last else self._lost
        return last - after - known

    def settle(self, upto: int) -> None:
        """Every client there is has got those up to this one."""
        self.settled = upto
        self._lost = [(first, end) for first, end in self._lost if end > upto]

    def open(self, last: int) -> int:
        """How many of those up to the `last` there is a client has not got yet, and may still get."""
        return last - self.settled - self._lost_between(self.settled, last)

    def _lost_between(self, after: int, last: int) -> int:
        return sum(max(min(end, last) - max(first, after), 0) for first, end in self._lost)


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
