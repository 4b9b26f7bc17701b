"""Whether collectors are there: what the host knows, what ICMP says of copies, and what those answer that are asked.

A collector is taken for dead as soon as there is a reason. It comes back when there has been none for some seconds, and
for longer, the sooner after it came back it died again: a way that flaps is not to pull conversations to and fro.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address

from mirrord.control.host.icmp import Answer, Error, Icmp
from mirrord.control.host.view import AbsentError, Collector, Path, Silence, View
from mirrord.control.logs import logger
from mirrord.control.planning.ways_out.remotes import stopped
from mirrord.control.running.watched import Watched
from mirrord.dataplane.forward.step import SOURCE_PORTS
from mirrord.dataplane.netns import inside
from mirrord.errors import Refused, at_address
from mirrord.plans import Netns
from mirrord.protocols import IPPROTO_UDP

log = logger("liveness")

LOOK_SECONDS = 0.1
"""How often it is looked whether somebody is to be asked, or has not answered, while anybody is asked or dead."""

NOTED_SECONDS = 300.0
"""How long it is remembered that nothing was bound at a collector."""

_Place = tuple[Netns | None, int]  # a network namespace and an IP version


class Liveness:
    """Of all collectors that copies go to. In the event loop. `changed` is called when one dies or is back."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._watched: dict[Collector, Watched] = {}
        self._by_address: dict[tuple[_Place, str], list[Watched]] = {}
        self._places: dict[Collector, _Place] = {}
        self._own: dict[_Place, frozenset[IPv4Address | IPv6Address]] = {}  # addresses
        self._sockets: dict[_Place, Icmp | None] = {}  # None: it could not be opened
        self._asked: dict[int, Collector] = {}  # by sequence number
        self._sequence = 0
        self._connecting: set[asyncio.Task[None]] = set()
        self._unbound: dict[Collector, tuple[float, str]] = {}  # when, and what was unreachable
        self._timer: asyncio.TimerHandle | None = None

    def look(self, collectors: Iterable[Collector], view: View) -> dict[Collector, Silence]:
        """Who is taken for dead now, of these, which are watched from now on; all others are not any more."""
        now = time.monotonic()
        wanted = [one for one in collectors if one.liveness != "off"]
        self._watched = {one: self._watched.get(one) or Watched(one) for one in wanted}
        self._places, self._own, self._by_address = {}, {}, {}
        for one, watched in self._watched.items():
            try:
                there = view.inside(one.path.netns or None)
            except (AbsentError, Refused) as error:
                watched.stopped = str(error)
                continue
            place = there.netns, ip_address(one.path.remote).version
            self._places[one], self._own[place] = place, there.addresses
            self._by_address.setdefault((place, one.path.remote), []).append(watched)
            why = stopped(one.path, there)
            watched.stopped = "" if why is None else why.why.problem
            device = there.by_index.get(one.path.device)
            watched.device = "" if device is None else device.name
        self._open_sockets({one.path.mark for one in wanted})
        for watched in self._watched.values():
            watched.judge(now)
        self._set_timer()
        return {one: silence for one, watched in self._watched.items() if (silence := watched.tell()) is not None}

    def unbound(self) -> dict[Collector, str]:
        """Collectors that said lately that they have no socket for what is sent there; and what was unreachable."""
        now = time.monotonic()
        return {one: what for one, (at, what) in self._unbound.items() if now - at < NOTED_SECONDS}

    async def close(self) -> None:
        """Ask nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        self._places = {}
        self._open_sockets(set())

    # --- sockets ---

    def _open_sockets(self, marks: set[int]) -> None:
        places = set(self._places.values())
        loop = asyncio.get_running_loop()
        for place in self._sockets.keys() - places:
            if (gone := self._sockets.pop(place)) is not None:
                loop.remove_reader(gone.fileno())
                gone.close()
        for place in places - self._sockets.keys():
            netns, version = place
            try:
                made = inside(netns, partial(Icmp, version, max(marks)))
            except OSError as error:
                log.warning("cannot hear ICMP: collectors are not watched by it", reason=error.strerror)
                self._sockets[place] = None
                continue
            self._sockets[place] = made
            loop.add_reader(made.fileno(), self._hear, place)

    def _hear(self, place: _Place) -> None:
        self._read(place)
        self._judge()

    def _read(self, place: _Place) -> None:
        heard = self._sockets.get(place)
        for one in heard.read() if heard is not None else ():
            if isinstance(one, Answer):
                asked = self._asked.get(one.sequence)
                watched = self._watched.get(asked) if asked is not None else None
                if watched is not None and watched.collector.path.remote == one.sender:
                    watched.answered(time.monotonic())
            else:
                self._note(place, one)

    def _note(self, place: _Place, error: Error) -> None:
        """Tell of an ICMP error, if it is about a copy of ours."""
        if ip_address(error.source) not in self._own.get(place, ()):
            return
        for watched in self._by_address.get((place, error.destination), ()):
            collector = watched.collector
            if (collector.protocol, collector.port) != (error.protocol, error.port):
                continue
            if error.protocol == IPPROTO_UDP and error.source_port < SOURCE_PORTS:
                continue
            if error.away:
                watched.hear(f"{error.sender} says that the {error.what} is unreachable", time.monotonic())
            else:
                self._unbound[collector] = time.monotonic(), error.what

    # --- time ---

    def _set_timer(self) -> None:
        """Look again soon, where there is anybody to wait for."""
        if self._timer is None and any(watched.waits for watched in self._watched.values()):
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._timer = None
        for place in self._sockets:
            self._read(place)  # what has come is an answer, however late this daemon looks
        now = time.monotonic()
        for collector, watched in self._watched.items():
            if collector in self._places and watched.due(now):
                self._ask(collector, watched, now)
        self._judge()

    def _judge(self) -> None:
        now = time.monotonic()
        news = False
        for watched in self._watched.values():
            watched.judge(now)
            news |= watched.news
        if news:
            self._changed()
        self._set_timer()

    # --- questions ---

    def _ask(self, collector: Collector, watched: Watched, now: float) -> None:
        watched.asked(now)
        if collector.liveness.startswith("tcp:"):
            task = asyncio.get_running_loop().create_task(self._connect(collector, watched))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)
            return
        asker = self._sockets.get(self._places[collector])
        if asker is None:
            watched.answered(now)  # nobody can be asked, so nothing is known
            return
        self._sequence = (self._sequence + 1) & 0xFFFF
        self._asked[self._sequence] = collector
        with suppress(OSError):  # the answer will be missed
            asker.ask(collector.path, self._sequence)

    async def _connect(self, collector: Collector, watched: Watched) -> None:
        port = int(collector.liveness.removeprefix("tcp:"))
        netns, version = self._places[collector]
        loop = asyncio.get_running_loop()
        try:
            sock = inside(netns, partial(_stream_socket, collector.path, version, watched.device))
        except OSError as error:
            watched.refused(f"it cannot be asked: {error.strerror}", time.monotonic())
            return
        with sock:
            try:
                async with asyncio.timeout(watched.patience):
                    await loop.sock_connect(sock, (collector.path.remote, port))
            except TimeoutError:
                return  # missed
            except OSError as error:
                why = at_address(error)
                watched.refused(f"TCP port {port}: {why}", time.monotonic())
                return
        watched.answered(time.monotonic())


def _stream_socket(path: Path, version: int, device: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if path.mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, path.mark)
        if device:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        if path.local:
            sock.bind((path.local, 0))
    except BaseException:
        sock.close()
        raise
    return sock
