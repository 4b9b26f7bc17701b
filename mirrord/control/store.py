"""What outlives the daemon: the objects made at run time, and the audit log. SQLite, one short transaction a change.

A database that is damaged is set aside under a name with the time in it, and a new one is begun. One that cannot be
used (no place, no right, made by a newer mirrord) is left alone: the daemon runs from its files, and every change is
refused with the reason. Calls block, and may come from any thread.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from mirrord.control.configuration.config import SECTIONS
from mirrord.control.http.peers import Caller
from mirrord.control.logs import logger
from mirrord.errors import MirrordError

log = logger("store")

MAX_ROWS, MAX_BYTES = 10_000, 32 << 20
"""How much of the audit log is kept: of what was done, and of what was refused, each."""
PRUNE_EVERY = 100  # rows
BUSY_SECONDS = 2.0
DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

MIGRATIONS = (
    """
    CREATE TABLE objects (
        section TEXT NOT NULL, name TEXT NOT NULL, written TEXT NOT NULL, PRIMARY KEY (section, name)
    ) STRICT;
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY, time REAL NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL, pid INTEGER NOT NULL,
        user TEXT NOT NULL, operation TEXT NOT NULL, kind TEXT NOT NULL, object TEXT NOT NULL, mirror TEXT NOT NULL,
        old TEXT, new TEXT, result TEXT NOT NULL, code TEXT NOT NULL, message TEXT NOT NULL
    ) STRICT;
    CREATE INDEX audit_of_mirror ON audit (mirror, id);
    """,
)
"""What makes each version of the schema of the one before; the version is in user_version."""


class AuditRecord(NamedTuple):
    """What somebody did, or was refused: a row of the audit log. `old` and `new` are objects as they were written."""

    caller: Caller
    operation: str  # create, replace, change, rename, enable, disable, delete, reload
    kind: str  # mirror, session, filter, flow_network, daemon
    object: str = ""
    mirror: str = ""
    old: Any = None
    new: Any = None
    result: str = "done"
    code: str = ""
    message: str = ""

    def refused(self, error: MirrordError) -> AuditRecord:
        return self._replace(result="refused", code=error.code, message=str(error))


class Write:
    """An object to keep as it was written, or, with None, to forget."""

    def __init__(self, section: str, name: str, written: Any) -> None:
        self.section, self.name = section, name
        self.text = None if written is None else json.dumps(written)


class NotStoredError(MirrordError):
    """The state database cannot be used or written."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__("not_stored", f"{path}: {reason}; nothing was changed", "daemon.state")


class Store:
    """The database at a path. `problem` says what is wrong with it, "" if nothing is."""

    def __init__(self, path: str) -> None:
        self.path, self.problem = Path(path), ""
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._until_pruned = 0
        try:
            self._open_or_set_aside()
        except (sqlite3.Error, OSError) as error:
            self.close()
            self._report(f"cannot be used: {_reason(error)}")

    def objects(self) -> Iterator[tuple[str, str, Any]]:
        """Section, name and what was written, of every object made at run time, in the order of their making."""
        if self._connection is None:
            return
        with self._lock:
            rows = self._connection.execute("SELECT section, name, written FROM objects ORDER BY rowid").fetchall()
        for section, name, written in rows:
            yield section, name, json.loads(written)

    def write(self, writes: Iterable[Write], record: AuditRecord) -> None:
        """Keep a change and its row, both or none, on the disk before it returns. NotStoredError: nothing is kept."""
        with self._transaction("FULL") as connection:
            for one in writes:
                if one.text is None:
                    connection.execute("DELETE FROM objects WHERE section = ? AND name = ?", (one.section, one.name))
                else:
                    connection.execute(
                        "INSERT INTO objects VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET written = excluded.written",
                        (one.section, one.name, one.text),
                    )
            _insert(connection, record)
        self._prune()

    def note(self, record: AuditRecord) -> None:
        """Keep a row that changes nothing; if that cannot be, it is in the log alone."""
        try:
            with self._transaction("NORMAL") as connection:
                _insert(connection, record)
        except NotStoredError as error:
            log.warning("not in the audit log", reason=error.message, **_brief(record))
        self._prune()

    def audit(self, mirror: str | None = None, since: float = 0.0, limit: int = 1000) -> list[dict[str, Any]]:
        """The newest rows since a time in seconds of the epoch, oldest first; of a mirror by any name it had or has."""
        if self._connection is None:
            return []
        query = (
            "SELECT * FROM (SELECT * FROM audit WHERE time >= :since AND (:mirror IS NULL OR mirror = :mirror"
            " OR (operation = 'rename' AND kind = 'mirror' AND json_extract(new, '$.name') = :mirror))"
            " ORDER BY id DESC LIMIT :limit) ORDER BY id"
        )
        with self._lock:
            cursor = self._connection.execute(query, {"since": since, "mirror": mirror, "limit": limit})
            names = [column[0] for column in cursor.description]
            rows = [dict(zip(names, row, strict=True)) for row in cursor]
        return [_shown(row) for row in rows]

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # --- the file ---

    def _open_or_set_aside(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._open()
        except (sqlite3.DatabaseError, ValueError) as error:
            if not _damaged(error):
                raise
            self.close()
            aside = self.path.with_name(f"{self.path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
            for suffix in ("", "-wal", "-shm"):
                with suppress(FileNotFoundError):
                    self.path.with_name(self.path.name + suffix).rename(aside.with_name(aside.name + suffix))
            self._report(f"was damaged ({_reason(error)}) and is now {aside}; a new one was begun")
            self._open()

    def _open(self) -> None:
        with suppress(FileExistsError):
            _begin(self.path)
        self.path.touch()  # PermissionError: now, and not at the first change
        self._connection = connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode = WAL")
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise ValueError(found)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            self.close()
            raise OSError(0, f"version {version}, made by a newer mirrord; this one knows {len(MIGRATIONS)}")
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT")
        for section, name, written in connection.execute("SELECT section, name, written FROM objects"):
            if section not in SECTIONS:
                raise ValueError(f"no such section: {section}")
            if not isinstance(json.loads(written), dict):
                raise ValueError(f"{section}.{name} is no object")  # noqa: TRY004 (of the database, not of the program)

    def _report(self, problem: str) -> None:
        self.problem = problem
        log.error("the state database", path=str(self.path), problem=problem)

    @contextmanager
    def _transaction(self, synchronous: str) -> Iterator[sqlite3.Connection]:
        if self._connection is None:
            raise NotStoredError(self.path, self.problem)
        with self._lock:
            try:
                self._connection.execute(f"PRAGMA synchronous = {synchronous}")
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                raise NotStoredError(self.path, _reason(error)) from error
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def _prune(self) -> None:
        """Forget the oldest rows from time to time; a disk that has no room for it is tried again."""
        self._until_pruned -= 1
        if self._until_pruned > 0 or self._connection is None:
            return
        self._until_pruned = PRUNE_EVERY
        with suppress(NotStoredError), self._transaction("NORMAL") as connection:
            connection.execute(
                "DELETE FROM audit WHERE id IN (SELECT id FROM (SELECT id, row_number() OVER newest AS place,"
                " sum(ifnull(length(old), 0) + ifnull(length(new), 0)) OVER newest AS bytes FROM audit"
                " WINDOW newest AS (PARTITION BY result ORDER BY id DESC)) WHERE place > ? OR bytes > ?)",
                (MAX_ROWS, MAX_BYTES),
            )


def _begin(path: Path) -> None:
    """Make the file, for SQLite to give -wal and -shm the same mode and owner. FileExistsError.

    What root begins is the directory's owner's: the service, which runs as a user of its own, can go on with it.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        if os.geteuid() == 0:
            place = path.parent.stat()
            with suppress(PermissionError):  # of a root without CAP_CHOWN
                os.fchown(descriptor, place.st_uid, place.st_gid)
    finally:
        os.close(descriptor)


def _insert(connection: sqlite3.Connection, record: AuditRecord) -> None:
    caller = record.caller
    old, new = (None if one is None else json.dumps(one) for one in (record.old, record.new))
    what = (
        record.operation,
        record.kind,
        record.object,
        record.mirror,
        old,
        new,
        record.result,
        record.code,
        record.message,
    )
    row = (None, time.time(), caller.uid, caller.gid, caller.pid, caller.user, *what)
    connection.execute(f"INSERT INTO audit VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608 (only marks)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    del row["id"]
    row["time"] = datetime.fromtimestamp(row["time"], UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    for key in ("old", "new"):
        row[key] = json.loads(row[key]) if row[key] is not None else None
    return row


def _brief(record: AuditRecord) -> dict[str, Any]:
    keys = ("operation", "kind", "object", "mirror", "result")
    return {"user": record.caller.user, **{key: getattr(record, key) for key in keys}}


def _damaged(error: Exception) -> bool:
    """Whether it is the file itself that is wrong, and not its surroundings."""
    if isinstance(error, sqlite3.Error):
        return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in DAMAGED  # the low byte is the primary code
    return isinstance(error, ValueError)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
