"""Frames out of a device: an AF_PACKET socket, read through a ring or one by one.

A ring (TPACKET_V3) costs least per frame: the kernel fills blocks of memory that both sides see, and hands over a
block when it is full or has waited long enough. A plain socket costs more per frame and nothing while idle. Either
way a frame comes with a vnet header, so that super-frames and unfinished checksums can be told. A capture that may
move between the two ("auto") begins as a plain socket unless it is told otherwise.

The order of set-up matters. The socket is bound to no protocol until a filter that rejects everything is on it, and
that one gives way to the real filter only when all else is done: no frame comes before its filter. A group is joined in
between: the kernel takes a socket into one only when it is bound to a protocol.

Kernel: Documentation/networking/packet_mmap.rst, include/uapi/linux/if_packet.h.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

from mirrord import kernel
from mirrord.dataplane.capture import sender
from mirrord.dataplane.capture.fanout import Group, set_slowly, steer
from mirrord.dataplane.capture.receive import receive
from mirrord.dataplane.capture.way_in import Kind, MovableWayIn, Statistics, WayIn
from mirrord.dataplane.filter import bpf, several
from mirrord.dataplane.filter.by_device import Asked, Wanted, attach_wanted
from mirrord.dataplane.filter.trimmed import trimmed
from mirrord.dataplane.frame.headers import Tag
from mirrord.dataplane.frame.port_vlan import classified
from mirrord.dataplane.frame.wire import VNET, Frame, Vnet
from mirrord.dataplane.frame.without_ethernet import with_ethernet
from mirrord.dataplane.memory import WHY_NOT, Memory, Share
from mirrord.dataplane.netns import inside
from mirrord.plans import LEAST_RING_BLOCKS, RING_BLOCK, CapturePlan
from mirrord.protocols import ETH_P_8021Q, ETH_P_ALL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirrord.dataplane.forward.flows import FlowKey


BLOCK_SIZE, MINIMUM_BLOCKS = RING_BLOCK, LEAST_RING_BLOCKS
RETIRE_MILLISECONDS, BUSY_RETIRE_MILLISECONDS, SEVERAL_RETIRE_MILLISECONDS = 4, 8, 3
"""How long a block that is not full may keep its frames back: where a ring is asked for, where "auto" takes one for a
busy source, and where it is of several devices, quiet ones among them. A slow stream uses up a block each time, so that
this also bounds how long the reader may be held up: by 64 or 128 ms with the default 16 blocks, by 192 with 64. Losing
nothing is worth 4 ms to a busy source; it also wakes less often.
"""

HEADROOM = 16
"""Bytes before a packet of a device without Ethernet, for the header that the native core puts there."""

NOMINAL_FRAME = 2048
"""The kernel wants a frame size of a ring; in version 3 frames lie close together and it has no effect."""

LARGEST_FRAME = BLOCK_SIZE
SOCKET_BATCH = 64

MOST_RINGS = 4
"""How many times `ring_size` the ring of several devices is at most: so many of them, and it has that for each."""

ROOM_TO_MOVE = 4
"""How many times `ring_size` a plain socket that may become a ring can hold: what comes while the ring is made."""

LARGEST_BUFFER = (1 << 30) - 1
"""Bytes of a plain socket's buffer: the kernel keeps twice the number, as an int."""

_BLOCK = struct.Struct("=8xIII")  # block_status, num_pkts, offset_to_first_pkt (struct tpacket_block_desc)
_REQUEST = struct.Struct("=7I")  # struct tpacket_req3
_BLOCK_STATUS = struct.Struct("=I")
_STATUS_AT = 8
_FRAME = struct.Struct(
    "=IIIIIIHH4xIH"
)  # tpacket3_hdr: next_offset, sec, nsec, snaplen, len, status, mac, net, tci, tpid
_PROTOCOL, _PACKET_TYPE = 48 + 2, 48 + 10  # sll_protocol, sll_pkttype of the sockaddr_ll behind a tpacket3_hdr
_INDEX, _INDEX_AT = struct.Struct("=i"), 48 + 4  # its sll_ifindex
_ADDRESS = struct.Struct("=HHiHBB8x")  # struct sockaddr_ll: family, protocol, index, ...
_MEMBERSHIP = struct.Struct("=iHH8x")  # struct packet_mreq
_AUXDATA = struct.Struct("=IIIHHHH")  # status, len, snaplen, mac, net, tci, tpid (struct tpacket_auxdata)
_TIMESPEC = struct.Struct("@ll")
_STATISTICS = struct.Struct("=II")
_libc = ctypes.CDLL(None, use_errno=True)


class Capture(MovableWayIn):
    """A filtered packet socket, which takes what is `wanted`: what the plan says, or what is given. It is bound to the
    plan's device, or, where that is "", on all devices of the namespace.

    `exact` tells whether its filter takes that and nothing else, or is a coarse one. With `stamped` the kernel stamps a
    frame once for all that capture it; else a ring may stamp it anew.

    `mode` is "ring" or "socket", whatever the plan leaves open. A ring comes out of `memory`, and is shorter where
    there was none for all of `ring_size`. In a group that divides it takes nothing before it is told to `select`. One
    that may move has a group of its own.

    Raises OSError: EPERM without CAP_NET_RAW, ENODEV when the device is not there or has another index by now,
    ENOMEM when not even the shortest ring can be had.
    """

    def __init__(
        self,
        plan: CapturePlan,
        wanted: Asked = (),
        *,
        mode: str = "",
        group: Group | None = None,
        stamped: bool = False,
        memory: Memory | None = None,
    ) -> None:
        self.plan = plan
        self.memory = memory or Memory()
        self._share = Share(self.memory)
        self._stamped = stamped
        self.wanted = wanted or (Wanted(plan.index, plan.selection),)
        self._promiscuous: set[int] = set()  # indexes of devices that are made to receive all
        self.mode = mode or ("socket" if plan.mode == "auto" else plan.mode)
        self._group = Group() if group is None and (plan.mode == "auto" or not plan.device) else group
        self._joined = False
        self.rejecting = False
        self._error = 0  # what a reading came upon
        self.ring: mmap.mmap | None = None
        self._statuses = memoryview(b"")  # the first word of each block's state, in the ring's memory
        self.kind = Kind(raw=plan.raw, pvid=plan.pvid)
        self._block = 0
        self._at, self._left = 0, 0  # the next frame in the block, and how many there are from it on; or 0
        inside(plan.netns, self._open)

    def _open(self) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        try:
            self._set_up()
        except BaseException:
            self.close()
            raise

    def _set_up(self) -> None:
        sock, plan = self.socket, self.plan
        if self.mode == "ring":
            sock.setsockopt(kernel.SOL_PACKET, kernel.PACKET_VERSION, kernel.TPACKET_V3)
        sock.setsockopt(kernel.SOL_PACKET, kernel.PACKET_VNET_HDR, 1)
        if self.mode == "ring":
            if self._stamped:
                sock.setsockopt(socket.SOL_SOCKET, kernel.SO_TIMESTAMPNS, 1)
            if plan.raw:
                sock.setsockopt(kernel.SOL_PACKET, kernel.PACKET_RESERVE, HEADROOM)
            self._map_ring()
        else:
            sock.setsockopt(kernel.SOL_PACKET, kernel.PACKET_AUXDATA, 1)
            sock.setsockopt(socket.SOL_SOCKET, kernel.SO_TIMESTAMPNS, 1)
            size = plan.ring_size * (ROOM_TO_MOVE if plan.mode == "auto" else 1)
            sock.setsockopt(socket.SOL_SOCKET, kernel.SO_RCVBUFFORCE, min(size, LARGEST_BUFFER))
        bpf.attach_reject_all(sock)
        if plan.device:
            sock.bind((plan.device, ETH_P_ALL))
            if socket.if_nametoindex(plan.device) != plan.index:
                raise OSError(19, "the device was replaced", plan.device)
        else:
            _bind_everywhere(sock)
        self._receive_all()
        if self._group is not None:
            self._join(self._group)
        self.exact = True
        if self._group is None or not self._group.divides:
            self.select(*self.wanted)

    def _join(self, group: Group) -> None:
        group.join(self.socket)
        self._joined = True
        if self.plan.device or group.divides:  # among its sockets, of which a sender would be one
            return
        with suppress(OSError):  # to have none costs time, and nothing else
            if group.sender is None:
                group.sender = sender.open_sender(self.wanted[0].selection.mark, group, _bind_everywhere)
            self.sender = sender.described(group.sender, self.plan.netns)

    def _receive_all(self) -> None:
        """Have devices be promiscuous as planned, as long as something is wanted of them."""
        devices: set[int] = set()
        if self.plan.promiscuous:
            devices = {self.plan.index} if self.plan.device else {device for device, _ in self.wanted}
        for device in devices - self._promiscuous:
            with nullcontext() if self.plan.device else suppress(OSError):  # it is gone: there is news of that
                self._set_membership(kernel.PACKET_ADD_MEMBERSHIP, device)
        for device in self._promiscuous - devices:
            with suppress(OSError):
                self._set_membership(kernel.PACKET_DROP_MEMBERSHIP, device)
        self._promiscuous = devices

    def _set_membership(self, option: int, device: int) -> None:
        self.socket.setsockopt(kernel.SOL_PACKET, option, _MEMBERSHIP.pack(device, kernel.PACKET_MR_PROMISC, 0))

    def _map_ring(self) -> None:
        """A ring of the size that is wanted; or of half of it, and so on, as long as there is no memory."""
        wanted = max(-(-self.plan.ring_size // BLOCK_SIZE), MINIMUM_BLOCKS)
        devices = 1 if self.plan.device else len({device for device, _ in self.wanted})
        self.block_count = wanted * min(devices, MOST_RINGS)
        while True:
            try:
                self._try_ring()
                break
            except OSError as error:
                if error.errno != errno.ENOMEM or self.block_count <= MINIMUM_BLOCKS:
                    raise
            set_slowly(self.socket, kernel.PACKET_RX_RING, bytes(_REQUEST.size))  # what was had and cannot be mapped
            self.block_count = max(self.block_count // 2, MINIMUM_BLOCKS)
        if self.block_count < wanted:
            had, size = self.block_count * BLOCK_SIZE >> 10, self.plan.ring_size >> 10
            self.short_ring = f"of {had} KiB: no memory for {size} KiB"
        assert self.ring is not None  # tried, and had
        self._statuses = memoryview(self.ring).cast("I")[_STATUS_AT // 4 :: BLOCK_SIZE // 4]

    def _try_ring(self) -> None:
        if not self._share.want(self.block_count * BLOCK_SIZE):
            raise OSError(errno.ENOMEM, f"no memory for its ring ({WHY_NOT})")
        frames = self.block_count * (BLOCK_SIZE // NOMINAL_FRAME)
        retire = self._retire_milliseconds
        request = (BLOCK_SIZE, self.block_count, NOMINAL_FRAME, frames, retire, 0, 0)
        set_slowly(self.socket, kernel.PACKET_RX_RING, _REQUEST.pack(*request))
        self.ring = mmap.mmap(self.socket.fileno(), self.block_count * BLOCK_SIZE)

    @property
    def _retire_milliseconds(self) -> int:
        if not self.plan.device:
            return SEVERAL_RETIRE_MILLISECONDS
        return BUSY_RETIRE_MILLISECONDS if self.plan.mode == "auto" else RETIRE_MILLISECONDS

    def may_wait(self, seconds: float) -> bool:
        """Whether it has room for so long, however few frames come, while nobody reads it."""
        return self.ring is None or self.block_count * self._retire_milliseconds >= 1000 * seconds

    def fileno(self) -> int:
        return self.socket.fileno()

    def select(self, *wanted: Wanted) -> None:
        """Take what any of these wants from now on; none is missed that was wanted before, too. OSError when there is
        no room: then it goes on as before.
        """
        if self.plan.device:
            selections = dict.fromkeys(one.selection for one in wanted)
            self.exact = several.attach(self.socket, *selections, raw=self.plan.raw, pvid=self.plan.pvid)
        else:
            self.exact = attach_wanted(self.socket, wanted, pvid=self.plan.pvid)
        self.wanted, self.trimmed, self.rejecting = wanted, frozenset(), False
        self._receive_all()

    def trim(self, flows: frozenset[FlowKey]) -> None:
        """Keep the headers alone of these flows' frames from now on, and other frames whole. Where there is no room for
        that, it goes on as before. Only of a device with Ethernet, where its filter is exact.
        """
        selections, pvid = dict.fromkeys(one.selection for one in self.wanted), self.plan.pvid
        program = several.compile_selections(tuple(selections), pvid=pvid)
        if bpf.attach_program(self.socket, trimmed(program, flows, pvid=pvid) if flows else program):
            self.trimmed = flows

    def movable(self) -> MovableWayIn | None:
        return self if self.plan.mode == "auto" else None

    def fill(self) -> float:
        """The share of the ring's blocks that wait to be read; 0 without a ring."""
        statuses = self._statuses.tolist()
        return 1 - statuses.count(kernel.TP_STATUS_KERNEL) / len(statuses) if statuses else 0.0

    def reject_all(self) -> None:
        """Take no more frames; those already taken can still be read."""
        self.rejecting, self.trimmed = True, frozenset()
        bpf.attach_reject_all(self.socket)

    def successor(self, mode: str) -> Capture:
        """Open a capture of the other mode that gets every frame from now on: this one has its last. Takes long.

        Only of a plan whose mode is "auto". Not before what this one came after is closed.
        """
        assert self._group is not None  # of one that may move
        steer(self.socket, 0)  # this one, also when the next joins
        after = Capture(self.plan, self.wanted, mode=mode, group=self._group, memory=self.memory)
        try:
            steer(self.socket, self._group.sockets - 1)
        except OSError:
            after.close()
            raise
        return after

    def succeed(self, before: WayIn) -> None:
        """Take over what the one that this came after was told while this was made."""
        assert isinstance(before, Capture)  # of which this is the successor
        if before.rejecting:
            self.reject_all()
        elif before.wanted != self.wanted:
            self.select(*before.wanted)

    def statistics(self) -> Statistics:
        """What has been counted since the last call: reading sets the kernel's counters to zero."""
        return Statistics(
            *_STATISTICS.unpack(self.socket.getsockopt(kernel.SOL_PACKET, kernel.PACKET_STATISTICS, _STATISTICS.size))
        )

    def error(self) -> int:
        """The socket's pending errno, and clear it: ENETDOWN when the device went down or away, else 0."""
        error, self._error = self._error, 0
        return error or self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def read(self) -> Iterator[Frame]:
        """The frames that are there now: at most one block of a ring, or one batch of a plain socket.

        A caller that stops early gets the next frame at the next call.
        """
        return self._read_socket() if self.ring is None else self._read_block(self.ring)

    def _read_block(self, ring: mmap.mmap) -> Iterator[Frame]:
        base = self._block * BLOCK_SIZE
        status, count, first = _BLOCK.unpack_from(ring, base)
        if not status & kernel.TP_STATUS_USER:
            return
        if not self._left:
            self._at, self._left = base + first, count
        if not self._left:
            self._give_back()
        while self._left:
            at = self._at
            step, seconds, nanoseconds, captured, length, state, mac, _net, tci, tpid = _FRAME.unpack_from(ring, at)
            self._at, self._left = at + step, self._left - 1
            frame = Frame(
                data=ring[at + mac : at + mac + captured],
                length=length,
                egress=ring[at + _PACKET_TYPE] == kernel.PACKET_OUTGOING,
                tag=_tag(state, tpid, tci),
                vnet=Vnet._make(VNET.unpack_from(ring, at + mac - VNET.size)),
                time=seconds * 1_000_000_000 + nanoseconds,
                device=_INDEX.unpack_from(ring, at + _INDEX_AT)[0],
            )
            protocol = int.from_bytes(ring[at + _PROTOCOL : at + _PROTOCOL + 2], "big")
            if not self._left:
                self._give_back()
            yield self._as_captured(frame, protocol)

    def _as_captured(self, frame: Frame, protocol: int) -> Frame:
        """The frame with what it lacks on this device."""
        if self.plan.raw:
            return with_ethernet(frame, protocol)
        return classified(frame, self.plan.pvid) if self.plan.pvid else frame

    def _give_back(self) -> None:
        """Give the block back to the kernel: its last frame was taken out."""
        assert self.ring is not None  # that it is a block of
        _BLOCK_STATUS.pack_into(self.ring, self._block * BLOCK_SIZE + _STATUS_AT, kernel.TP_STATUS_KERNEL)
        self._block = (self._block + 1) % self.block_count

    def _read_socket(self) -> Iterator[Frame]:
        for _ in range(SOCKET_BATCH):
            try:
                data, ancillary, device, packet_type, protocol = receive(self.socket)
            except BlockingIOError:
                return
            except OSError as error:  # the device went down since the socket was found ready; this is told once
                self._error = error.errno or 0
                return
            state = length = tci = tpid = time = 0
            for level, kind, value in ancillary:
                if (level, kind) == (kernel.SOL_PACKET, kernel.PACKET_AUXDATA):
                    state, length, _, _, _, tci, tpid = _AUXDATA.unpack(value)
                elif (level, kind) == (socket.SOL_SOCKET, kernel.SO_TIMESTAMPNS):
                    time = stamp(value)
            frame = Frame(
                data=data[VNET.size :],
                length=length,
                egress=packet_type == kernel.PACKET_OUTGOING,
                tag=_tag(state, tpid, tci),
                vnet=Vnet._make(VNET.unpack_from(data)),
                time=time,
                device=device,
            )
            yield self._as_captured(frame, protocol)

    def close(self) -> None:
        self._statuses.release()
        if self.ring is not None:
            self.ring.close()
        self.socket.close()
        self._share.want(0)
        if self._joined and self._group is not None:
            self._joined = False
            self._group.leave()


def _bind_everywhere(sock: socket.socket) -> None:
    """Python's own bind wants a device."""
    address = _ADDRESS.pack(socket.AF_PACKET, socket.htons(ETH_P_ALL), 0, 0, 0, 0)
    if _libc.bind(sock.fileno(), address, len(address)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def stamp(timespec: bytes) -> int:
    """Nanoseconds since 1970, of what comes with a packet by SO_TIMESTAMPNS."""
    seconds, nanoseconds = _TIMESPEC.unpack(timespec)
    return int(seconds * 1_000_000_000 + nanoseconds)


def _tag(state: int, tpid: int, tci: int) -> Tag | None:
    if not state & kernel.TP_STATUS_VLAN_VALID:
        return None
    return Tag(tpid if state & kernel.TP_STATUS_VLAN_TPID_VALID else ETH_P_8021Q, tci & 0xFFFF)
