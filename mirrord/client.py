"""The control API's client: one method for each thing that can be asked. Used by mirrorctl, and by tests."""

from __future__ import annotations

from typing import Any, Self
from urllib.parse import quote

import aiohttp

TIMEOUT_SECONDS = 30


class UnreachableError(Exception):
    """No daemon answers on the socket."""


class AnsweredError(Exception):
    """The daemon refused: its message, with the stable `code`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Client:
    """A connection to the daemon's socket, as an async context manager. Answers are the API's JSON.

    Every call raises UnreachableError or AnsweredError.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(self._path), timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def status(self) -> Any:
        """The daemon and every session."""
        return await self._ask("GET", "status")

    async def mirrors(self) -> Any:
        """Every mirror with its sessions."""
        return (await self._ask("GET", "mirrors"))["mirrors"]

    async def mirror(self, name: str) -> Any:
        """One mirror with its sessions."""
        return await self._ask("GET", f"mirrors/{quote(name, safe='')}")

    async def reload(self) -> Any:
        """Have the daemon read its configuration again."""
        return await self._ask("POST", "reload")

    async def _ask(self, method: str, resource: str) -> Any:
        try:
            async with self._session.request(method, f"http://mirrord/v1/{resource}") as response:
                answer = await response.json()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise UnreachableError(f"{self._path}: {getattr(error, 'strerror', None) or error}") from error
        if response.status >= 400:  # RFC 9110: an error
            raise AnsweredError(answer["error"]["code"], answer["error"]["message"])
        return answer
