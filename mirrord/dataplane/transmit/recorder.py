"""The flight recorder: the last packets that a session mirrored on one source, in memory, for whoever asks later.

A packet is kept as the copy has it (cut, with its VLAN tags as they leave, a super-frame split), without the outer
headers, and as a packet block of a pcapng file: to write them out is to copy memory. The blocks follow each other in a
ring; a new one takes the place of the oldest ones. What could not be sent afterwards is in it, too.

Those who write, one or several workers, and those who read do so at once. The positions and counts in `row` change
under a lock of the writers'. A reader copies first and looks at the positions afterwards: what has been written over
meanwhile does not count. native/transmit/recorder.c writes the same.
"""

from __future__ import annotations

import mmap
from array import array
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from mirrord.dataplane.memory import Memory, Share
from mirrord.dataplane.native import core
from mirrord.dataplane.transmit import pcapng

if TYPE_CHECKING:
    from mirrord.dataplane.forward.encap import Facts

LOCKED, HEAD, TAIL, EVICTED = range(4)
"""In a ring's row: the native core's lock; where the next block begins, and the oldest one, counted in bytes from the
beginning of time; and how many blocks came before that one. native/transmit/recorder.h: struct recorded."""

_LENGTH_AT = 4  # of a block, draft-ietf-opsawg-pcapng 3.1


class Read(NamedTuple):
    """What was read: whole blocks, of how many packets, and where the first one begins.

    If that is further on than was asked for, it is the oldest one, and so many came `before` it.
    """

    blocks: bytes
    packets: int
    start: int
    before: int

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.start + len(self.blocks)


class Ring:
    """`size` bytes of memory, whole pages, for Ethernet frames or, if `raw`, IP packets. OSError: there are none."""

    def __init__(self, size: int, *, raw: bool = False, native: bool) -> None:
        self.raw = raw
        self.size = size - size % mmap.PAGESIZE
        self.memory = mmap.mmap(-1, self.size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.row = array("Q", [0] * 4)
        self._native, self._lock = native, Lock()

    def add(self, data: bytes, facts: Facts) -> None:
        """Keep a packet."""
        block = pcapng.packet_header(len(data), facts.original, facts.time) + data
        block += pcapng.packet_trailer(len(data), egress=facts.egress)
        if len(block) > self.size:
            return
        with self._lock:
            row = self.row
            while row[HEAD] + len(block) - row[TAIL] > self.size:
                row[TAIL] += int.from_bytes(self._copy(row[TAIL] + _LENGTH_AT, 4), "little")
                row[EVICTED] += 1
            at = row[HEAD] % self.size
            whole = min(len(block), self.size - at)
            self.memory[at : at + whole] = block[:whole]
            self.memory[: len(block) - whole] = block[whole:]
            row[HEAD] += len(block)

    @property
    def head(self) -> int:
        """Where the next block will begin."""
        return self._positions()[0]

    def read(self, position: int, end: int, most: int) -> Read:
        """Blocks from this position, or the oldest one, on, up to `end`: about `most` bytes, but a whole one if any."""
        head, tail, before = self._positions()
        start, end = max(position, tail), min(end, head)
        while start < end:
            data = self._copy(start, min(end - start, max(most, _LENGTH_AT + 4)))
            _, tail, before = self._positions()
            if tail <= start:
                length, packets = _whole(data)
                if packets:
                    return Read(data[:length], packets, start, before)
                most = int.from_bytes(data[_LENGTH_AT : _LENGTH_AT + 4], "little")
            start = max(start, tail)
        return Read(b"", 0, start, before)

    def _positions(self) -> tuple[int, int, int]:
        if self._native:
            head, tail, before = core.recorded(self.row)
            return head, tail, before
        with self._lock:
            return self.row[HEAD], self.row[TAIL], self.row[EVICTED]

    def _copy(self, position: int, length: int) -> bytes:
        at = position % self.size
        first = self.memory[at : at + length]
        return first + self.memory[: length - len(first)]


def _whole(data: bytes) -> tuple[int, int]:
    """The length of the whole blocks at the beginning, and their number."""
    at = count = 0
    while len(data) - at >= _LENGTH_AT + 4:
        length = int.from_bytes(data[at + _LENGTH_AT : at + _LENGTH_AT + 4], "little")
        if at + length > len(data):
            break
        at, count = at + length, count + 1
    return at, count


class Recorder:
    """The ring of one session and source, whichever pipelines write to it, one after the other or several at once. It
    comes out of `memory`.
    """

    def __init__(self, memory: Memory | None = None, *, native: bool) -> None:
        self._share = Share(memory or Memory())
        self.ring: Ring | None = None
        self.short = False
        """Whether there is no memory for it."""
        self._held = 0, False
        self._native, self._lock = native, Lock()

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return self._share.held

    def hold(self, size: int, *, raw: bool = False) -> Ring | None:
        """Such a ring, of size 0 none: the one before, with what is in it, if it is one; else a new one."""
        with self._lock:
            if (size, raw) == self._held and not self.short:
                return self.ring
            self.ring, self.short, self._held = None, not self._share.want(size), (size, raw)
            try:
                self.ring = Ring(size, raw=raw, native=self._native) if size and not self.short else None
            except OSError:
                self.short = True
            return self.ring
