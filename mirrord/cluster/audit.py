"""Who changed a cluster, when, from which host, with what result: records of the store, written with each change.

The rows are as those of the daemon's own audit log, with the host.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

from mirrord.cluster import records
from mirrord.cluster.errors import StoreError
from mirrord.cluster.etcd import Etcd, delete, put
from mirrord.cluster.keys import Keys
from mirrord.control.callers import Caller
from mirrord.control.targets import Target
from mirrord.errors import MirrordError

MOST_ROWS = 10_000
TOO_MANY = 200  # more, before the oldest ones go


FIELDS = frozenset(
    ("time", "host", "user", "uid", "pid", "operation", "kind", "object", "mirror", "result", "code", "message")
)
"""What a row has, at least: one that lacks some was written by something else."""


class Entry(NamedTuple):
    """One row."""

    caller: Caller
    host: str
    operation: str
    target: Target
    old: Any = None
    new: Any = None
    code: str = ""
    message: str = ""

    def refused(self, error: MirrordError) -> Entry:
        return self._replace(code=error.code, message=str(error))

    def operation_at(self, keys: Keys, now: float) -> dict[str, Any]:
        row = {
            "time": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "host": self.host,
            "user": self.caller.user,
            "uid": self.caller.uid,
            "pid": self.caller.pid,
            "operation": self.operation,
            "kind": self.target.kind,
            "object": self.target.name,
            "mirror": self.target.holder if self.target.kind in ("mirror", "session") else "",
            "result": "refused" if self.code else "done",
            "code": self.code,
            "message": self.message,
            "old": self.old,
            "new": self.new,
        }
        return put(f"{keys.audit}{int(now * 1e9):020}-{self.host}", records.record(row))

    def operation_now(self, keys: Keys) -> dict[str, Any]:
        """What writes it."""
        return self.operation_at(keys, time.time())


async def audited(etcd: Etcd, keys: Keys, entry: Entry) -> None:
    """Write a row by itself, of what was refused; where it cannot be written, it is not."""
    with suppress(StoreError):
        await etcd.change([], [entry.operation_now(keys)])


async def rows(etcd: Etcd, keys: Keys, mirror: str | None, since: float, limit: int) -> list[dict[str, Any]]:
    """The latest rows, the last one last."""
    found = (await etcd.range(keys.audit)).found
    told = []
    for key in sorted(found):
        written_at = re.match("[0-9]{20}-", key.removeprefix(keys.audit))
        if written_at is None or int(written_at[0][:-1]) / 1e9 < since:
            continue
        row, problems = records.read(found[key].value, "audit")
        if not problems and row.keys() >= FIELDS and mirror in (None, row["mirror"]):
            told.append(row)
    return told[-limit:]


async def shorten(etcd: Etcd, keys: Keys) -> None:
    """Take the oldest rows away, where there are too many."""
    with suppress(StoreError):
        there = sorted((await etcd.range(keys.audit, keys_only=True)).found)
        if len(there) > MOST_ROWS + TOO_MANY:
            gone = there[:-MOST_ROWS]
            for first in range(0, len(gone), 100):
                await etcd.change([], [delete(key) for key in gone[first : first + 100]])
