"""What this host knows of the cluster: the store's configuration and ends as they were last seen, kept up by a watch.

Nothing that goes wrong with the store takes anything away: what was known last holds. A store that is empty, or another
cluster's, is not followed at all.

What is read is read a slice at a time, and the loop goes on in between: `snapshot` and `ends` are those of before until
all of it is.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mirrord.cluster import records
from mirrord.cluster.ends import Ends, KeptEnds
from mirrord.cluster.errors import CompactedError, StoreError
from mirrord.cluster.etcd import Etcd, Event, Found, Head
from mirrord.cluster.keys import Keys
from mirrord.cluster.reader import Reader
from mirrord.cluster.records import End, SessionKey
from mirrord.cluster.snapshot import Snapshot

NOBODY = Head("", 0, 0)

SLICE_SECONDS = 0.002
"""How long records are read until the loop may go on."""


@contextmanager
def to_stay() -> Iterator[None]:
    """What is made meanwhile stays: a full collection would look at it again, with 10,000 sessions for 100 ms."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


async def sliced(steps: Iterable[None]) -> None:
    """Take all of them; after each few milliseconds the loop may go on."""
    begun = time.monotonic()
    for _ in steps:
        if time.monotonic() - begun > SLICE_SECONDS:
            await asyncio.sleep(0)
            begun = time.monotonic()


class Replica:
    """`changed` is called whenever there is news. `snapshot` is the configuration, `ends` where destinations are.

    `revision` is that of the newest configuration that is known.
    """

    def __init__(self, keys: Keys, changed: Callable[[], None]) -> None:
        self._keys, self._changed = keys, changed
        self._reader, self._kept_ends = Reader(keys), KeptEnds()
        self._touched: set[SessionKey] = set()  # since the last snapshot
        self._unsaved: set[str] = set()  # keys, since `kept` was asked
        self._head = NOBODY
        self._at = dict.fromkeys((keys.config, keys.ends), 0)  # the revision up to which all below it is known
        self.cluster_id = ""
        self.snapshot, self.ends = Snapshot(), Ends()
        self._news = asyncio.Event()

    @property
    def revision(self) -> int:
        return self._at[self._keys.config]

    @property
    def config(self) -> Mapping[str, Found]:
        """All records of the configuration, by key."""
        return self._reader.config

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until it holds, which only news can bring; whether it does in time."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def follow(self, etcd: Etcd, seen: Callable[[], None]) -> None:
        """Catch up with the store, then keep up with it, until StoreError. `seen` is called when it has caught up."""
        await self._catch_up(etcd)
        seen()
        try:
            async for events in etcd.watch({prefix: at + 1 for prefix, at in self._at.items()}):
                if events:
                    await self._apply(events)
        except CompactedError:
            self._head = NOBODY  # read all again
            raise

    async def _catch_up(self, etcd: Etcd) -> None:
        """Read all where there is nothing yet to go on from, or the store is not the one that was."""
        found, head = await etcd.get(self._keys.cluster)
        self.cluster_id = self.recognize(found)
        before, self._head = self._head, head
        goes_on = head.cluster == before.cluster and head.term >= before.term and head.revision >= before.revision
        if not (goes_on and await self._has_what_is_known(etcd)):
            self._head = NOBODY  # until all is read
            contents = await etcd.range(self._keys.config)
            ends = await etcd.range(self._keys.ends, contents.revision)
            with to_stay():
                await sliced(self._put(self._others(contents.found, ends.found)))
                await sliced(self._pieces())
            self._at = dict.fromkeys(self._at, contents.revision)
            self._head = head
            self._show()

    async def _has_what_is_known(self, etcd: Etcd) -> bool:
        """Whether the store's last change, at the revision up to which it is known, is the one that is known. In one
        from a backup it is not; its id and terms may be as before, and its revision past that by now.
        """
        key = self._keys.guard
        try:
            then, _ = await etcd.get(key, max(self._at.values()))
        except CompactedError:
            return False  # it is not that far, or tells no more what was there
        return then == self.config.get(key)

    def recognize(self, found: Found | None) -> str:
        """The id of the cluster that a store has. StoreError where it is not this one."""
        told = records.read(found.value, "config.cluster")[0] if found is not None else {}
        id_ = str(told.get("id", ""))
        if not id_ and not self.cluster_id:
            raise StoreError("no_cluster", "the store has no cluster yet: run `mirrord-agent init` once, on one host")
        if not id_:
            why = "the store is empty: it is not followed, and what ran runs on. Restore it"
            raise StoreError("other_cluster", f"{why}, or leave the cluster: mirrord-agent join --replace")
        if self.cluster_id and id_ != self.cluster_id:
            why = f"the store is another cluster's ({id_}, not {self.cluster_id}): it is not followed, what ran runs on"
            raise StoreError("other_cluster", f"{why}. To join that one: mirrord-agent join --replace")
        return id_

    def _others(self, config: Mapping[str, Found], ends: Mapping[str, Found]) -> Iterator[tuple[str, Found | None]]:
        """All that the store has, and what it has no more."""
        yield from [(key, None) for key in self._reader.config if key not in config]
        yield from config.items()
        for host, sessions in self._kept_ends.read().by_host.items():
            there = (self._keys.end(host, *session) for session in sessions)
            yield from ((key, None) for key in there if key not in ends)
        yield from ends.items()

    async def _apply(self, events: tuple[Event, ...]) -> None:
        if any(key == self._keys.cluster and found is None for key, found, _ in events):
            why = "the cluster was deleted from the store: it is not followed any more, what ran runs on"
            raise StoreError("other_cluster", why)
        await sliced(self._put((key, found) for key, found, _ in events))
        await sliced(self._pieces())
        for prefix in self._at:
            revisions = (revision for key, _, revision in events if key.startswith(prefix))
            self._at[prefix] = max([self._at[prefix], *revisions])
        self._show()

    def _put(self, news: Iterable[tuple[str, Found | None]]) -> Iterator[None]:
        """Read it, a record at a time. Whoever breaks off begins again at the revision that was known before."""
        for key, found in news:
            self._unsaved.add(key)
            if key.startswith(self._keys.ends):
                self._end(key, found)
            elif key.startswith(self._keys.config):
                self._reader.put(key, found)
                section, *name = key.removeprefix(self._keys.config).split("/")
                if section == "sessions" and len(name) == 2:
                    self._touched.add((name[0], name[1]))
            yield

    def _end(self, key: str, found: Found | None) -> None:
        parts = key.removeprefix(self._keys.ends).split("/")
        if len(parts) != 3:
            return
        host, session = parts[0], (parts[1], parts[2])
        if found is None:
            end = self._kept_ends.get(session).get(host)
            end = None if end is None else end._replace(stale=True)
        else:
            end = records.read_end(host, found.value, found.modified)
        if end is not None:
            self._touched.add(session)
            self._kept_ends.put(session, host, end)

    def _pieces(self) -> Iterator[None]:
        """Make ready what is to be seen, a piece at a time: of 10,000 sessions it is 40 ms."""
        yield from self._reader.pieces()
        for session in self._touched - self._reader.snapshot().sessions.keys():
            for host, end in self._kept_ends.get(session).items():
                if end.stale:  # one that is not may have come before its session
                    self._kept_ends.put(session, host, None)
                    self._unsaved.add(self._keys.end(host, *session))
            yield
        yield from self._kept_ends.pieces()

    def _show(self) -> None:
        """Have whoever is interested see what was read."""
        self.snapshot, self.ends = self._reader.snapshot(), self._kept_ends.read()
        self._touched = set()
        self._changed()
        self._news.set()  # for who waits now
        self._news = asyncio.Event()

    # --- the file ---

    def kept(self, *, whole: bool = True) -> dict[str, Any]:
        """What a start without the store takes, in what JSON has words for. Not `whole`: what of it is new since this
        was asked last; None is what is gone.
        """
        unsaved, self._unsaved = self._unsaved, set()
        config: dict[str, Found | None] = {}
        ends: dict[str, End | None] = {}
        if whole:
            config.update(self._reader.config)
            for host, sessions in self.ends.by_host.items():
                ends.update((self._keys.end(host, *one), self.ends.by_session[one][host]) for one in sessions)
        for key in () if whole else unsaved:
            if key.startswith(self._keys.config):
                config[key] = self._reader.config.get(key)
            elif len(parts := key.removeprefix(self._keys.ends).split("/")) == 3:
                ends[key] = self._kept_ends.get((parts[1], parts[2])).get(parts[0])
        return {
            "cluster_id": self.cluster_id,
            "head": self._head,
            "at": self._at.copy(),
            "config": config,
            "ends": ends,
        }

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Take what `kept` gave. KeyError, TypeError, ValueError: it is none of that."""
        head, at = Head(*kept["head"]), {prefix: int(kept["at"][prefix]) for prefix in self._at}
        with to_stay():
            for key, found in kept["config"].items():
                self._reader.put(str(key), Found(*found))
            for key, written in kept["ends"].items():
                _, mirror, session = key.removeprefix(self._keys.ends).split("/")
                end = End(*written)
                self._kept_ends.put((mirror, session), end.host, end)
            for _ in self._pieces():
                pass
        self._head, self._at = head, at
        self.cluster_id = str(kept["cluster_id"])
        self._show()
