"""The agent's connection with the store: it follows the replica, keeps the lease and writes what is this host's own.

Whatever goes wrong, it begins again after a while, by another endpoint. The lease says that this agent lives and sees
the store, never that a mirror runs.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from mirrord.cluster import records
from mirrord.cluster.errors import CompactedError, LeaseGoneError, StoreError, StoreUnreachableError
from mirrord.cluster.etcd import Etcd
from mirrord.cluster.keys import Keys
from mirrord.cluster.replica import Replica
from mirrord.control.logs import logger

log = logger("cluster")

LEASE_SECONDS = 30
KEEP_SECONDS = 10.0
AGAIN_SECONDS = 0.2, 5.0
"""How long to wait before the store is asked again: at first, and at most; each time twice as long, times 0.5 to 1."""

GONE = records.record({"address": ""})
"""Of an end that was here: a source elsewhere is to stop sending, which the end of a lease does not say."""


class Link:
    """`own` is what of this host is to be in the store, by key. While it is not `complete`, what else is there stays:
    destinations that are here are not known before the daemon runs its part.
    """

    def __init__(self, etcd: Etcd, keys: Keys, host: str, replica: Replica, changed: Callable[[], None]) -> None:
        self._etcd, self._keys, self._host, self._replica, self._changed = etcd, keys, host, replica, changed
        self._lease = 0
        self._written: dict[str, str] | None = None  # under the lease; None: to be read
        self.own: Mapping[str, str] = {}
        self.complete = False
        self._publish = asyncio.Event()
        self.connected = False
        self.problem = "the store was not asked yet"
        self.own_problem = ""  # what keeps this host's own from being written
        self.failures = 0
        self._seen = time.monotonic()

    @property
    def behind_seconds(self) -> float:
        """How long the store was not heard of."""
        return 0.0 if self.connected else time.monotonic() - self._seen

    def publish(self, own: Mapping[str, str], *, complete: bool) -> None:
        """Have this in the store from now on."""
        self.own, self.complete = own, complete
        self._publish.set()

    async def run(self) -> None:
        """Until cancelled."""
        wait, longest = AGAIN_SECONDS
        while True:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._replica.follow(self._etcd, self._caught_up))
                    group.create_task(self._keep())
                    group.create_task(self._write_own())
            except* StoreError as errors:
                error = next(one for one in errors.exceptions if isinstance(one, StoreError))
            if self.connected:
                wait = AGAIN_SECONDS[0]
            self._lost(error)
            if not isinstance(error, CompactedError):
                await asyncio.sleep(wait * random.uniform(0.5, 1))  # noqa: S311 (no secret)
                wait = min(2 * wait, longest)

    async def close(self) -> None:
        """Give the lease back: this agent ends, and says so."""
        if self._lease:
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(1):
                    await self._etcd.revoke(self._lease)
        await self._etcd.close()

    def _caught_up(self) -> None:
        if not self.connected:
            log.info("follows the store", endpoint=self._etcd.endpoint, revision=self._replica.revision)
        self.connected, self.problem = True, ""
        self._changed()

    def _lost(self, error: StoreError) -> None:
        if self.connected:
            self._seen = time.monotonic()
        if self.connected or error.message != self.problem:
            log.warning("the store is not followed; what runs, runs on", reason=str(error))
        self.failures += 1
        self.connected, self.problem = False, error.message
        if isinstance(error, StoreUnreachableError):
            self._etcd.next_endpoint()
        self._changed()

    # --- what is this host's own ---

    async def _keep(self) -> None:
        """Keep the lease. StoreUnreachableError where the store does not answer: a watch would not tell that."""
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            try:
                if self._lease:
                    await self._etcd.keep(self._lease)
                else:
                    await self._etcd.get(self._keys.cluster)  # only whether it is there
            except LeaseGoneError:
                self._lease, self._written = 0, None
            except StoreUnreachableError:
                raise
            except StoreError as error:
                self._own_failed(error)
            self._publish.set()  # what could not be written is tried again

    async def _write_own(self) -> None:
        """Write what changed of this host's own. What the store refuses is told, and tried again later."""
        while True:
            await self._publish.wait()
            self._publish.clear()
            try:
                await self._write(dict(self.own), complete=self.complete)
            except StoreUnreachableError:
                raise
            except LeaseGoneError:
                self._lease, self._written = 0, None
                self._publish.set()
            except StoreError as error:
                self._own_failed(error)
            else:
                if self.own_problem:
                    log.info("this host's own is in the store again")
                self.own_problem = ""

    def _own_failed(self, error: StoreError) -> None:
        if error.message != self.own_problem:
            log.warning("this host's own cannot be written to the store", reason=str(error))
        self.own_problem = error.message

    async def _write(self, own: dict[str, str], *, complete: bool) -> None:
        if not self._lease:
            self._lease = await self._etcd.grant(LEASE_SECONDS)
            self._written = None
        if self._written is None:
            ends = await self._etcd.range(f"{self._keys.ends}{self._host}/")
            there = {key: found.value for key, found in ends.found.items()}
            self._written = {key: "" for key in there if key not in own}  # under another lease: to be written anew
        for key, value in own.items():
            if self._written.get(key) != value:
                await self._etcd.put(key, value, self._lease)
                self._written[key] = value
        for key in [one for one in self._written if one not in own] if complete else ():
            session = tuple(key.split("/")[-2:])
            if session in self._replica.snapshot.sessions:
                if self._written[key] != GONE:
                    await self._etcd.put(key, GONE, self._lease)
                    self._written[key] = GONE
            else:
                await self._etcd.delete(key)
                del self._written[key]
