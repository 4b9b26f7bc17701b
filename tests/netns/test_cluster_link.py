"""What a host has in the store, against a real etcd: kept there whatever becomes of it, and the host's alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress

import pytest

from mirrord.cluster import link as module
from mirrord.cluster import records
from mirrord.cluster.etcd import Access, Etcd
from mirrord.cluster.keys import Keys
from mirrord.cluster.link import Link
from mirrord.cluster.replica import Replica
from tests.support.etcd import Store
from tests.support.topology import Topology

KEYS = Keys("/mirrord")
SESSIONS = 250
"""More than one transaction takes, where etcd is as it is by default."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Topology() as net:
        made = Store(net.host("store"), tmp_path_factory.mktemp("etcd"))
        made.start()
        yield made
        made.kill()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP_SECONDS", 0.05)


@asynccontextmanager
async def linked(access: Access, host: str, node: str, ends: int = 0) -> AsyncIterator[Link]:
    """The link of a host's agent that has so many destinations."""
    etcd = Etcd(access)
    link = Link(etcd, KEYS, host, Replica(KEYS, lambda: None), lambda: None)
    own = {KEYS.end(host, "m", f"s{number}"): records.record({"address": "192.0.2.1"}) for number in range(ends)}
    link.publish({KEYS.host(host): records.record({"node": node}), **own}, complete=True)
    task = asyncio.create_task(link.run())
    try:
        yield link
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await link.close()


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    for _ in range(500):
        if await condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"not within 10 s: {what}")


def test_what_is_deleted_or_another_ones_is_written_again(store: Store) -> None:
    async def asked(etcd: Etcd) -> None:
        async def values() -> list[str]:
            found = (await etcd.range(f"{KEYS.ends}h/")).found
            return [one.value for one in found.values() if one.lease]

        async def whole() -> bool:
            return await values() == [records.record({"address": "192.0.2.1"})] * SESSIONS

        await etcd.put(KEYS.cluster, records.record({"id": "one"}))
        async with linked(store.access, "h", "here", SESSIONS):
            await until(whole, "all are written")
            await etcd.put(KEYS.end("h", "m", "s7"), records.record({"address": "192.0.2.9"}))
            await etcd.delete(KEYS.end("h", "m", "s8"))
            await etcd.delete(KEYS.host("h"))
            await until(whole, "as they were")
            assert (await etcd.get(KEYS.host("h")))[0] is not None
        await until(lambda: _none(etcd), "they go with the agent")

    store.ask(asked)


async def _none(etcd: Etcd) -> bool:
    return not (await etcd.range(KEYS.ends)).found


def test_two_agents_of_one_name_are_both_told(store: Store) -> None:
    async def asked(etcd: Etcd) -> None:
        await etcd.put(KEYS.cluster, records.record({"id": "one"}))

        async def both() -> bool:
            return "on two: give one" in first.twin and "on one: give one" in second.twin

        async def nobody() -> bool:
            return not first.twin

        async with linked(store.access, "h", "one") as first:
            await until(lambda: _there(etcd), "it lives")
            assert not first.twin
            async with linked(store.access, "h", "two") as second:
                await until(both, "each knows of the other")
            await until(nobody, "the other has gone")
            await until(lambda: _there(etcd), "it lives")

    store.ask(asked)


async def _there(etcd: Etcd) -> bool:
    return (await etcd.get(KEYS.host("h")))[0] is not None
