"""The control API's client: one method for each thing that can be asked. Used by mirrorctl, and by tests."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mirrord.unix_http import Connection, HTTPResponse

SOCKET = "/run/mirrord/mirrord.sock"
READ_ONLY_SOCKET = "/run/mirrord/mirrord-read-only.sock"
"""Where the daemon listens unless it is told otherwise; the second by mirrord-read-only.socket."""

AGENT_SOCKET = "/run/mirrord/agent.sock"
"""Where mirrord-agent answers for the whole cluster."""

TIMEOUT_SECONDS = 30.0
SILENCE_SECONDS = 3.0
ONLY_NEW = {"If-None-Match": "*"}  # RFC 9110 13.1.2: refuse to replace
CHUNK = 1 << 16  # bytes

Object = dict[str, Any]
Resource = tuple[str, ...]
"""The parts of its path behind /v1."""


class UnreachableError(Exception):
    """No daemon answers on the socket; `errno` is the kernel's word for why, 0 if it is not the kernel's."""

    def __init__(self, message: str, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno

    def as_json(self) -> Object:
        return {"code": "unreachable", "message": str(self), "path": ""}


class AnsweredError(Exception):
    """The daemon refused: its message, with the stable `code`, and the `path` of what is meant in the object."""

    def __init__(self, code: str, message: str, path: str) -> None:
        super().__init__(message if not path or path in message else f"{path}: {message}")
        self.code, self.message, self.path = code, message, path

    def as_json(self) -> Object:
        return {"code": self.code, "message": self.message, "path": self.path}


class Tagged(dict[str, Any]):
    """An object with its entity tag: who sends the tag along changes it only if nobody else has meanwhile."""

    tag = ""


class Client:
    """Asks the daemon at the first of these sockets that can be opened. Answers are the API's JSON.

    Objects are as in the TOML, with their name. Every call raises UnreachableError or AnsweredError. A client with
    `dry_run` changes nothing: each change is answered by what would come of it, {"warnings": [...], "sessions": [...]}.
    `silent` is called once when an answer takes longer than SILENCE_SECONDS. After an answer, `path` is the socket that
    gave it.
    """

    def __init__(
        self,
        paths: str | Sequence[str] = (SOCKET, READ_ONLY_SOCKET),
        seconds: float = TIMEOUT_SECONDS,
        *,
        dry_run: bool = False,
        silent: Callable[[], None] = lambda: None,
    ) -> None:
        self._paths = (paths,) if isinstance(paths, str) else tuple(paths)
        self.path = self._paths[0]
        self._seconds, self._dry_run, self._silent = seconds, dry_run, silent

    # --- the daemon ---

    def status(self) -> Object:
        """The daemon and every session."""
        return dict(self._ask("GET", ("status",)))

    def reload(self) -> Object:
        """Have the daemon read its configuration again."""
        return dict(self._ask("POST", ("reload",)))

    def apply(self, objects: Mapping[str, Mapping[str, Any]], *, prune: bool = False) -> Object:
        """Make the run-time objects equal to these, by section and name: all or nothing.

        What is not among them stays, or with `prune` goes. The answer tells each object's `operation`.
        """
        return dict(self._ask("POST", ("apply",), dict(objects), query={"prune": "true" if prune else None}))

    def audit(self, mirror: str | None = None, since: str | None = None, limit: int | None = None) -> list[Object]:
        """Who did what, oldest first; of one mirror alone, and since an RFC 3339 time, if given."""
        query = {"mirror": mirror, "since": since, "limit": None if limit is None else str(limit)}
        return list(self._ask("GET", ("audit",), query=query)["audit"])

    def doctor(self, mirror: str | None = None) -> list[Object]:
        """What is wrong, with one mirror or with all, and what to do."""
        return list(self._ask("GET", ("doctor",), query={"mirror": mirror})["doctor"])

    def sources(self) -> list[Object]:
        """What could be mirrored, and who mirrors it now."""
        return list(self._ask("GET", ("sources",))["sources"])

    # --- a cluster, at one of its agents ---

    def hosts(self) -> list[Object]:
        """Every host of the cluster, and how far it is."""
        return list(self._ask("GET", ("hosts",))["hosts"])

    def forget_host(self, host: str) -> Object:
        """Free what a host has that will not come back."""
        return dict(self._ask("DELETE", ("hosts", host)) or {})

    # --- mirrors and sessions ---

    def mirrors(self) -> list[Object]:
        """Every mirror with its sessions."""
        return list(self._ask("GET", ("mirrors",))["mirrors"])

    def mirror(self, name: str) -> Object:
        """One mirror with its sessions."""
        return dict(self._ask("GET", ("mirrors", name)))

    def create_mirror(self, name: str, mirror: Object) -> Object:
        """Make a mirror; code `exists` when there is one of that name."""
        return dict(self._ask("PUT", ("mirrors", name), mirror, headers=ONLY_NEW))

    def change_mirror(self, name: str, changes: Object) -> Object:
        """Change a mirror's own keys (RFC 7396); `name` renames it."""
        return dict(self._ask("PATCH", ("mirrors", name), changes))

    def enable_mirror(self, name: str) -> Object:
        """Have its sessions run."""
        return dict(self._ask("POST", ("mirrors", name, "enable")))

    def disable_mirror(self, name: str) -> Object:
        """Stop its sessions."""
        return dict(self._ask("POST", ("mirrors", name, "disable")))

    def delete_mirror(self, name: str) -> Object:
        """Delete it with its sessions."""
        return dict(self._ask("DELETE", ("mirrors", name)) or {})

    def add_session(self, mirror: str, session: Object) -> Object:
        """Add a session; it has its `name` in it."""
        return dict(self._ask("POST", ("mirrors", mirror, "sessions"), session))

    def change_session(self, mirror: str, session: str, changes: Object) -> Object:
        """Change a session's keys (RFC 7396); `name` renames it."""
        return dict(self._ask("PATCH", ("mirrors", mirror, "sessions", session), changes))

    def enable_session(self, mirror: str, session: str) -> Object:
        """Have it run, where its mirror is enabled."""
        return dict(self._ask("POST", ("mirrors", mirror, "sessions", session, "enable")))

    def disable_session(self, mirror: str, session: str) -> Object:
        """Stop it."""
        return dict(self._ask("POST", ("mirrors", mirror, "sessions", session, "disable")))

    def delete_session(self, mirror: str, session: str) -> Object:
        """Delete one session."""
        return dict(self._ask("DELETE", ("mirrors", mirror, "sessions", session)) or {})

    def capture(
        self, mirror: str, session: str, source: str | None = None, last: str | None = None, *, follow: bool = False
    ) -> Iterator[bytes]:
        """A live pcapng of what the session mirrors; `source` names the device where it has several.

        With `last`, such as "30s", it is what was kept of that time, and ends, or with `follow` goes on live.
        """
        from mirrord import unix_http  # noqa: PLC0415 (see there)

        connection = self._connect()
        connection.sock.settimeout(None)  # the next packet may be long in coming
        try:
            resource = ("mirrors", mirror, "sessions", session, "capture")
            query = {"source": source, "last": last, "follow": "true" if follow else None}
            response = self._answer(connection, "GET", resource, query=query)
            while chunk := response.read1(CHUNK):
                yield chunk
        except unix_http.FAILURES as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    # --- filters and flow networks ---

    def filters(self) -> list[Object]:
        """Every filter with its rules."""
        return list(self._ask("GET", ("filters",))["filters"])

    def filter(self, name: str) -> Tagged:
        """One filter with its rules."""
        return self._tagged(("filters", name))

    def create_filter(self, name: str, filter_: Object) -> Object:
        """Make a filter; code `exists` when there is one of that name."""
        return dict(self._ask("PUT", ("filters", name), filter_, headers=ONLY_NEW))

    def change_filter(self, name: str, changes: Object, tag: str = "") -> Object:
        """Change a filter's keys (RFC 7396); with a `tag`, only if it still has it: else the code is `stale`."""
        headers = {"If-Match": tag} if tag else None
        return dict(self._ask("PATCH", ("filters", name), changes, headers=headers))

    def delete_filter(self, name: str) -> Object:
        """Delete a filter; code `in_use` when a session has it."""
        return dict(self._ask("DELETE", ("filters", name)) or {})

    def flow_networks(self) -> list[Object]:
        """Every flow network."""
        return list(self._ask("GET", ("flow_networks",))["flow_networks"])

    def flow_network(self, name: str) -> Object:
        """One flow network."""
        return dict(self._ask("GET", ("flow_networks", name)))

    def create_flow_network(self, name: str, network: Object) -> Object:
        """Make a flow network; code `exists` when there is one of that name."""
        return dict(self._ask("PUT", ("flow_networks", name), network, headers=ONLY_NEW))

    def change_flow_network(self, name: str, changes: Object) -> Object:
        """Change a flow network's keys (RFC 7396)."""
        return dict(self._ask("PATCH", ("flow_networks", name), changes))

    def delete_flow_network(self, name: str) -> Object:
        """Delete a flow network; code `in_use` when a mirror has it."""
        return dict(self._ask("DELETE", ("flow_networks", name)) or {})

    # --- how it is asked ---

    def _ask(self, method: str, resource: Resource, body: Object | None = None, **more: Any) -> Any:
        return self._exchange(method, resource, body, **more)[0]

    def _tagged(self, resource: Resource) -> Tagged:
        answer, tag = self._exchange("GET", resource)
        tagged = Tagged(answer)
        tagged.tag = tag
        return tagged

    def _exchange(self, method: str, resource: Resource, body: Object | None = None, **more: Any) -> tuple[Any, str]:
        """The answer and its entity tag."""
        from mirrord import unix_http  # noqa: PLC0415 (see there)

        connection = self._connect()
        try:
            response = self._answer(connection, method, resource, body, **more)
            text = response.read()
            return (json.loads(text) if text else None), response.headers.get("ETag", "")
        except unix_http.FAILURES as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def _connect(self) -> Connection:
        from mirrord import unix_http  # noqa: PLC0415 (see there)

        first: OSError | None = None
        for path in self._paths:
            connection = unix_http.Connection(path, self._seconds)
            try:
                connection.connect()
            except OSError as error:
                first = first or error
            else:
                self.path = path
                return connection
        assert first is not None  # there is at least one path
        self.path = self._paths[0]
        raise self._unreachable(first) from first

    def _answer(
        self,
        connection: Connection,
        method: str,
        resource: Resource,
        body: Object | None = None,
        *,
        query: Mapping[str, str | None] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HTTPResponse:
        """The head of the answer. AnsweredError: it is an error's."""
        from mirrord import unix_http  # noqa: PLC0415 (see there)

        asked = {key: value for key, value in (query or {}).items() if value is not None}
        if self._dry_run and method != "GET":
            asked["dry_run"] = "true"
        written = None if body is None else json.dumps(body).encode()
        named = {} if written is None else {"Content-Type": "application/json"}
        connection.request(method, unix_http.address(resource, asked), written, {**named, **(headers or {})})
        begun = time.monotonic()
        if not unix_http.readable(connection.sock, min(SILENCE_SECONDS, self._seconds)):
            self._silent()
            if not unix_http.readable(connection.sock, self._seconds - (time.monotonic() - begun)):
                raise TimeoutError
        response = connection.getresponse()
        if response.status >= 400:  # RFC 9110: an error
            raise AnsweredError(**json.loads(response.read())["error"])
        return response

    def _unreachable(self, error: Exception) -> UnreachableError:
        if isinstance(error, TimeoutError):
            return UnreachableError(f"{self.path}: no answer within {self._seconds:.0f} s")
        words = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return UnreachableError(f"{self.path}: {words}", getattr(error, "errno", None) or 0)
