"""The client of the store, and what keeps up with it, against a real etcd."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mirrord.cluster import allocation, probes, records
from mirrord.cluster import etcd as etcd_client
from mirrord.cluster.errors import CompactedError, LeaseGoneError, StoreError
from mirrord.cluster.etcd import Access, Etcd, Event, absent, put, unchanged
from mirrord.cluster.keys import Keys
from mirrord.cluster.replica import Replica
from mirrord.values.addresses import parse_address_range
from tests.support.etcd import Store
from tests.support.topology import Topology

KEYS = Keys("/mirrord")


@pytest.fixture
def store(net: Topology, tmp_path: Path) -> Iterator[Store]:
    made = Store(net.host("store"), tmp_path / "etcd")
    made.start()
    yield made
    made.kill()


async def until(condition: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    for _ in range(int(seconds * 100)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"not within {seconds} s: {what}")


def test_what_etcd_takes_is_what_its_own_client_reads(store: Store) -> None:
    async def asked(etcd: Etcd) -> None:
        assert await etcd.put("/mirrord/a", "ä\n") == 2
        assert (await etcd.change([absent("/mirrord/b")], [put("/mirrord/b", "1"), put("/x", "1")])) == (True, 3)
        assert (await etcd.change([absent("/mirrord/b")], [put("/mirrord/b", "2")])) == (False, 3)
        assert (await etcd.change([unchanged("/mirrord/b", 3)], [put("/mirrord/b", "3")])).succeeded
        contents = await etcd.range("/mirrord/")
        assert contents.revision == 4
        assert {key: found.value for key, found in contents.found.items()} == {"/mirrord/a": "ä\n", "/mirrord/b": "3"}
        for first in range(0, 2300, 100):
            await etcd.change([], [put(f"/many/{number:05}", "x") for number in range(first, first + 100)])
        assert len((await etcd.range("/many/")).found) == 2300, "read in pages"
        with pytest.raises(StoreError, match="--max-txn-ops"):
            await etcd.change([], [put(f"/many/{number:05}", "x") for number in range(200)])

    store.ask(asked)
    assert store.ctl("get", "/mirrord/b", "--print-value-only").strip() == "3"


async def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is at the store's address need not be a store."""
    monkeypatch.setattr(etcd_client, "BODY", 1 << 20)

    async def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[")
        with suppress(ConnectionError):
            while True:
                writer.write(bytes(1 << 16))
                await writer.drain()

    server = await asyncio.start_server(tell, "127.0.0.1", 0)
    client = Etcd(Access((f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",)))
    with pytest.raises(StoreError, match="has more than 1048576 bytes"):
        await client.get("/mirrord/a")
    await client.close()
    server.close()


def test_a_lease_that_is_not_kept_takes_its_keys_along(store: Store) -> None:
    async def asked(etcd: Etcd) -> None:
        lease = await etcd.grant(600)
        await etcd.put("/mirrord/l", "x", lease)
        await etcd.keep(lease)
        store.ctl("lease", "revoke", f"{lease:x}")
        assert (await etcd.get("/mirrord/l"))[0] is None
        with pytest.raises(LeaseGoneError):
            await etcd.keep(lease)

    store.ask(asked)


def test_a_watch_goes_on_where_it_was_and_says_when_it_cannot(store: Store) -> None:
    async def asked(etcd: Etcd) -> None:
        for number in range(5):
            await etcd.put("/mirrord/config/a", str(number))
        await etcd.delete("/mirrord/config/a")
        seen: list[Event] = []

        async def watch() -> None:
            async for events in etcd.watch({"/mirrord/config/": 4, "/mirrord/ends/": 1}):
                seen.extend(events)

        task = asyncio.create_task(watch())
        await until(lambda: len(seen) == 4, "the history from revision 4 on")
        assert [(one.revision, one.found and one.found.value) for one in seen] == [
            (4, "2"),
            (5, "3"),
            (6, "4"),
            (7, None),
        ]
        await etcd.put("/mirrord/ends/b", "x")
        await until(lambda: len(seen) == 5, "a change of the other prefix")
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        store.ctl("compact", "6")
        with pytest.raises(CompactedError):
            await watch()

    store.ask(asked)


def test_what_a_revision_changed_comes_as_one_however_much_there_is_to_catch_up_with(store: Store) -> None:
    """4 MB: etcd answers in parts of 1.5 MB (its --max-request-bytes)."""
    keys = [f"/mirrord/config/{number}" for number in range(100)]

    async def asked(etcd: Etcd) -> None:
        done = [await etcd.change([], [put(key, f"{turn}" * 1000) for key in keys]) for turn in range(40)]
        found: list[tuple[Event, ...]] = []
        async for events in etcd.watch({"/mirrord/config/": 1, "/mirrord/ends/": 1}):
            found += [events] if events else []
            if events and events[-1].revision == done[-1].revision:
                break
        revisions = [[one.revision for one in events] for events in found]
        assert [one for each in revisions for one in each] == [one.revision for one in done for _ in keys]
        assert all(one.count(revision) == len(keys) for one in revisions for revision in set(one))

    store.ask(asked)


def test_another_endpoint_is_asked_where_one_is_gone(store: Store) -> None:
    access = Access(("http://127.0.0.1:9", store.url))
    assert store.ask(lambda etcd: etcd.put("/mirrord/a", "1"), access) == 2


def test_a_full_store_says_so_and_can_still_be_read(net: Topology, tmp_path: Path) -> None:
    small = Store(
        net.host("small"),
        tmp_path / "small",
        "--quota-backend-bytes",
        "200000",
        "--listen-peer-urls",
        "http://127.0.0.1:2380",
    )
    small.start()

    async def asked(etcd: Etcd) -> None:
        fills = (etcd.put(f"/fill/{number}", "x" * 1000) for number in range(500))
        with pytest.raises(StoreError, match="NOSPACE"):
            await asyncio.gather(*fills)
        assert await etcd.alarms() == ("NOSPACE",)
        with pytest.raises(StoreError, match="NOSPACE"):
            await etcd.grant(30)
        assert (await etcd.range("/fill/")).found

    small.ask(asked)
    small.kill()


def test_of_fifty_who_want_an_address_each_has_its_own(store: Store) -> None:
    addresses = parse_address_range("192.0.2.1-192.0.2.50/24")

    async def asked(etcd: Etcd) -> None:
        revision = await etcd.put(KEYS.object("flow_networks", "flow0"), "{}")

        async def take(host: str) -> str:
            return await allocation.address(etcd, KEYS, allocation.Network("flow0", addresses, revision), host)

        found = await asyncio.gather(*(take(f"h{number}") for number in range(50)))
        assert len(set(found)) == 50
        assert await take("h7") == found[7], "the one that it has"
        with pytest.raises(StoreError, match="forget a host"):
            await take("another")
        await etcd.delete(f"{KEYS.addresses('flow0')}{found[7]}")
        await etcd.put(KEYS.object("flow_networks", "flow0"), "{}")
        with pytest.raises(StoreError, match="was changed meanwhile"):
            await take("another")

    store.ask(asked)


class Following:
    """A replica, and what it is told."""

    def __init__(self) -> None:
        self.replica = Replica(KEYS, lambda: None)
        self.problem: StoreError | None = None

    async def follow(self, etcd: Etcd) -> None:
        try:
            await self.replica.follow(etcd, lambda: None)
        except StoreError as error:
            self.problem = error


def filter_(port: int) -> str:
    rule = {"priority": 1, "action": "accept", "protocol": "tcp", "destination_ports": str(port)}
    return records.record({"rules": [rule]})


def followed(store: Store, asked: Callable[[Etcd, Following], Awaitable[None]]) -> None:
    async def run(etcd: Etcd) -> None:
        await etcd.put(KEYS.cluster, records.record({"id": "one"}))
        await etcd.put(KEYS.object("filters", "web"), filter_(80))
        await asked(etcd, Following())

    store.ask(run)


def test_what_is_known_is_what_the_store_has_also_after_its_history_went(store: Store) -> None:
    async def asked(etcd: Etcd, one: Following) -> None:
        task = asyncio.create_task(one.follow(etcd))
        await until(lambda: "web" in one.replica.snapshot.filters, "the first reading")
        await etcd.put(KEYS.object("filters", "ssh"), filter_(22))
        await etcd.put(KEYS.end("h", "m", "s"), records.record({"address": "192.0.2.1"}))
        await until(lambda: "ssh" in one.replica.snapshot.filters, "what came meanwhile")
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await etcd.delete(KEYS.object("filters", "web"))
        await etcd.delete(KEYS.end("h", "m", "s"))
        revision = await etcd.put(KEYS.object("filters", "dns"), filter_(53))
        store.ctl("compact", str(revision))
        task = asyncio.create_task(one.follow(etcd))
        await until(lambda: set(one.replica.snapshot.filters) == {"ssh", "dns"}, "all, read again")
        task.cancel()

    followed(store, asked)


def test_an_end_that_expired_is_known_still(store: Store) -> None:
    async def asked(etcd: Etcd, one: Following) -> None:
        session = records.record({"source": "a", "destination": {"type": "vm", "vm": "b", "nic": 1}})
        await etcd.put(KEYS.object("mirrors", "m"), records.record({}))
        await etcd.put(KEYS.object("sessions", "s", "m"), session)
        lease = await etcd.grant(600)
        await etcd.put(KEYS.end("h", "m", "s"), records.record({"address": "192.0.2.1"}), lease)
        task = asyncio.create_task(one.follow(etcd))
        await until(lambda: ("m", "s") in one.replica.ends.by_session, "the end")
        await etcd.revoke(lease)
        await until(lambda: one.replica.ends.by_session["m", "s"]["h"].stale, "it is stale")
        assert one.replica.ends.by_session["m", "s"]["h"].address == "192.0.2.1"
        again = Replica(KEYS, lambda: None)
        again.restore(one.replica.kept())
        assert (again.ends, again.snapshot, again.cluster_id) == (one.replica.ends, one.replica.snapshot, "one")
        await etcd.delete(KEYS.object("sessions", "s", "m"))
        await until(lambda: not one.replica.ends.by_session, "it goes with its session")
        task.cancel()

    followed(store, asked)


def test_an_empty_store_or_another_clusters_takes_nothing_away(store: Store) -> None:
    async def asked(etcd: Etcd, one: Following) -> None:
        task = asyncio.create_task(one.follow(etcd))
        await until(lambda: "web" in one.replica.snapshot.filters, "the first reading")
        store.ctl("del", "--prefix", KEYS.config)
        await until(lambda: one.problem is not None, "it is not followed")
        assert "web" in one.replica.snapshot.filters
        await one.follow(etcd)
        assert one.problem is not None
        assert "the store is empty" in str(one.problem)
        await etcd.put(KEYS.cluster, records.record({"id": "two"}))
        await one.follow(etcd)
        assert "another cluster's" in str(one.problem)
        assert "web" in one.replica.snapshot.filters
        fresh = Following()
        await etcd.delete(KEYS.cluster)
        await fresh.follow(etcd)
        assert "mirrord-agent init" in str(fresh.problem)
        await task

    followed(store, asked)


def test_a_record_that_cannot_be_read_keeps_no_other_one_out(store: Store) -> None:
    async def asked(etcd: Etcd, one: Following) -> None:
        await etcd.put(KEYS.object("filters", "newer"), '{"version": 2, "rules": []}')
        await etcd.put(KEYS.object("filters", "more"), records.record({"rules": [], "colour": "red"}))
        await etcd.put(KEYS.object("filters", "torn"), '{"version":')
        task = asyncio.create_task(one.follow(etcd))
        await until(lambda: one.replica.revision > 0, "the first reading")
        assert set(one.replica.snapshot.filters) == {"web"}
        told = {each.path: each.message for each in one.replica.snapshot.unread}
        assert "upgrade it" in told["filters.newer.version"]
        assert "unknown key" in told["filters.more.colour"]
        assert "not JSON" in told["filters.torn"]
        task.cancel()

    followed(store, asked)


@pytest.mark.parametrize(("changed_since", "known_further"), [(False, False), (True, False), (True, True)])
def test_a_store_from_a_backup_is_read_anew_though_it_is_further_by_now(
    store: Store, *, changed_since: bool, known_further: bool
) -> None:
    """Its id is the same, and the hosts' own keys take it past any revision that was known before."""
    backup = store.directory / "backup.db"

    async def changed(etcd: Etcd, name: str, port: int) -> None:
        await etcd.change([], [put(KEYS.object("filters", name), filter_(port)), put(KEYS.guard, records.guard("h"))])

    async def asked(etcd: Etcd, one: Following) -> None:
        await changed(etcd, "dns", 53)
        task = asyncio.create_task(one.follow(etcd))
        await until(lambda: "dns" in one.replica.snapshot.filters, "the first reading")
        await asyncio.to_thread(store.ctl, "snapshot", "save", str(backup))
        await changed(etcd, "web", 443)
        await changed(etcd, "ssh", 22)
        await until(lambda: "ssh" in one.replica.snapshot.filters, "what is not in the backup")
        if known_further:
            for _ in range(100):
                await etcd.put(KEYS.end("h", "m", "s"), records.record({"address": "192.0.2.1"}))
            await until(lambda: one.replica.ends.by_session["m", "s"]["h"].revision > 100, "and more")
        store.kill()
        await task
        store.restore(backup)
        store.start()
        for _ in range(50):
            await etcd.put("/mirrord/status/h", "x")
        if changed_since:
            await changed(etcd, "ntp", 123)
        task = asyncio.create_task(one.follow(etcd))
        wanted = {"web", "dns", "ntp"} if changed_since else {"web", "dns"}
        await until(lambda: set(one.replica.snapshot.filters) == wanted, "what the backup has")
        (rule,) = one.replica.snapshot.filters["web"].rules
        assert rule.destination_ports == ((80, 80),)
        task.cancel()

    followed(store, asked)


def test_a_watch_whose_connection_died_silently_is_noticed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a firewall that forgot it: no end is announced, and other connections go on."""
    monkeypatch.setattr(probes, "PROBES", probes.Probes(1, 1, 1))

    async def asked(etcd: Etcd, one: Following) -> None:
        task = asyncio.create_task(one.follow(etcd))
        await until(lambda: "web" in one.replica.snapshot.filters, "the first reading")
        await asyncio.sleep(0.1)  # the watch is asked for by now
        ours = store.host.run("ss", "-Htn", "state", "established", "dport", "=", ":2379").split()
        for port in {address.rpartition(":")[2] for address in ours[2::4]}:
            store.host.run("iptables", "-A", "OUTPUT", "-p", "tcp", "--sport", port, "-j", "DROP")
        await until(lambda: one.problem is not None, "it is noticed")
        task.cancel()

    followed(store, asked)
