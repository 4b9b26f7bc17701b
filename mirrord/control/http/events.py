"""`GET /v1/events`: what happens, as it happens (server-sent events: HTML Living Standard, 9.2).

- `state`: a session on a source has another state, or reason; `gone` when it is planned no more. Who begins to listen
  is told all states first, and then `ready`.
- `objects`: mirrors, filters or flow networks have changed.
- `audit`: a row of the audit log, without the objects before and after it, which may be long.
- `counters`: once a second, what all sessions do together, and each that did something in that second.

An event is written once, however many listen, and nothing is written while nobody does. A listener that is `BEHIND`
events behind, or takes none for ten seconds, is left alone.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aiohttp import web

from mirrord.control.http.answers import PATIENCE_SECONDS, PIECE
from mirrord.control.logs import logger
from mirrord.control.planning.plan import Key
from mirrord.control.service import Service
from mirrord.control.store import Store
from mirrord.errors import MirrordError

log = logger("http")

BEHIND = 16
"""Bundles of events, of a second each, that are kept for a listener that is slow."""

MOST_LISTENERS = 32
"""Of each socket: who may only read keeps nobody out who may change."""

ROWS = 200
"""Rows of the audit log in one second; more are told in the next."""

STATES_SECONDS = 5.0
"""How often states are looked at, though nothing is known to have happened that changes one."""

States = Mapping[Key, tuple[str, str]]
GONE = "gone", ""
ENCODE = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class Listener:
    """What waits to be sent to one client."""

    def __init__(self, app: web.Application) -> None:
        self.app = app  # of the socket that it came by
        self._waiting: deque[bytes] = deque()
        self._news = asyncio.Event()
        self.ended = False

    def tell(self, bundle: bytes) -> None:
        """Send this next; to one that is too far behind nothing is sent any more."""
        if len(self._waiting) >= BEHIND:
            self.end()
        self._waiting.append(bundle)
        self._news.set()

    def end(self) -> None:
        self.ended = True
        self._waiting.clear()
        self._news.set()

    async def next(self) -> bytes | None:
        """The next bundle; None at the end."""
        while not self._waiting and not self.ended:
            self._news.clear()
            await self._news.wait()
        return None if self.ended else self._waiting.popleft()


class Events:
    """Of one service, for the clients of both sockets."""

    def __init__(self, service: Service, store: Store) -> None:
        self._service, self._store = service, store
        self._listeners: set[Listener] = set()
        self._states: States = {}
        self._happened, self._looked = 0, 0.0
        self._objects: object = None
        self._newest = 0  # row of the audit log that was told
        self._telling: asyncio.Task[None] | None = None
        self._again = asyncio.Event()
        self._joining = asyncio.Lock()
        self._closed = False

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Tell of all events until the client goes, or does not read. MirrordError: too many listen already."""
        listener = Listener(request.app)
        async with self._joining:
            there = sum(one.app is request.app for one in self._listeners)
            if self._closed or there >= MOST_LISTENERS:
                raise MirrordError("no_resources", f"{there} clients follow events already")
            if self._telling is None:
                self._objects = self._service.loaded
                self._newest = await asyncio.to_thread(self._store.audit_newest)
                self._states = await asyncio.to_thread(self._look_at_states)
                self._telling = asyncio.create_task(self._tell())
                self._service.watchers.add(self._hear)
            self._listeners.add(listener)
        try:
            begin = "".join([*_states({}, self._states), _event("ready", {})])
            return await self._answer(request, listener, begin.encode())
        finally:
            self._listeners.discard(listener)
            if not self._listeners:
                self._rest()

    async def _answer(self, request: web.Request, listener: Listener, begin: bytes) -> web.StreamResponse:
        headers = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store"}
        response = web.StreamResponse(headers=headers)
        transport = request.transport
        try:
            await response.prepare(request)
            bundle: bytes | None = begin
            while bundle is not None:
                for at in range(0, len(bundle), PIECE):
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        await response.write(bundle[at : at + PIECE])
                bundle = await listener.next()
        except TimeoutError:
            listener.end()
        except ConnectionError:
            return response
        if listener.ended and not self._closed:
            log.warning("a client does not read: its connection is ended", path=request.path)
            if transport is not None:
                transport.abort()
        return response

    def _hear(self) -> None:
        self._again.set()

    def _rest(self) -> None:
        """Nobody listens."""
        if self._telling is not None:
            self._again.clear()
            self._service.watchers.discard(self._hear)
            self._telling.cancel()
            self._telling = None
        self._states = {}

    async def _tell(self) -> None:
        while True:
            await self._again.wait()
            self._again.clear()
            try:
                bundle = await asyncio.to_thread(self._look)
            except Exception:
                log.exception("a bug", path="/v1/events")
                continue
            for one in tuple(self._listeners):
                one.tell(bundle)

    def _look(self) -> bytes:
        """What there is to tell of the last second."""
        told = []
        if (objects := self._service.loaded) is not self._objects:
            self._objects = objects
            told.append(_event("objects", {}))
        before = self._states
        if self._happened != self._service.happened or time.monotonic() - self._looked >= STATES_SECONDS:
            self._states = self._look_at_states()
            told += _states(before, self._states)
        for number, row in self._store.audit_after(self._newest, ROWS):
            self._newest = number
            told.append(_event("audit", row))
        told.append(_event("counters", self._counters()))
        return "".join(told).encode()

    def _look_at_states(self) -> States:
        self._happened, self._looked = self._service.happened, time.monotonic()
        return self._service.states()

    def _counters(self) -> Mapping[str, Any]:
        rates, history = self._service.rates, self._service.history
        busy = [(*key, round(frames, 1), round(bits)) for key, (frames, bits) in rates.items() if frames or bits]
        return {"time": round(history.looked_at, 3), **history.latest.shown(), "sessions": busy}

    def close(self) -> None:
        """Let all listeners go."""
        self._closed = True
        for one in tuple(self._listeners):
            one.end()


def _states(before: States, now: States) -> Iterator[str]:
    """What has changed."""
    if before == now:
        return
    for key, told in now.items():
        if before.get(key) != told:
            yield _state(key, told)
    for key in before.keys() - now.keys():
        yield _state(key, GONE)


def _state(key: Key, told: Sequence[str]) -> str:
    state, reason = told
    return _event("state", {**key._asdict(), "state": state, "reason": reason})


def _event(kind: str, value: Any) -> str:
    return f"event: {kind}\ndata: {ENCODE(value)}\n\n"
