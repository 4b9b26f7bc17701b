"""The agent's connection with the store: it follows the replica, keeps the lease and writes what is this host's own.

Whatever goes wrong, it begins again after a while, by another endpoint. The lease says that this agent lives and sees
the store, never that a mirror runs.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import count, islice
from typing import TypeVar

from mirrord.cluster import records
from mirrord.cluster.errors import CompactedError, LeaseGoneError, StoreError, StoreUnreachableError
from mirrord.cluster.etcd import Etcd, Found, delete, put
from mirrord.cluster.keys import Keys
from mirrord.cluster.replica import Replica
from mirrord.control.logs import logger

log = logger("cluster")

T = TypeVar("T")

LEASE_SECONDS = 30
KEEP_SECONDS = 10.0
SEEN_EACH = 3
"""How many times the lease is kept until it is seen whether what was written is there still. A thousand agents that
look each time cost etcd as much again as it is to keep their leases."""

AGAIN_SECONDS = 0.2, 5.0
"""How long to wait before the store is asked again: at first, and at most; each time twice as long, times 0.5 to 1."""

WRITTEN_AT_ONCE = 100
"""Keys of one transaction: etcd allows 128 unless it is told otherwise. One by one, 2,000 ends take 40 s."""

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
        self.renewed = 0  # how often what is this host's in the store may have changed unseen
        self.problem = "the store was not asked yet"
        self.own_problem = ""  # what keeps this host's own from being written
        self.twin = ""  # about another agent that calls itself as this one does
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
            self._renew()  # it may have come from a backup
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
            self._etcd.next_endpoint(error.endpoint)
        self._changed()

    # --- what is this host's own ---

    async def _keep(self) -> None:
        """Keep the lease. StoreUnreachableError where the store does not answer: a watch would not tell that."""
        for turn in count(1):
            await asyncio.sleep(KEEP_SECONDS)
            try:
                if self._lease:
                    await self._etcd.keep(self._lease)
                    if turn % SEEN_EACH == 0:
                        await self._see_own()
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

    async def _see_own(self) -> None:
        """See whether what was written is there still: somebody may have deleted it, and another host may have the
        name of this one.
        """
        found, _ = await self._etcd.get(self._keys.host(self._host), of_node=True)
        if self._written is None or (found is not None and found.lease == self._lease):
            twin = ""
        else:
            self._renew()
            self._changed()
            twin = _twin(self._host, found) if found is not None else ""
        if twin != self.twin:
            if twin:
                log.error("two agents have the name of this host", reason=twin)
            self.twin = twin
            self._changed()

    def _renew(self) -> None:
        self.renewed += 1
        self._written = None
        self._publish.set()

    async def _write(self, own: dict[str, str], *, complete: bool) -> None:
        if not self._lease:
            self._lease = await self._etcd.grant(LEASE_SECONDS)
            self._written = None
        if self._written is None:
            self._written = await self._there()
        written = self._written  # whoever renews it meanwhile has all written anew
        wanted: dict[str, str | None] = {key: value for key, value in own.items() if written.get(key) != value}
        for key in [one for one in written if one not in own] if complete else ():
            session = tuple(key.split("/")[-2:])
            if session not in self._replica.snapshot.sessions:
                wanted[key] = None
            elif written[key] != GONE:
                wanted[key] = GONE
        for some in batched(wanted.items(), WRITTEN_AT_ONCE):
            operations = [delete(key) if value is None else put(key, value, self._lease) for key, value in some]
            await self._etcd.change([], operations, again=True, words=f"write {some[0][0]}")
            for key, value in some:
                written[key] = value or ""
                if value is None:
                    del written[key]

    async def _there(self) -> dict[str, str]:
        """What the store has of this host's own: "" for what is under another lease, and is to be written anew."""
        ends = (await self._etcd.range(f"{self._keys.ends}{self._host}/")).found
        for key in (self._keys.host(self._host), self._keys.status(self._host)):
            if (found := (await self._etcd.get(key))[0]) is not None:
                ends[key] = found
        return {key: found.value if found.lease == self._lease else "" for key, found in ends.items()}


def _twin(host: str, found: Found) -> str:
    node = str(records.read(found.value, f"hosts.{host}")[0].get("node", "an unknown node"))
    return f"another agent calls itself {host!r}, too, on {node}: give one of the two another `host` in its agent.toml"


def batched(items: Iterable[T], most: int) -> Iterator[list[T]]:
    """So many at a time."""
    rest = iter(items)
    while some := list(islice(rest, most)):
        yield some
