"""Frames out of a tunnel that ends here: a raw IP socket for each session, so that several share a port.

The kernel has put fragments together again before such a socket sees a packet, and has asked its firewall. A filter
on the socket chooses by port, VNI, key or session id, and by sender, see listen_filter.

The kernel answers an UDP packet for which no UDP socket is there with an ICMP error, whatever raw sockets took it. So
a bound socket holds the port, and takes nothing; that it could be bound also tells that nobody else receives there.

raw(7), ipv6(7); the counters of a socket: include/uapi/linux/sock_diag.h, SKMEMINFO_*.
"""

from __future__ import annotations

import errno
import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from mirrord.dataplane.capture.listener_filter import compile_listener
from mirrord.dataplane.capture.numbers import Numbers
from mirrord.dataplane.capture.packet_socket import LARGEST_FRAME, SOCKET_BATCH, stamp
from mirrord.dataplane.capture.way_in import Kind, Statistics, WayIn
from mirrord.dataplane.filter import bpf
from mirrord.dataplane.forward.decap import decapsulate, unfinished
from mirrord.dataplane.frame.told import EGRESS
from mirrord.dataplane.frame.wire import TAG, Frame
from mirrord.kernel import MEMINFO, SO_MEMINFO, SO_RCVBUFFORCE, SO_TIMESTAMPNS
from mirrord.plans import ListenPlan, Tunnel
from mirrord.protocols import IPPROTO_GRE, IPPROTO_UDP

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mirrord.dataplane.counters import Seen
    from mirrord.dataplane.filter.by_device import Wanted
    from mirrord.plans import ForwardPlan


class _Holders:
    """UDP ports that are held by this process, each by one socket and for as long as a listener needs it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[tuple[str, int], tuple[socket.socket, int]] = {}

    def take(self, local: str, port: int, family: int, tunnel: Tunnel) -> None:
        with self._lock:
            sock, users = self._held.get((local, port), (None, 0))
            beside = [one for (_, other), (one, _) in self._held.items() if other == port and one.family == family]
            self._held[local, port] = sock or _held(local, port, family, beside, tunnel), users + 1

    def give_back(self, local: str, port: int) -> None:
        with self._lock:
            sock, users = self._held.pop((local, port))
            if users > 1:
                self._held[local, port] = sock, users - 1
            else:
                sock.close()


_holders = _Holders()

_KERNELS = {Tunnel.VXLAN: "vxlan", Tunnel.GENEVE: "geneve"}
"""Devices by which a kernel receives tunnels by UDP."""


def _held(local: str, port: int, family: int, beside: Sequence[socket.socket], tunnel: Tunnel) -> socket.socket:
    """A socket of the port; `beside` are ours of other addresses, of which one may be any."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        bpf.attach_reject_all(sock)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        with _reusing([sock, *beside] if beside else []):
            sock.bind((local, port))
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            why = f"UDP port {port} is in use"
            if kind := _KERNELS.get(tunnel):
                why += f", perhaps by a kernel {kind} device: ip -d link show type {kind}"
            raise OSError(errno.EADDRINUSE, why) from error
        raise
    return sock


@contextmanager
def _reusing(sockets: Sequence[socket.socket]) -> Iterator[None]:
    """Allow these sockets to share a port, only meanwhile: at other times a shared port is another process's."""
    for sock in sockets:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        yield
    finally:
        for sock in sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)


class Listener(WayIn):
    """A session's end of a tunnel. It selects nothing of what is inside; `exact` says so, as a Capture's does.

    `limit` is the longest frame that can go on: a merged one that is longer is marked to be split. `unread` is how many
    packets waited when it was closed, which `statistics` did not count.

    Raises OSError: EPERM without CAP_NET_RAW, EADDRNOTAVAIL when the host does not have the address, EADDRINUSE, in
    words, when something else receives on the port.
    """

    exclusive = True
    numbers: Numbers

    def __init__(self, plan: ListenPlan) -> None:
        self.plan = plan
        self.kind = Kind(tunnel=plan.tunnel, ip_header=plan.local.version == 4, told=plan.told)
        self.limit = self.unread = 0
        self._read = self._malformed = self._dropped = self._missing = 0
        self.numbers = Numbers()
        family = socket.AF_INET if plan.local.version == 4 else socket.AF_INET6
        protocol = IPPROTO_UDP if plan.tunnel.udp else IPPROTO_GRE
        self._holds = plan.tunnel.udp
        if self._holds:
            _holders.take(str(plan.local), plan.port, family, plan.tunnel)
        try:
            self.socket = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
        except BaseException:
            self._let_go()
            raise
        try:
            self._set_up()
        except BaseException:
            self.close()
            raise

    def _set_up(self) -> None:
        sock, plan = self.socket, self.plan
        bpf.attach_reject_all(sock)
        sock.bind((str(plan.local), 0))
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, plan.buffer_size)
        self._forget_early()
        program = compile_listener(plan.tunnel, plan.local.version, plan.port, plan.ident, plan.allow, plan.elsewhere)
        if not bpf.attach_program(sock, program):
            raise OSError(errno.ENOMEM, "the list of allowed peers is longer than net.core.optmem_max admits")

    def _forget_early(self) -> None:
        """Throw away what came between the socket's making and its first filter."""
        self._throw_away()
        self._dropped = self._memory()[1]

    def _throw_away(self) -> int:
        """Empty the socket's buffer, and tell how many packets that was."""
        thrown_away = 0
        with suppress(BlockingIOError):
            while True:
                self.socket.recv(1)
                thrown_away += 1
        return thrown_away

    def fileno(self) -> int:
        return self.socket.fileno()

    def select(self, *wanted: Wanted) -> None:
        """What is wanted of the frames inside, the forward step has to match."""

    def reject_all(self) -> None:
        """Take no more packets; those already taken can still be read."""
        bpf.attach_reject_all(self.socket)

    def statistics(self) -> Statistics:
        """What has been counted since the last call. What the native core finds malformed, it counts itself."""
        dropped = self._memory()[1]
        ring_full = dropped - self._dropped & 0xFFFFFFFF
        counted = Statistics(self._read + ring_full, ring_full, self._malformed, self._missing)
        self._read, self._malformed, self._missing, self._dropped = 0, 0, 0, dropped
        return counted

    def drained(self, _seen: Seen) -> bool:
        """Whether there are no packets that were not read, and so not counted, yet."""
        return self._memory()[0] == 0

    def waiting(self, _seen: Seen) -> int:
        """The kernel does not tell how many packets wait."""
        return 0

    def came(self, seen: Seen) -> int:
        return seen.read

    def follow_way_out(self, forward: ForwardPlan) -> None:
        self.limit = max(forward.frame_limit - (TAG if forward.push_tag else 0), 0)

    def take_unread(self) -> int:
        unread, self.unread = self.unread, 0
        return unread

    def error(self) -> int:
        """The socket's pending errno, and clear it."""
        return self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def read(self) -> Iterator[Frame]:
        """The frames that are there now, at most one batch; malformed packets are counted and left out."""
        for _ in range(SOCKET_BATCH):
            try:
                packet, ancillary, _flags, address = self.socket.recvmsg(LARGEST_FRAME, 64)
            except BlockingIOError:
                return
            self._read += 1
            if self.plan.local.version == 4:
                packet = packet[(packet[0] & 15) * 4 :]
            found = decapsulate(self.plan.tunnel, packet)
            if found is None:
                self._malformed += 1
                continue
            time = 0
            for level, kind, value in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
                    time = stamp(value)
            data, told = found
            if told.number is not None:
                sender = socket.inet_pton(self.socket.family, address[0].partition("%")[0])
                self._missing += self.numbers.note(sender, told.ident, told.number)
            egress = self.plan.told and told.direction == EGRESS
            yield Frame(data, len(data), egress, vnet=unfinished(data, self.limit), time=time, told=told)

    def _memory(self) -> tuple[int, int]:
        """Bytes that wait, and packets dropped since the socket was made."""
        waiting, *_, dropped = MEMINFO.unpack(self.socket.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, MEMINFO.size))
        return waiting, dropped

    def _let_go(self) -> None:
        if self._holds:
            self._holds = False
            _holders.give_back(str(self.plan.local), self.plan.port)

    def close(self) -> None:
        self.unread = self._throw_away()
        self.socket.close()
        self._let_go()
