"""Copies out of the host: through a device, over UDP or raw IP sockets, or through a device with outer headers of ours.

A transmit is a row of lanes and what to do with their errors; the native core sends through the same sockets. Every
socket carries the mark, by which captures know a copy, and takes no frame in.

Copies leave in the order in which they come. Where there are several sockets, that takes a system call for each run of
copies of one of them. Only the native core may let them overtake, where the plan says so.

A copy counts as sent when the kernel's queue or driver accepted it. Without IP_RECVERR a UDP socket would report
success for what the queue dropped (ip(7)); with it, an ICMP error about an earlier copy comes back on the next send,
which is then tried again.

Where the outer headers are ours, copies leave by a packet socket, and the lanes are source ports alone, which other
sessions have, too: see source_ports.py.
"""

from __future__ import annotations

import errno
import select
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from mirrord.dataplane.closers import close_later
from mirrord.dataplane.counters import Slot, dropped_by
from mirrord.dataplane.netns import inside
from mirrord.dataplane.transmit.alike import alike
from mirrord.dataplane.transmit.lanes import Lanes
from mirrord.dataplane.transmit.outer import Outer
from mirrord.dataplane.transmit.source_ports import SourcePorts
from mirrord.dataplane.transmit.tunnel_socket import (
    clear_errors,
    leave_checksum_out,
    require_index,
    set_common,
    tunnel_socket,
)
from mirrord.dataplane.transmit.tx_ring import TxRing, TxRings
from mirrord.dataplane.transmit.way import Way
from mirrord.dataplane.transmit.way_out import Sent, SharedWayOut
from mirrord.kernel import PACKET_VNET_HDR, SOL_PACKET
from mirrord.plans import DevicePlan, TunnelPlan
from mirrord.protocols import IPPROTO_UDP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mirrord.dataplane.forward.step import Copy
    from mirrord.dataplane.transmit.lanes import NativeLane
    from mirrord.plans import TransmitPlan

LANES = 32
"""Source ports of a UDP destination: flows are spread over them by their hash."""

PATIENCE_MILLISECONDS = 10
"""How long a turn may wait, in all, for room in a full send buffer: the ring holds what comes meanwhile. When that is
used up, a copy that finds no room is lost at once, until the next turn."""

JAMMED_MILLISECONDS, JAMMED_SHARE = 1, 8
"""What is jammed is to cost the other sessions of the worker little, however many sessions are: all that ran out of
patience in their last turn have so long together, once, and an eighth of the time."""

LATELY_SECONDS = 0.1
"""How long after one ran out of patience that leaves by a packet socket, all by the same device count as jammed."""

ATTEMPTS, REFUSED_ATTEMPTS = 4, 64
"""How often a copy is tried: an error may be about an earlier copy, reported by ICMP. "Connection refused" always is,
and comes in bursts from a collector that does not listen."""


class _Kept(threading.local):
    """What a worker has for those that are jammed, all together; the device that was the last one to jam."""

    left, at = 0.0, 0.0
    alike, jammed_at = b"", 0.0

    def take_from(self) -> float:
        now = time.monotonic()
        self.left = min(self.left + (now - self.at) * 1000 / JAMMED_SHARE, JAMMED_MILLISECONDS)
        self.at = now
        return self.left


_kept = _Kept()


class Patience:
    """How long a turn may still wait for room."""

    def __init__(self) -> None:
        self._left = float(PATIENCE_MILLISECONDS)
        self._jammed = self._was_jammed = False  # it ran out in this turn, or in the one before

    def begin_turn(self) -> None:
        self._left = PATIENCE_MILLISECONDS
        self._was_jammed, self._jammed = self._jammed, False

    def wait_for_room(self, sock: socket.socket, alike: bytes) -> bool:
        """Wait until the socket has room; False when there is none in time. `alike`: of a packet socket, else empty."""
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        begun = time.monotonic()
        jams = alike == _kept.alike and begun - _kept.jammed_at < LATELY_SECONDS if alike else False
        kept = self._was_jammed or jams
        left = _kept.take_from() if kept else self._left
        room = bool(poll.poll(0 if self._jammed else int(left)))  # whole milliseconds, which it would round up to
        now = time.monotonic()
        left = max(left - (now - begun) * 1000, 0.0)
        if kept:
            _kept.left = left
        else:
            self._left = left
        if not room:
            self._jammed = True
            if alike:
                _kept.alike, _kept.jammed_at = alike, now
        return room


class Transmit(SharedWayOut):
    """Where the copies of a session leave. `lanes` is the row that a flow's hash chooses from.

    Raises OSError when a socket cannot be opened: EPERM without CAP_NET_ADMIN for the mark, ENODEV, ENETUNREACH, ...
    """

    def __init__(self, plan: DevicePlan | TunnelPlan) -> None:
        super().__init__()
        self.plan = plan
        self._packet: socket.socket | None = None
        self._outer: Outer | None = None
        self._alike = alike(0, 0, None)
        self._patience = Patience()
        self._heard = 0  # of the times that its source ports were told something
        self.lanes = self._lanes_of(plan)
        try:
            if isinstance(plan, TunnelPlan):
                inside(plan.netns, lambda: self._open_packet(plan))
        except BaseException:
            self.close()
            raise

    def _lanes_of(self, plan: DevicePlan | TunnelPlan) -> Lanes:
        if isinstance(plan, DevicePlan):
            return Lanes(1, lambda: inside(plan.netns, lambda: _packet_socket(plan)))
        count = LANES if plan.protocol == IPPROTO_UDP else 1
        if plan.hop is None:
            return Lanes(count, lambda: tunnel_socket(plan))
        ports = SourcePorts.of(plan, count)
        self._heard = ports.times_told()
        return ports

    def follow(self, plan: TransmitPlan) -> None:
        """Take another next hop, or leave that to the kernel; the plan is else the same.

        The source ports stay, unless the outer headers become the kernel's, or ours; and so does the packet socket,
        where the device does.
        """
        before = self.plan
        if plan == before or not isinstance(before, TunnelPlan) or not isinstance(plan, TunnelPlan):
            return
        lanes = self._lanes_by(plan)
        try:
            inside(plan.netns, lambda: self._open_packet(plan))
        except BaseException:
            if lanes is not self.lanes:
                lanes.close()
            raise
        if lanes is not self.lanes:
            self.lanes.close()
        elif plan.hop is None:
            for lane in lanes.opened:
                leave_checksum_out(lane.socket, plan)
        self.lanes, self.plan = lanes, plan

    def _lanes_by(self, plan: TunnelPlan) -> Lanes:
        """The lanes to leave by from now on."""
        if (plan.hop is not None) == isinstance(self.lanes, SourcePorts):
            return self.lanes
        try:
            return self._lanes_of(plan)
        except OSError:
            if plan.hop is not None:
                raise
            return self.lanes  # there is no route: what these send is refused for the same reason

    def _open_packet(self, plan: TunnelPlan) -> None:
        device, old = _device_of(plan), self._packet
        if device is None:
            self._packet = self._outer = None
        else:
            if old is None or device != self.device or not _is_bound(old, device):
                self._packet = _packet_socket(device, vnet_header=True)
            self._outer = Outer(plan)
            self._alike = alike(device.index, device.mark, device.netns)
        if old is not None and old is not self._packet:
            close_later(old)

    def send(self, copies: Iterable[Copy]) -> Sent:
        """Send copies in order, up to the first that is refused."""
        accepted = 0
        for copy in copies:
            (sock, port), data = self.lanes[(copy.flow >> 32) * len(self.lanes) >> 32], copy.data
            if self._packet is not None and self._outer is not None:
                sock, data = self._packet, self._outer.wrap(data, port)
            error = _send(sock, data, self._patience, b"" if self._packet is None else self._alike)
            if error:
                return Sent(accepted, error)
            accepted += 1
        return Sent(accepted)

    def lost(self, error: int) -> Slot:
        """What a frame counts as whose copy was refused with this errno."""
        if self._packet is not None and error in (errno.ENETDOWN, errno.ENXIO):
            return Slot.dropped_no_route  # what a routed socket calls a device that is down, or gone
        if self._packet is None and isinstance(self.plan, TunnelPlan) and error == errno.EINVAL:
            return Slot.dropped_no_route  # what a blackhole route answers, ip-route(8)
        return dropped_by(error)

    def begin_turn(self) -> None:
        """Renew the time that the turn may wait for room."""
        super().begin_turn()
        self._patience.begin_turn()

    def new_ring(self) -> TxRings | None:
        """A TX ring to send from, for `ring`; None where there is no use for one, or no memory. Takes long."""
        ring = self.new_ring_of_its_own()
        return None if ring is None else TxRings({0: ring})

    def new_ring_of_its_own(self) -> TxRing | None:
        """The same, of one way among several."""
        device = _device_of(self.plan)
        if device is None or not device.takes_ring or (isinstance(self.plan, TunnelPlan) and self.plan.gso):
            return None
        vnet_header = self._packet is not None
        with suppress(OSError):
            return inside(device.netns, lambda: TxRing(_packet_socket(device, vnet_header=vnet_header), device))
        return None

    def native(self) -> tuple[Way, ...]:
        """For the native core."""
        return (self.native_way(None if self.ring is None else self.ring.of(0, self.device)),)

    def native_way(self, ring: TxRing | None) -> Way:
        """The same, with this TX ring."""
        way = Way(self.lanes.row())
        if isinstance(self.plan, TunnelPlan):
            way = way._replace(gso=self.plan.gso, overtakes=self.plan.overtakes)
        if ring is not None:
            way = way._replace(ring=ring)
        if self._packet is not None and self._outer is not None:
            ports = self.lanes.number if isinstance(self.lanes, SourcePorts) else 0
            way = way._replace(packet=self._packet.fileno(), alike=self._alike, ports=ports, outer=self._outer.header)
        return way

    @property
    def callback(self) -> Callable[..., NativeLane | None]:
        return self._open_lane

    def _open_lane(self, _place: int, number: int) -> NativeLane:
        return self.lanes.native(number)

    @property
    def device(self) -> DevicePlan | None:
        """What its packet socket is bound to; None where the kernel routes."""
        return _device_of(self.plan)

    def told(self) -> bool:
        """Whether an ICMP error has come about what the packet socket sent, since this was last asked.

        On any thread: a transmit that is closed meanwhile was told nothing.
        """
        ports = self.lanes
        if not isinstance(ports, SourcePorts):
            return False
        before, self._heard = self._heard, ports.times_told()
        return self._heard != before

    @property
    def closes_at_once(self) -> bool:
        return self._packet is None and self.ring is None and isinstance(self.plan, TunnelPlan)

    def close_all(self) -> None:
        self.lanes.close()
        if self._packet is not None:
            self._packet.close()
        if self.ring is not None:
            self.ring.close()


def _device_of(plan: DevicePlan | TunnelPlan) -> DevicePlan | None:
    """What a packet socket is to be bound to; None where the kernel routes."""
    if isinstance(plan, DevicePlan):
        return plan
    if plan.hop is None:
        return None
    return DevicePlan(plan.hop.device, plan.hop.index, plan.mark, plan.netns, takes_ring=plan.hop.takes_ring)


def _packet_socket(plan: DevicePlan, *, vnet_header: bool = False) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # protocol 0: receives nothing, packet(7)
    try:
        sock.bind((plan.device, 0))
        require_index(plan)
        set_common(sock, plan.mark)
        if vnet_header:
            sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def _is_bound(sock: socket.socket, plan: DevicePlan) -> bool:
    """Whether it is the packet socket of this device still: to another one of the same index the kernel binds none."""
    return str(sock.getsockname()[0]) == plan.device


def _send(sock: socket.socket, data: bytes, patience: Patience, alike: bytes) -> int:
    """Send one copy; 0, or the errno that it was refused with."""
    error = attempt = 0
    while attempt < (REFUSED_ATTEMPTS if error == errno.ECONNREFUSED else ATTEMPTS):
        attempt += 1
        try:
            sock.send(data)
        except BlockingIOError:
            clear_errors(sock)  # else poll would report them at once
            if not patience.wait_for_room(sock, alike):
                return errno.EAGAIN
            error = errno.EAGAIN
        except OSError as refused:
            error = refused.errno or errno.EIO
            clear_errors(sock)
        else:
            return 0
    return error
