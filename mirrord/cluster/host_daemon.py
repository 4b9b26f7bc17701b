"""The daemon of this host, asked through its API."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp

from mirrord.control.logs import logger
from mirrord.errors import MirrordError

log = logger("agent")

ANSWER_SECONDS = 30.0  # a plan of thousands of sessions takes its time


class DaemonUnreachableError(MirrordError):
    """It does not answer."""

    def __init__(self, message: str) -> None:
        super().__init__("daemon_unreachable", message)


class HostDaemon:
    """A client of the daemon's API. Every call raises MirrordError: DaemonUnreachableError, or what it answered."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._session: aiohttp.ClientSession | None = None

    async def status(self) -> dict[str, Any]:
        """The daemon and every session."""
        return await self._ask("GET", "status")

    async def put_origin(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Have it run this, and nothing else of the cluster's; the answer says what it took.

        Which cluster this host is in, and what there is the newest, the agent knows: a store that was restored from a
        backup goes back, and `join --replace` leaves a cluster.
        """
        try:
            return await self._ask("PUT", "origins/cluster", body)
        except MirrordError as error:
            if error.path not in ("generation", "cluster_id") or error.code not in ("stale", "refused"):
                raise
            log.warning("the daemon is told to give up what it had of a cluster", reason=error.message)
            return await self._ask("PUT", "origins/cluster?replace=true", body)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _ask(self, method: str, resource: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
            self._session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(self._path), timeout=timeout)
        try:
            async with self._session.request(method, f"http://mirrord/v1/{resource}", json=body) as response:
                answer = await response.json(content_type=None)
                status = response.status
        except (aiohttp.ClientError, OSError, ValueError) as error:
            words = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise DaemonUnreachableError(f"the daemon does not answer at {self._path}: {words}") from error
        except asyncio.TimeoutError as error:  # noqa: UP041 (aiohttp's own is one, too)
            raise DaemonUnreachableError(f"the daemon at {self._path} gave no answer in time") from error
        if status < 400:
            return dict(answer)
        told = answer.get("error", {}) if isinstance(answer, dict) else {}
        if status in (404, 405) and method == "PUT":
            raise MirrordError(
                "refused", "the daemon is older than this agent and takes nothing of a cluster: upgrade it"
            )
        raise MirrordError(
            str(told.get("code", "internal")), str(told.get("message", status)), str(told.get("path", ""))
        )
