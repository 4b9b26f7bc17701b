"""The far end of a session's stream: it connects to a collector, again and again, or lets several connect to it.

It is there before the session runs: without a client there is nothing to capture for. Each source of the session puts
its packets into queues of its own, one for each client; a client's thread empties those of all sources into its
connection (pcap_client.py), and a stream names the interface of each (pcapng).
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from mirrord import __version__
from mirrord.dataplane.memory import WHY_NOT, Memory
from mirrord.dataplane.transmit import pcapng
from mirrord.dataplane.transmit.pcap_client import KEEPALIVE, Client, GoneError
from mirrord.dataplane.transmit.pcap_door import MOST_AT_THE_DOOR, Door
from mirrord.dataplane.transmit.queue import MOST_CLIENTS, Bell, Channel
from mirrord.dataplane.transmit.stream_tls import unusable, words
from mirrord.plans import queue_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mirrord.plans import StreamEnd

CONNECT_SECONDS = 5.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds from one attempt to connect to the next, each time twice as long, while none lasted."""

LASTED_SECONDS = 10.0
LISTEN_AGAIN_SECONDS = 1.0
_PCAP_HEADER = struct.Struct("<IHHiIII")  # pcap(5): magic number, version, zeros, snapshot length, link type
PCAP_NANOSECONDS = 0xA1B23C4D
WHOLE = 262144
"""The snapshot length of a file whose packets are whole, as libpcap has it (MAXIMUM_SNAPLEN)."""


class Port:
    """Where a source puts its packets: by client, a queue. `changed` counts how often there were others."""

    def __init__(self, interface: int) -> None:
        self.interface = interface
        self.channels: dict[Client, Channel] = {}
        self.changed = 0


class PcapEnd:
    """`state` says why there is no client, "" while there is one. `events` are for the log: what, and about whom."""

    def __init__(self, plan: StreamEnd, memory: Memory | None = None) -> None:
        self.plan = plan
        self.events: deque[tuple[str, dict[str, str]]] = deque(maxlen=100)
        self._memory = memory or Memory()
        self._lock = threading.Lock()  # of all below
        self._clients: list[Client] = []
        self._ports: list[Port] = []
        self._interfaces: dict[tuple[str, int, bool], int] = {}
        self._parts: list[bytes] = []
        self._trouble = f"connecting to {_text(plan)}"
        self._moved = False
        self._ending = threading.Event()
        self._bell = Bell()
        self._door = Door()
        self._listener: socket.socket | None = None
        if not plan.pcap:
            self._parts.append(pcapng.section(f"mirrord {__version__}", plan.comment))
        if plan.listens:
            self._trouble = self._nobody
            self._listen()
        work = self._serve if plan.listens else self._connect
        self._thread = threading.Thread(target=work, name="stream", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self._close()
            raise

    # --- on any thread ---

    @property
    def state(self) -> str:
        """Why nobody gets anything; "" while somebody does."""
        with self._lock:
            return "" if self._clients else self._trouble

    @property
    def _nobody(self) -> str:
        return f"nobody is connected to {_text(self.plan)}"

    def moved(self) -> bool:
        """Whether clients came or went, or the trouble is another one, since this was last asked."""
        with self._lock:
            moved, self._moved = self._moved, False
            return moved

    def attach(self, name: str, snaplen: int, *, raw: bool) -> Port:
        """A source, whose packets are this interface's. OSError: ENOTCONN without a client; ENOMEM."""
        with self._lock:
            if not self._clients:
                raise OSError(errno.ENOTCONN, self._trouble)
            port = Port(self._interface(name, snaplen, raw=raw))
            try:
                for client in self._clients:
                    self._add_channel(port, client)
            except GoneError as lacking:
                self._detach(port)
                raise OSError(errno.ENOMEM, str(lacking)) from None
            self._ports.append(port)
            return port

    def detach(self, port: Port) -> None:
        """The end of a source."""
        with self._lock:
            self._detach(port)

    def drop(self, port: Port, client: Client) -> None:
        """A source does not use the queue of a client that has gone any more."""
        with self._lock:
            self._take_channel(port, client)

    def close(self) -> None:
        """End every connection. Blocks a moment: then `events` has the last of it."""
        self._ending.set()
        self._bell.ring()
        self._door.end_all()
        self._thread.join(1.0)
        self._door.wait_empty()

    # --- interfaces ---

    def _interface(self, name: str, snaplen: int, *, raw: bool) -> int:
        known = self._interfaces
        key = name, snaplen, raw
        if self.plan.pcap:
            if known and next(iter(known))[2] != raw:
                raise OSError(errno.EINVAL, 'format = "pcap" has one kind of packets: Ethernet frames, or IP packets')
            if not known:
                link = pcapng.LINKTYPE_RAW if raw else pcapng.LINKTYPE_ETHERNET
                self._parts.append(_PCAP_HEADER.pack(PCAP_NANOSECONDS, 2, 4, 0, 0, snaplen or WHOLE, link))
        elif key not in known:
            self._parts.append(pcapng.interface(name, snaplen, self.plan.comment, raw=raw))
        return known.setdefault(key, len(known))

    # --- queues; with the lock ---

    def _add_channel(self, port: Port, client: Client) -> None:
        size = queue_bytes(self.plan.buffer)
        if not self._memory.take(size):
            raise GoneError(f"no memory for its queue ({WHY_NOT})")
        try:
            channel = Channel(self.plan.buffer, client.bell)
        except OSError as error:
            self._memory.give_back(size)
            raise GoneError(f"no memory for its queue: {error.strerror}") from None
        port.channels[client] = channel
        client.channels = (*client.channels, channel)
        port.changed += 1

    def _take_channel(self, port: Port, client: Client) -> None:
        channel = port.channels.pop(client, None)
        if channel is not None:
            self._memory.give_back(queue_bytes(self.plan.buffer))
            client.channels = tuple(one for one in client.channels if one is not channel)

    def _detach(self, port: Port) -> None:
        for client in list(port.channels):
            self._take_channel(port, client)
        if port in self._ports:
            self._ports.remove(port)

    # --- clients ---

    def _join(self, client: Client) -> None:
        with self._lock:
            if len(self._clients) >= MOST_CLIENTS:
                raise GoneError(f"there are {MOST_CLIENTS} clients already")
            try:
                for port in self._ports:
                    self._add_channel(port, client)
            except GoneError:
                for port in self._ports:
                    self._take_channel(port, client)
                    port.changed += 1
                raise
            self._clients.append(client)
            self._moved = True
        self.events.append(("client connected", {"client": client.peer}))

    def _leave(self, client: Client) -> None:
        with self._lock:
            self._clients.remove(client)
            for port in self._ports:
                port.changed += 1
            self._moved = True

    def _client(self, sock: socket.socket, peer: str, address: str = "") -> Client:
        """A connection, which is at the door from now on, until it has run."""
        _set_up(sock, self.plan.mark)
        client = Client(self.plan, sock, peer, join=self._join, leave=self._leave, announced=lambda: self._parts)
        self._door.enter(client, address)
        if self._ending.is_set():
            client.end()
        return client

    def _run(self, client: Client) -> None:
        """A connection, from its beginning to its end."""
        try:
            client.run()
        finally:
            reason = client.reason or "the session ended"
            self.events.append(("client gone", {"client": client.peer, "reason": reason}))
            self._door.leave(client)
        if not self.plan.listens and client.reason:
            self._say(f"{_text(self.plan)}: {client.reason}")
        elif self.plan.listens:
            why = unusable(self.plan)  # the files may be others by now
            self._say(f"no client of {_text(self.plan)} can be served: {why}" if why else self._nobody)

    def _say(self, trouble: str) -> None:
        with self._lock:
            self._moved |= trouble != self._trouble
            self._trouble = trouble

    # --- the thread: to connect ---

    def _connect(self) -> None:
        pause = FIRST_PAUSE
        while not self._ending.is_set():
            begun = time.monotonic()
            try:
                if why := unusable(self.plan):  # no need to bother the collector
                    raise OSError(errno.EINVAL, why)
                sock = self._reach()
            except OSError as error:
                self._say(f"cannot connect to {_text(self.plan)}: {words(error)}")
            else:
                begun = time.monotonic()
                self._run(self._client(sock, _text(self.plan)))
            pause = FIRST_PAUSE if time.monotonic() - begun > LASTED_SECONDS else pause
            self._ending.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        self._close()

    def _reach(self) -> socket.socket:
        sock = socket.socket(_family(self.plan), socket.SOCK_STREAM)
        try:
            _mark(sock, self.plan.mark)
            sock.settimeout(CONNECT_SECONDS)
            sock.connect((str(self.plan.address), self.plan.port))
        except BaseException:
            sock.close()
            raise
        return sock

    # --- the thread: to be connected to ---

    def _listen(self) -> None:
        if why := unusable(self.plan):
            self._say(f"cannot listen on {_text(self.plan)}: {why}")
            return
        sock = socket.socket(_family(self.plan), socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            _mark(sock, self.plan.mark)
            sock.setblocking(False)
            sock.bind((str(self.plan.address), self.plan.port))
            sock.listen()
        except OSError as error:
            sock.close()
            self._say(f"cannot listen on {_text(self.plan)}: {error.strerror}")
            return
        self._listener = sock
        self._say(self._nobody)

    def _serve(self) -> None:
        while not self._ending.is_set():
            if self._listener is None:
                self._ending.wait(LISTEN_AGAIN_SECONDS)
                self._listen()
                continue
            poll = select.poll()
            for one in (self._listener.fileno(), self._bell.descriptor):
                poll.register(one, select.POLLIN)
            poll.poll()
            try:
                sock, (address, port, *_) = self._listener.accept()
            except OSError:  # it is gone already; or there is no descriptor left
                self._ending.wait(0.05)
                continue
            self._admit(sock, address, port)
        self._close()

    def _admit(self, sock: socket.socket, address: str, port: int) -> None:
        peer = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        refusal = ""
        if self.plan.allow and not any(_is_in(address, network) for network in self.plan.allow):
            refusal = "its address is not in allow"
        elif not self._door.make_room():
            refusal = f"there are {MOST_AT_THE_DOOR} connections already"
        else:
            client = self._client(sock, peer, address)
            try:
                threading.Thread(target=self._run, args=(client,), name="stream-client", daemon=True).start()
            except RuntimeError:
                refusal = "the host has no thread for it"
                self._door.leave(client)
        if not refusal:
            return
        self.events.append(("client refused", {"client": peer, "reason": refusal}))
        sock.close()

    def _close(self) -> None:
        if self._listener is not None:
            self._listener.close()


class Ends:
    """Those of all sessions, by their plans. On any thread."""

    def __init__(self, memory: Memory | None = None) -> None:
        self._memory = memory
        self._ends: dict[StreamEnd, PcapEnd] = {}
        self._lock = threading.Lock()

    def keep(self, plans: Collection[StreamEnd], failed: Callable[[StreamEnd, Exception], None]) -> list[PcapEnd]:
        """Have one for each of these, and end the others, which are returned. `failed` is told of one that the host has
        nothing for.
        """
        with self._lock:
            ending = [self._ends.pop(plan) for plan in list(self._ends) if plan not in plans]
        for end in ending:
            end.close()
        for plan in plans:
            if plan in self._ends:
                continue
            try:
                end = PcapEnd(plan, self._memory)
            except (OSError, RuntimeError) as error:
                failed(plan, error)
                continue
            with self._lock:
                self._ends[plan] = end
        return ending

    def of(self, plan: StreamEnd) -> PcapEnd:
        """The one of this plan. OSError: the host had nothing for it."""
        with self._lock:
            if plan not in self._ends:
                raise OSError(errno.EAGAIN, f"no descriptor or thread for {_text(plan)}")
            return self._ends[plan]

    def all(self) -> list[PcapEnd]:
        """All there are."""
        with self._lock:
            return list(self._ends.values())


def _text(plan: StreamEnd) -> str:
    return f"[{plan.address}]:{plan.port}" if plan.address.version == 6 else f"{plan.address}:{plan.port}"


def _family(plan: StreamEnd) -> socket.AddressFamily:
    return socket.AF_INET6 if plan.address.version == 6 else socket.AF_INET


def _mark(sock: socket.socket, mark: int) -> None:
    if mark:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)


def _set_up(sock: socket.socket, mark: int) -> None:
    with suppress(OSError):  # of a peer that is gone already
        _mark(sock, mark)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, seconds in KEEPALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, option, seconds)


def _is_in(address: str, network: object) -> bool:
    from ipaddress import ip_address  # noqa: PLC0415

    return ip_address(address.partition("%")[0]) in network  # type: ignore[operator]
