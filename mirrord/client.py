"""The control API's client: one method for each thing that can be asked. Used by mirrorctl, and by tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Self
from urllib.parse import quote

import aiohttp

TIMEOUT_SECONDS = 30
ONLY_NEW = {"If-None-Match": "*"}  # RFC 9110 13.1.2: refuse to replace

Object = dict[str, Any]


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


class Client:
    """A connection to the daemon's socket, as an async context manager. Answers are the API's JSON.

    Objects are as in the TOML, with their name. Every call raises UnreachableError or AnsweredError.
    """

    def __init__(self, path: str, seconds: float | None = TIMEOUT_SECONDS) -> None:
        self._path, self._seconds = path, seconds

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=self._seconds)
        self._session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(self._path), timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    # --- the daemon ---

    async def status(self) -> Object:
        """The daemon and every session."""
        return dict(await self._ask("GET", "status"))

    async def reload(self) -> Object:
        """Have the daemon read its configuration again."""
        return dict(await self._ask("POST", "reload"))

    async def audit(self, mirror: str | None = None, since: str | None = None) -> list[Object]:
        """Who did what, oldest first; of one mirror alone, and since an RFC 3339 time, if given."""
        return list((await self._ask("GET", "audit", query={"mirror": mirror, "since": since}))["audit"])

    async def doctor(self, mirror: str | None = None) -> list[Object]:
        """What is wrong, with one mirror or with all, and what to do."""
        return list((await self._ask("GET", "doctor", query={"mirror": mirror}))["doctor"])

    async def sources(self) -> list[Object]:
        """What could be mirrored, and who mirrors it now."""
        return list((await self._ask("GET", "sources"))["sources"])

    # --- mirrors and sessions ---

    async def mirrors(self) -> list[Object]:
        """Every mirror with its sessions."""
        return list((await self._ask("GET", "mirrors"))["mirrors"])

    async def mirror(self, name: str) -> Object:
        """One mirror with its sessions."""
        return dict(await self._ask("GET", _at("mirrors", name)))

    async def create_mirror(self, name: str, mirror: Object) -> Object:
        """Make a mirror; code `exists` when there is one of that name."""
        return dict(await self._ask("PUT", _at("mirrors", name), mirror, headers=ONLY_NEW))

    async def change_mirror(self, name: str, changes: Object) -> Object:
        """Change a mirror's own keys (RFC 7396); `name` renames it."""
        return dict(await self._ask("PATCH", _at("mirrors", name), changes))

    async def enable_mirror(self, name: str) -> Object:
        """Have its sessions run."""
        return dict(await self._ask("POST", _at("mirrors", name, "enable")))

    async def disable_mirror(self, name: str) -> Object:
        """Have its sessions run no more."""
        return dict(await self._ask("POST", _at("mirrors", name, "disable")))

    async def delete_mirror(self, name: str) -> None:
        """Delete it with its sessions."""
        await self._ask("DELETE", _at("mirrors", name))

    async def add_session(self, mirror: str, session: Object) -> Object:
        """Add a session; it has its `name` in it."""
        return dict(await self._ask("POST", _at("mirrors", mirror, "sessions"), session))

    async def delete_session(self, mirror: str, session: str) -> None:
        """Delete one session."""
        await self._ask("DELETE", _at("mirrors", mirror, "sessions", session))

    async def capture(self, mirror: str, session: str, source: str | None = None) -> AsyncIterator[bytes]:
        """A live pcapng of what the session mirrors; `source` names the device where it has several."""
        url = f"http://mirrord/v1/{_at('mirrors', mirror, 'sessions', session, 'capture')}"
        try:
            async with self._session.get(url, params={} if source is None else {"source": source}) as response:
                if response.status >= 400:  # RFC 9110: an error
                    raise AnsweredError(**(await response.json())["error"])
                async for chunk in response.content.iter_any():
                    yield chunk
        except (aiohttp.ClientError, OSError, ValueError) as error:
            words = getattr(error, "strerror", None) or error
            raise UnreachableError(f"{self._path}: {words}", getattr(error, "errno", None) or 0) from error

    # --- filters and flow networks ---

    async def filters(self) -> list[Object]:
        """Every filter with its rules."""
        return list((await self._ask("GET", "filters"))["filters"])

    async def filter(self, name: str) -> Object:
        """One filter with its rules."""
        return dict(await self._ask("GET", _at("filters", name)))

    async def create_filter(self, name: str, filter_: Object) -> Object:
        """Make a filter; code `exists` when there is one of that name."""
        return dict(await self._ask("PUT", _at("filters", name), filter_, headers=ONLY_NEW))

    async def delete_filter(self, name: str) -> None:
        """Delete a filter; code `in_use` when a session has it."""
        await self._ask("DELETE", _at("filters", name))

    async def flow_networks(self) -> list[Object]:
        """Every flow network."""
        return list((await self._ask("GET", "flow_networks"))["flow_networks"])

    async def flow_network(self, name: str) -> Object:
        """One flow network."""
        return dict(await self._ask("GET", _at("flow_networks", name)))

    async def create_flow_network(self, name: str, network: Object) -> Object:
        """Make a flow network; code `exists` when there is one of that name."""
        return dict(await self._ask("PUT", _at("flow_networks", name), network, headers=ONLY_NEW))

    async def delete_flow_network(self, name: str) -> None:
        """Delete a flow network; code `in_use` when a mirror has it."""
        await self._ask("DELETE", _at("flow_networks", name))

    async def _ask(
        self,
        method: str,
        resource: str,
        body: Object | None = None,
        *,
        query: Mapping[str, str | None] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        params = {key: value for key, value in (query or {}).items() if value is not None}
        url = f"http://mirrord/v1/{resource}"
        try:
            async with self._session.request(method, url, params=params, headers=headers, json=body) as response:
                answer: Any = None if response.status == 204 else await response.json()
        except TimeoutError as error:
            raise UnreachableError(f"{self._path}: no answer within {self._seconds} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            words = getattr(error, "strerror", None) or error
            raise UnreachableError(f"{self._path}: {words}", getattr(error, "errno", None) or 0) from error
        if response.status >= 400:  # RFC 9110: an error
            raise AnsweredError(**answer["error"])
        return answer


def _at(*parts: str) -> str:
    return "/".join(quote(part, safe="") for part in parts)
