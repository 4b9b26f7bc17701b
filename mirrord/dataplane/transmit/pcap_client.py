"""One client of a stream: a connection, the queues that it empties, and the thread that does so.

The thread alone has the socket, so that no worker ever waits for a peer, or for TLS. What one queue has at a moment is
sent to its end before the next one's turn: the stream is of whole blocks, whatever comes between.

A client that ends its side of the connection is gone, though it might go on reading: else an idle session would not
notice. What it sends is read, and means nothing.

How much the peer's host has acknowledged is the kernel's SIOCOUTQ (tcp(7)), which under TLS counts a little more than
it is of the stream: never too little, so that no frame counts as mirrored that is not there.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import termios
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from mirrord.dataplane.transmit.queue import Bell
from mirrord.dataplane.transmit.stream_tls import not_now, secured, shake_hands, words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirrord.dataplane.transmit.queue import Channel
    from mirrord.plans import StreamEnd

HANDSHAKE_SECONDS = 10.0
LOOK_SECONDS = 0.1
"""How often a client looks for what nobody rang for."""

UNACKED_SECONDS = 0.01
"""The same while something is on its way."""

ACKS_SECONDS = 0.05
"""How often it is looked up what the peer's host has, while there is always something to send."""

COMPANY_SECONDS = 0.01
COMPANY = 256 << 10
"""Bytes: fewer wait so long for more of them, after others were sent: to wake up and to send costs more than they do.
One that comes after a quiet moment does not wait."""

CHUNK = 1 << 20
KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))


class GoneError(Exception):
    """The connection is over; its text says why."""


class Client:
    """A connection, from the handshake on, for as long as `run` runs.

    `join` is asked for its queues once it may have some, and refuses by GoneError; `leave` is told of its end.
    `announced` gives what a stream begins with, in parts that may become more.
    """

    def __init__(
        self,
        plan: StreamEnd,
        sock: socket.socket,
        peer: str,
        *,
        join: Callable[[Client], None],
        leave: Callable[[Client], None],
        announced: Callable[[], Sequence[bytes]],
    ) -> None:
        self.peer = peer
        self.waited_for = True
        """For its handshake: nothing is known of who that is."""
        self.reason = ""
        """Why it is over."""
        self.bell = Bell()
        self.channels: tuple[Channel, ...] = ()
        """Its queues; whoever adds one puts another row in its place."""
        self._plan, self._sock = plan, sock
        self._join, self._leave, self._announced = join, leave, announced
        self._told = 0  # parts of what is announced
        self._sent = self._acked = 0
        self._acks_at = 0.0
        self._segments: deque[tuple[int, Channel, int]] = deque()  # where in the stream, of which queue, where in it
        self._wants = select.POLLOUT
        self._not_now = not_now(plan)
        self._ending = threading.Event()
        self._ends_since = ""

    def end(self, why: str = "") -> None:
        """Have `run` return soon, for this reason. On any thread, before it has."""
        self._ends_since = why
        self._ending.set()
        self.bell.ring()

    def run(self) -> None:
        """Send what comes, until either side ends it."""
        joined = False
        try:
            self._sock.settimeout(0)
            self._sock = secured(self._sock, self._plan)
            self._shake_hands()
            self._join(self)
            joined = True
            while not self._ending.is_set():
                self._round()
        except GoneError as gone:
            self.reason = str(gone)
        except OSError as error:  # ssl's errors are such, too
            self.reason = words(error)
        finally:
            with suppress(OSError):
                self._see_acked()
            for channel in self.channels:
                channel.over = True
            self._hang_up()
            if joined:
                self._leave(self)

    def _shake_hands(self) -> None:
        """GoneError when it takes too long, or is to end; OSError."""
        until = time.monotonic() + HANDSHAKE_SECONDS
        while not self._ending.is_set():
            try:
                shake_hands(self._sock)
            except self._not_now.room:
                wanted = select.POLLOUT
            except self._not_now.news:
                wanted = select.POLLIN
            else:
                self.waited_for = False
                return
            poll = select.poll()
            poll.register(self._sock, wanted)
            poll.register(self.bell.descriptor, select.POLLIN)
            if not poll.poll(max(until - time.monotonic(), 0) * 1000):
                raise GoneError(f"no handshake within {HANDSHAKE_SECONDS:.0f} s")
        raise GoneError(self._ends_since)

    def _hang_up(self) -> None:
        with suppress(OSError, ValueError):
            if hasattr(self._sock, "unwrap") and not self.reason:
                self._sock.unwrap()
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    # --- rounds ---

    def _round(self) -> None:
        self._announce()
        before = self._sent
        for channel in self.channels:
            self._empty(channel)
        idle = self._sent == before
        if idle or time.monotonic() >= self._acks_at:
            self._see_acked()
        if not idle:
            self._sleep(COMPANY, COMPANY_SECONDS)
        else:
            self._sleep(1, UNACKED_SECONDS if self._acked < self._sent else LOOK_SECONDS)

    def _announce(self) -> None:
        """What the blocks that follow need: the stream's header, and the interfaces that they are of."""
        parts = self._announced()
        for part in parts[self._told :]:
            left = memoryview(part)
            while left:
                done = self._send(left)
                self._sent += done
                left = left[done:]
        self._told = len(parts)

    def _empty(self, channel: Channel) -> None:
        """Send all that is there now."""
        row = channel.row
        until = row.head
        while row.tail < until:
            done = self._send(channel.waiting(until)[:CHUNK])
            row.tail += done
            self._sent += done
            if self._segments and self._segments[-1][1] is channel:
                self._segments.pop()
            self._segments.append((self._sent, channel, row.tail))

    def _send(self, data: memoryview) -> int:
        """Send some of it, however long that takes. GoneError; OSError."""
        while True:
            done = self._try_to_send(data)
            if done:
                return done
            self._see_acked()
            self._wait(self._wants, LOOK_SECONDS)
            if self._ending.is_set():
                raise GoneError

    def _try_to_send(self, data: memoryview) -> int:
        try:
            return self._sock.send(data)
        except self._not_now.room:
            self._wants = select.POLLOUT
        except self._not_now.news:
            self._wants = select.POLLIN
        return 0

    def _sleep(self, enough: int, seconds: float) -> None:
        """Until so many bytes of a queue wait to be sent, the time is over, or there is news of the peer."""
        channels = self.channels
        enough_there = [channel.await_bytes(enough) for channel in channels]  # each is to be asked
        if not any(enough_there):
            self._wait(0, seconds)
        for channel in channels:
            channel.row.wakes_at = 0

    def _wait(self, wanted: int, seconds: float) -> None:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN | wanted)
        if not wanted:
            poll.register(self.bell.descriptor, select.POLLIN)
        for descriptor, event in poll.poll(seconds * 1000):
            if descriptor == self.bell.descriptor:
                os.eventfd_read(descriptor)
            elif event & ~select.POLLOUT:
                self._hear()

    def _hear(self) -> None:
        """Read what means nothing. GoneError: the peer has ended the connection."""
        try:
            heard = self._sock.recv(CHUNK)
        except (*self._not_now.room, *self._not_now.news):
            return
        if not heard:
            raise GoneError("it closed the connection")

    def _see_acked(self) -> None:
        """Tell each queue how much of it the peer's host has."""
        self._acks_at = time.monotonic() + ACKS_SECONDS
        if self._acked == self._sent:
            return
        unacked = bytearray(4)
        fcntl.ioctl(self._sock.fileno(), termios.TIOCOUTQ, unacked)
        self._acked = max(self._acked, self._sent - int.from_bytes(unacked, "little"))
        while self._segments:
            end, channel, tail = self._segments[0]
            channel.acked = max(channel.acked, tail - max(end - self._acked, 0))
            if end > self._acked:
                break
            self._segments.popleft()
