"""etcd's JSON gateway (https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/), asked by aiohttp.

Why not gRPC: no dependency more, and what it costs is 10 to 20 ms a change (bench/cluster). What it takes instead is a
client certificate without CommonName, and a user with a password: a gateway does not pass the certificate's name on.

Keys and values are bytes in base64, 64-bit numbers are text; both are Python's own here. Every call raises StoreError.
"""

from __future__ import annotations

import asyncio
import base64
import codecs
import json
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from mirrord.cluster import certificates, probes
from mirrord.cluster.errors import (
    CHANGE,
    CompactedError,
    LeaseGoneError,
    StoreError,
    StoreUnreachableError,
    TokenError,
    of_answer,
)
from mirrord.errors import at_address

CONNECT_SECONDS, ANSWER_SECONDS, AUTHENTICATE_SECONDS = 2.0, 5.0, 15.0
"""How long the store may take; the last: bcrypt, on a machine with other work."""

PAGE = 1000  # keys of one answer
BODY = 64 << 20  # bytes of one answer, or one event, at most


class Found(NamedTuple):
    """A key's value; `modified` is the revision that it was written at, `made` that of its creation."""

    value: str
    modified: int
    made: int
    lease: int


class Head(NamedTuple):
    """Which store answered, how often it chose a leader, and its revision. The first two tell a store that was restored
    from a backup: its revisions say something else.
    """

    cluster: str
    term: int
    revision: int


class Contents(NamedTuple):
    """What was there at a revision."""

    revision: int
    found: dict[str, Found]


class Event(NamedTuple):
    """A key that was written, or with None deleted, at a revision."""

    key: str
    found: Found | None
    revision: int


class _Part(NamedTuple):
    """A part of a watch's answer: its events as they came, and whether it goes on."""

    watch: str
    events: list[Any]
    goes_on: bool


class Done(NamedTuple):
    """Whether the conditions of a transaction held, and its revision."""

    succeeded: bool
    revision: int


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode(errors="replace")


def end_of(prefix: str) -> str:
    """The first key behind all that begin with the prefix, encoded."""
    raw = prefix.encode()
    return base64.b64encode(raw[:-1] + bytes([raw[-1] + 1])).decode()


# --- transactions ---


def absent(key: str) -> dict[str, Any]:
    """The condition that there is no such key."""
    return {"key": encoded(key), "target": "CREATE", "result": "EQUAL", "createRevision": "0"}


def unchanged(key: str, modified: int) -> dict[str, Any]:
    """The condition that a key was last written at this revision; 0: that there is none."""
    return {"key": encoded(key), "target": "MOD", "result": "EQUAL", "modRevision": str(modified)}


def unchanged_below(prefix: str, revision: int) -> dict[str, Any]:
    """The condition that nothing which begins with the prefix was written since this revision."""
    body = {"key": encoded(prefix), "range_end": end_of(prefix), "target": "MOD", "result": "LESS"}
    return {**body, "modRevision": str(revision + 1)}


def put(key: str, value: str, lease: int = 0) -> dict[str, Any]:
    return {"requestPut": {"key": encoded(key), "value": encoded(value), **({"lease": str(lease)} if lease else {})}}


def delete(key: str) -> dict[str, Any]:
    return {"requestDeleteRange": {"key": encoded(key)}}


def delete_below(prefix: str) -> dict[str, Any]:
    return {"requestDeleteRange": {"key": encoded(prefix), "range_end": end_of(prefix)}}


class Access(NamedTuple):
    """Where the store is, and who asks."""

    endpoints: tuple[str, ...]
    ca: str = ""
    certificate: str = ""
    key: str = ""
    username: str = ""
    password_file: str = ""


def files_can_be_used(access: Access) -> None:
    """StoreError: one of the files cannot, which and why."""
    _tls(access)
    if access.password_file:
        _password(access)


def _tls(access: Access) -> ssl.SSLContext | bool:
    if not any(one.startswith("https:") for one in access.endpoints):
        return True
    return certificates.context(access.ca, access.certificate, access.key)


def _password(access: Access) -> str:
    try:
        return Path(access.password_file).read_text().strip()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise StoreError("forbidden", f"{access.password_file}: {why}", "password_file") from error


class Etcd:
    """A client of one cluster of etcd. It asks the endpoint that answered last, and after a failure the next one."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._at = 0
        self._token = ""
        self._known: set[str] = set()  # endpoints that have answered
        self._session: aiohttp.ClientSession | None = None

    @property
    def endpoint(self) -> str:
        """The one that is asked now."""
        return self._access.endpoints[self._at]

    async def range(self, prefix: str, revision: int = 0, *, keys_only: bool = False) -> Contents:
        """All keys that begin with the prefix, read in pages, all at one revision."""
        found: dict[str, Found] = {}
        start, end = encoded(prefix), end_of(prefix)
        while True:
            body = {"key": start, "range_end": end, "limit": str(PAGE), "revision": str(revision)}
            answer = await self._ask("kv/range", body | ({"keys_only": True} if keys_only else {}), f"read {prefix}")
            revision = revision or int(answer["header"]["revision"])
            pairs = answer.get("kvs", [])
            found.update(map(_pair, pairs))
            if not answer.get("more"):
                return Contents(revision, found)
            start = base64.b64encode(base64.b64decode(pairs[-1]["key"]) + b"\0").decode()

    async def get(self, key: str, revision: int = 0, *, of_node: bool = False) -> tuple[Found | None, Head]:
        """What a key has, or had at a revision (CompactedError), and who says so. `of_node`: as the node that is asked
        knows it, maybe a moment ago, which costs the others nothing.
        """
        body = {"key": encoded(key), "revision": str(revision)} | ({"serializable": True} if of_node else {})
        answer = await self._ask("kv/range", body, f"read {key}")
        pairs, header = answer.get("kvs", []), answer["header"]
        head = Head(str(header["cluster_id"]), int(header["raft_term"]), int(header["revision"]))
        return (_pair(pairs[0])[1] if pairs else None), head

    async def change(
        self,
        conditions: Sequence[Mapping[str, Any]],
        operations: Sequence[Mapping[str, Any]],
        *,
        again: bool = False,
        words: str = CHANGE,
    ) -> Done:
        """All of the operations if all conditions hold, else none of them. `again`: to do them twice is the same."""
        body = {"compare": conditions, "success": operations}
        answer = await self._ask("kv/txn", body, words, again=again)
        return Done(bool(answer.get("succeeded")), int(answer["header"]["revision"]))

    async def put(self, key: str, value: str, lease: int = 0) -> int:
        """Write a key whatever it has; the revision."""
        body = {"key": encoded(key), "value": encoded(value), "lease": str(lease)}
        return int((await self._ask("kv/put", body, f"write {key}"))["header"]["revision"])

    async def delete(self, key: str) -> int:
        """Delete a key if it is there; the revision."""
        answer = await self._ask("kv/deleterange", {"key": encoded(key)}, f"delete {key}")
        return int(answer["header"]["revision"])

    async def grant(self, seconds: int) -> int:
        """A lease that expires unless it is kept."""
        return int((await self._ask("lease/grant", {"TTL": str(seconds)}, "get a lease"))["ID"])

    async def keep(self, lease: int) -> None:
        """Keep a lease for as long again. LeaseGoneError."""
        answer = await self._ask("lease/keepalive", {"ID": str(lease)}, "keep the lease")
        if int(answer.get("result", {}).get("TTL", 0)) <= 0:
            raise LeaseGoneError

    async def revoke(self, lease: int) -> None:
        """End a lease, and with it what is under it."""
        await self._ask("lease/revoke", {"ID": str(lease)}, "give the lease back")

    async def alarms(self) -> tuple[str, ...]:
        """The alarms that are raised: NOSPACE, CORRUPT."""
        answer = await self._ask("maintenance/alarm", {"action": "GET"}, "read the alarms")
        return tuple(str(one.get("alarm", "NONE")) for one in answer.get("alarms", []))

    async def watch(self, starts: Mapping[str, int]) -> AsyncIterator[tuple[Event, ...]]:
        """What changes below prefixes, each from a revision on, without end; for each an empty item when it begins.

        What a revision changes below a prefix is in one item. StoreError when the connection ends, CompactedError when
        the history is gone. Each prefix is a watch of its own on one connection, and one may be ahead of another: so
        the revision to go on from is each prefix's own. (The head of an answer has the store's revision, which tells
        nothing of what is still to come.)
        """
        await self._authenticate()
        requests = "".join(
            json.dumps(
                {
                    "create_request": {
                        "key": encoded(one),
                        "range_end": end_of(one),
                        "start_revision": str(revision),
                        "fragment": True,
                    }
                }
            )
            for one, revision in starts.items()
        )
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        headers, at = {"Authorization": self._token} if self._token else {}, self.endpoint
        try:
            async with self._http().post(f"{at}/v3/watch", data=requests, timeout=timeout, headers=headers) as response:
                if response.status != 200:
                    raise _refused(at, response.status, await _json(response), "watch")
                probes.begin(response)
                begun: dict[str, list[Event]] = {}  # by watch: of an answer whose other parts are still to come
                async for one in _values(response.content):
                    part = _part(at, one)
                    events = begun.setdefault(part.watch, [])
                    for first in range(0, len(part.events), PAGE):
                        events += map(_event, part.events[first : first + PAGE])
                        await asyncio.sleep(0)  # others have their turn in between
                    if not part.goes_on:
                        yield tuple(begun.pop(part.watch))
            raise StoreUnreachableError("the watch ended", at)
        except NO_ANSWER as error:
            raise self._unreachable(at, error) from error

    def next_endpoint(self, failed: str) -> None:
        """Ask another one from now on, unless somebody else has seen to that."""
        if failed == self.endpoint:
            self._at = (self._at + 1) % len(self._access.endpoints)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    # --- how it is asked ---

    async def _ask(self, what: str, body: Mapping[str, Any], words: str, *, again: bool = True) -> Any:
        """The answer. With `again` what was asked may be asked twice, of another endpoint."""
        asked: set[str] = set()
        for _ in range(2 * len(self._access.endpoints)):
            try:
                await self._authenticate()
                return await self._post(what, body, words)
            except TokenError as error:
                self._token, last = "", StoreError(error.code, error.message)
            except StoreUnreachableError as error:
                self.next_endpoint(error.endpoint)
                asked.add(error.endpoint)
                last = error
                if (error.maybe and not again) or self.endpoint in asked:
                    break
        raise last

    async def _post(self, what: str, body: Mapping[str, Any], words: str, seconds: float = ANSWER_SECONDS) -> Any:
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
        headers, at = {"Authorization": self._token} if self._token else {}, self.endpoint
        try:
            async with self._http().post(f"{at}/v3/{what}", json=body, timeout=timeout, headers=headers) as response:
                answer = await _json(response)
                if response.status != 200 or not isinstance(answer, dict):
                    raise _refused(at, response.status, answer, words)
                self._known.add(at)
                return answer
        except NO_ANSWER as error:
            raise self._unreachable(at, error) from error

    async def _authenticate(self) -> None:
        if self._token or not self._access.username:
            return
        body = {"name": self._access.username, "password": await asyncio.to_thread(_password, self._access)}
        try:
            self._token = str(
                (await self._post("auth/authenticate", body, "authenticate", AUTHENTICATE_SECONDS))["token"]
            )
        except StoreError as error:
            if "authentication is not enabled" not in error.message:
                raise

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=_tls(self._access), limit=16)
            self._session = aiohttp.ClientSession(connector=connector, read_bufsize=1 << 20)
        return self._session

    def _unreachable(self, at: str, error: Exception) -> StoreUnreachableError:
        """Why there is no answer. Where no connection was made nothing was done."""
        none = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
        words = str(error) or type(error).__name__
        if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
            words = f"the certificates of store and agent do not go together: {error}"
        elif isinstance(error, TimeoutError):
            words = "no answer in time"
        elif isinstance(error, aiohttp.ClientConnectorError):
            words = at_address(error.os_error)
        elif "alert" in words.lower() and "certificate" in words.lower():
            words = f"the store refuses this agent's certificate ({words})"
        elif isinstance(error, aiohttp.ClientOSError | aiohttp.ServerDisconnectedError | RuntimeError):
            words = "it closed the connection" + ("" if at in self._known else _MAYBE[at.startswith("https:")])
        if at.startswith("https:") and (dates := certificates.out_of_time(self._access.certificate)):
            words = f"{words} ({dates})"
        return StoreUnreachableError(words, at, maybe=not none)


_MAYBE = (
    ": is it etcd's client port, and is it https: there?",
    ": is it etcd's client port, and does it take this agent's certificate?",
)

NO_ANSWER = (aiohttp.ClientError, TimeoutError, OSError, RuntimeError)
"""The last is uvloop's, of a connection that was closed while something was written to it."""


def _refused(at: str, status: int, answer: Any, words: str) -> StoreError:
    error = of_answer(status, answer, words)
    return StoreUnreachableError(error.message, at, maybe=True) if isinstance(error, StoreUnreachableError) else error


def _part(at: str, answer: Any) -> _Part:
    result = answer.get("result") if isinstance(answer, dict) else None
    if result is None:
        error = answer.get("error", answer) if isinstance(answer, dict) else answer
        raise _refused(at, int(error.get("http_code", 500)) if isinstance(error, dict) else 500, error, "watch")
    if result.get("canceled"):
        if int(result.get("compact_revision", 0)):
            raise CompactedError(int(result["compact_revision"]))
        raise _refused(at, 400, {"message": result.get("cancel_reason", "the watch was canceled")}, "watch")
    return _Part(str(result.get("watch_id", "0")), result.get("events", []), bool(result.get("fragment")))


def _pair(pair: Mapping[str, str]) -> tuple[str, Found]:
    return _decoded(pair["key"]), Found(
        _decoded(pair.get("value", "")),
        int(pair["mod_revision"]),
        int(pair["create_revision"]),
        int(pair.get("lease", 0)),
    )


def _event(event: Mapping[str, Any]) -> Event:
    if event.get("type") == "DELETE":
        return Event(_decoded(event["kv"]["key"]), None, int(event["kv"]["mod_revision"]))
    key, found = _pair(event["kv"])
    return Event(key, found, found.modified)


async def _json(response: aiohttp.ClientResponse) -> Any:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > BODY:
            raise StoreError("store_refused", f"the store's answer has more than {BODY} bytes")
    text = body.decode(errors="replace")
    try:
        return json.loads(text)
    except ValueError:
        return text[:200]


async def _values(content: aiohttp.StreamReader) -> AsyncIterator[Any]:
    """The JSON values of a stream, wherever one ends and the next begins: nobody promises one a line."""
    decoder, utf8 = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8")()
    text = ""
    async for piece in content.iter_any():
        text += utf8.decode(piece)
        if not text.rstrip().endswith("}"):
            continue  # to look for a value that is not there yet takes as long as to read it
        while text := text.lstrip():
            try:
                value, end = decoder.raw_decode(text)
            except ValueError:
                if len(text) > BODY:
                    raise StoreError("store_refused", "the store's answer to a watch is no JSON") from None
                break  # the rest is still to come
            text = text[end:]
            yield value
