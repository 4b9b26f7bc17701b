"""What this host knows of the cluster: the store's configuration and ends as they were last seen, kept up by a watch.

Nothing that goes wrong with the store takes anything away: what was known last holds. A store that is empty, or another
cluster's, is not followed at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from mirrord.cluster import records
from mirrord.cluster.derive import Ends
from mirrord.cluster.errors import CompactedError, StoreError
from mirrord.cluster.etcd import Etcd, Event, Found, Head
from mirrord.cluster.keys import Keys
from mirrord.cluster.records import End
from mirrord.cluster.snapshot import Reader, SessionKey, Snapshot

NOBODY = Head("", 0, 0)


class Replica:
    """`changed` is called whenever there is news. `snapshot` is the configuration, `ends` where destinations are.

    `revision` is that of the newest configuration that is known.
    """

    def __init__(self, keys: Keys, changed: Callable[[], None]) -> None:
        self._keys, self._changed, self._reader = keys, changed, Reader(keys)
        self._config: dict[str, Found] = {}
        self._ends: dict[SessionKey, dict[str, End]] = {}
        self._head = NOBODY
        self._at = dict.fromkeys((keys.config, keys.ends), 0)  # the revision up to which all below it is known
        self.cluster_id = ""
        self.snapshot = Snapshot()
        self._news = asyncio.Event()

    @property
    def ends(self) -> Ends:
        """As they are now, for whoever looks at them on another thread."""
        return {session: dict(hosts) for session, hosts in self._ends.items()}

    @property
    def revision(self) -> int:
        return self._at[self._keys.config]

    @property
    def config(self) -> Mapping[str, Found]:
        return self._config

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
                    self._apply(events)
        except CompactedError:
            self._head = NOBODY  # read all again
            raise

    async def _catch_up(self, etcd: Etcd) -> None:
        """Read all where there is nothing yet to go on from, or the store is not the one that was."""
        found, head = await etcd.get(self._keys.cluster)
        self._recognize(found)
        before, self._head = self._head, head
        goes_on = head.cluster == before.cluster and head.term >= before.term and head.revision >= before.revision
        if not goes_on:
            self._head = NOBODY  # until all is read
            contents = await etcd.range(self._keys.config)
            ends = await etcd.range(self._keys.ends, contents.revision)
            self._take(contents.revision, contents.found, ends.found)
            self._head = head

    def _recognize(self, found: Found | None) -> None:
        """StoreError where the store is not this cluster's."""
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
        self.cluster_id = id_

    def _take(self, revision: int, config: dict[str, Found], ends: Mapping[str, Found]) -> None:
        """All that the store has."""
        self._config = config
        for hosts in self._ends.values():
            for host, end in hosts.items():
                hosts[host] = end._replace(stale=True)  # unless it is there, below
        for key, found in ends.items():
            self._end(key, found)
        self._at = dict.fromkeys(self._at, revision)
        self._read()

    def _apply(self, events: tuple[Event, ...]) -> None:
        if any(key == self._keys.cluster and found is None for key, found, _ in events):
            why = "the cluster was deleted from the store: it is not followed any more, what ran runs on"
            raise StoreError("other_cluster", why)
        for key, found, revision in events:
            prefix = next((one for one in self._at if key.startswith(one)), None)
            if prefix is None:
                continue
            self._at[prefix] = max(self._at[prefix], revision)
            if prefix == self._keys.ends:
                self._end(key, found)
            elif found is None:
                self._config.pop(key, None)
            else:
                self._config[key] = found
        self._read()

    def _end(self, key: str, found: Found | None) -> None:
        parts = key.removeprefix(self._keys.ends).split("/")
        if len(parts) != 3:
            return
        host, session = parts[0], (parts[1], parts[2])
        if found is None:
            if (end := self._ends.get(session, {}).get(host)) is not None:
                self._ends[session][host] = end._replace(stale=True)
        elif (end := records.read_end(host, found.value, found.modified)) is not None:
            self._ends.setdefault(session, {})[host] = end

    def _read(self) -> None:
        self.snapshot = self._reader.snapshot(self._config)
        for session in [one for one in self._ends if one not in self.snapshot.sessions]:
            kept = {host: end for host, end in self._ends[session].items() if not end.stale}
            self._ends[session] = kept  # one that is there may have come before its session
            if not kept:
                del self._ends[session]
        self._changed()
        self._news.set()  # for who waits now
        self._news = asyncio.Event()

    # --- the file ---

    def kept(self) -> dict[str, Any]:
        """What a start without the store takes, in JSON's types."""
        return {
            "cluster_id": self.cluster_id,
            "head": list(self._head),
            "at": self._at,
            "config": {key: list(found) for key, found in self._config.items()},
            "ends": [[*session, *end] for session, hosts in self._ends.items() for end in hosts.values()],
        }

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Take what `kept` gave. KeyError, TypeError, ValueError: it is none of that."""
        config = {str(key): Found(*found) for key, found in kept["config"].items()}
        ends: dict[SessionKey, dict[str, End]] = {}
        for mirror, session, *end in kept["ends"]:
            one = End(*end)
            ends.setdefault((mirror, session), {})[one.host] = one
        head, at = Head(*kept["head"]), {prefix: int(kept["at"][prefix]) for prefix in self._at}
        self._config, self._ends, self._head, self._at = config, ends, head, at
        self.cluster_id = str(kept["cluster_id"])
        self._read()
