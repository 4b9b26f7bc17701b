"""What outlives the daemon: the objects made at run time, and the audit log. SQLite, one short transaction a change.

A database that is damaged is set aside under a name with the time in it, and a new one is begun with what could be read
of it; of one that is whole, damaged rows alone are set aside. One that is deleted, replaced or damaged while it is in
use is written anew with all that it had. One that cannot be used (no place, no right, made by a newer mirrord) is left
alone: the daemon runs from its files, and every change is refused with the reason. Calls block, and may come from any
thread.
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

from mirrord.control import state_files
from mirrord.control.callers import Caller
from mirrord.control.logs import logger
from mirrord.control.pieces import Encoded, pieces
from mirrord.control.state_files import InUseError, Salvaged, StateLock
from mirrord.errors import HostError, MirrordError, reason

log = logger("store")

MAX_ROWS, MAX_BYTES = 10_000, 32 << 20
"""How much of the audit log is kept: of what was done, and of what was refused, each."""
LOOK_SECONDS = 5.0
"""How often to look whether the file is still there."""
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


_BRIEF = "id, time, uid, gid, pid, user, operation, kind, object, mirror, result, code, message"
"""The columns of the audit log that are short."""

KEEP = "INSERT INTO objects VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET written = excluded.written"
NOTE = f"INSERT INTO audit VALUES ({', '.join('?' * 15)})"  # noqa: S608 (only marks)


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
    """An object to keep as it was written, in the place of one called `before`; or, with None, to forget."""

    def __init__(self, section: str, name: str, written: Any, before: str = "") -> None:
        self.section, self.name, self.before, self.written = section, name, before or name, written


class NotStoredError(MirrordError):
    """The state database cannot be used or written."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__("not_stored", f"{path}: {reason}; nothing was changed", "daemon.state")


class Store:
    """The database at a path. `problem` says what is wrong with it, "" if nothing is. InUseError: another has it."""

    def __init__(self, path: str) -> None:
        self.path, self.problem = Path(path), ""
        self._lock = threading.RLock()
        self._held: StateLock | None = None
        self._connection: sqlite3.Connection | None = None
        self._file: os.stat_result | None = None  # the one in use
        self._objects: dict[tuple[str, str], str] = {}  # as stored, whatever becomes of the file
        self._encoded: dict[tuple[str, str], Encoded] = {}  # what they were made of, of those written since the start
        self._until_pruned = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._held = StateLock(self.path)
            self._open_or_set_aside()
        except (sqlite3.Error, OSError, NotStoredError) as error:
            self.close()
            self._report(f"cannot be used: {_reason(error)}")
        except BaseException:
            self.close()
            raise

    def objects(self) -> Iterator[tuple[str, str, Any]]:
        """Section, name and what was written, of every object made at run time, in the order of their making."""
        for (section, name), written in self._objects.items():
            yield section, name, json.loads(written)

    def write(self, writes: Iterable[Write], *records: AuditRecord) -> None:
        """Keep a change and its rows, all or none, on the disk before it returns. NotStoredError: nothing is kept."""
        with self._lock:
            texts = [(one, self._text(one)) for one in writes]
            rows = [_row(record) for record in records]
            self.look()
            try:
                self._write(texts, rows)
            except NotStoredError as error:
                if not (isinstance(error.__cause__, sqlite3.Error) and _damaged(error.__cause__)):
                    raise
                self._recover(f"was found damaged ({_reason(error.__cause__)}) while mirrord ran")
                self._write(texts, rows)
            for one, text in texts:
                self._keep(one, text)
        self._prune()

    def _text(self, one: Write) -> str | None:
        """The object as it is stored; None: it is to be forgotten."""
        encoded = self._encoded.pop((one.section, one.before), None) or Encoded()
        if one.written is None:
            return None
        self._encoded[one.section, one.name] = encoded
        return encoded(one.written)

    def _keep(self, one: Write, text: str | None) -> None:
        """The same in memory; what is renamed keeps its place among the others."""
        key, before = (one.section, one.name), (one.section, one.before)
        if one.before != one.name and before in self._objects:
            self._objects = {key if other == before else other: text for other, text in self._objects.items()}
        if text is None:
            self._objects.pop(key, None)
        else:
            self._objects[key] = text

    def _write(self, writes: Iterable[tuple[Write, str | None]], rows: Iterable[tuple[Any, ...]]) -> None:
        with self._transaction("FULL") as connection:
            for one, text in writes:
                if text is None:
                    connection.execute("DELETE FROM objects WHERE section = ? AND name = ?", (one.section, one.name))
                else:
                    if one.before != one.name:  # a row that stays keeps the object's place among the others
                        renamed = (one.name, one.section, one.before)
                        connection.execute("UPDATE objects SET name = ? WHERE section = ? AND name = ?", renamed)
                    connection.execute(KEEP, (one.section, one.name, text))
            for row in rows:
                connection.execute(NOTE, row)

    def note(self, record: AuditRecord) -> None:
        """Keep a row that changes nothing; if that cannot be, it is in the log alone."""
        row = _row(record)
        try:
            with self._transaction("NORMAL") as connection:
                connection.execute(NOTE, row)
        except NotStoredError as error:
            log.warning("not in the audit log", reason=error.message, **_brief(record))
        self._prune()

    def look(self) -> None:
        """See that the file at the path is the one in use, from time to time; else write it anew."""
        with self._lock:
            if self._file is None or self._held is None:  # it could never be used
                return
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._held.renew()
                found = _stat(self.path)
            except (OSError, InUseError) as error:
                self._give_up(error)
                return
            if self._connection is None or found is None or not os.path.samestat(found, self._file):
                self._recover(f"was {'replaced' if found else 'deleted'} while mirrord ran")

    def audit(self, mirror: str | None = None, since: float = 0.0, limit: int = 1000) -> list[dict[str, Any]]:
        """The rows that audit_ids tells of, all at once."""
        return list(self.audit_rows(self.audit_ids(mirror, since, limit)))

    def audit_ids(self, mirror: str | None = None, since: float = 0.0, limit: int = 1000) -> list[int]:
        """The newest rows since a time in seconds of the epoch, oldest first; of a mirror by any name it had or has."""
        query = (
            "SELECT id FROM audit WHERE time >= :since AND (:mirror IS NULL OR mirror = :mirror"
            " OR (operation = 'rename' AND kind = 'mirror' AND json_valid(new)"
            " AND json_extract(new, '$.name') = :mirror)) ORDER BY id DESC LIMIT :limit"
        )
        rows = self._ask(query, {"since": since, "mirror": mirror, "limit": limit})
        return [row["id"] for row in reversed(rows)]

    def audit_rows(self, ids: Iterable[int]) -> Iterator[dict[str, Any]]:
        """These rows, each read when it is its turn: all of them may be more than there is memory for."""
        for one in ids:
            yield from map(_shown, self._ask("SELECT * FROM audit WHERE id = :id", {"id": one}))

    def audit_newest(self) -> int:
        """The id of the newest row, 0 if there is none."""
        return int(self._ask("SELECT ifnull(max(id), 0) AS id FROM audit", {})[0]["id"]) if self._connection else 0

    def audit_after(self, newest: int, limit: int) -> list[tuple[int, dict[str, Any]]]:
        """The rows that came after this one, oldest first, each with its id; without `old` and `new`."""
        query = f"SELECT {_BRIEF} FROM audit WHERE id > :id ORDER BY id LIMIT :limit"  # noqa: S608 (only names)
        return [(row["id"], _shown(row)) for row in self._ask(query, {"id": newest, "limit": limit})]

    def _ask(self, query: str, values: dict[str, Any]) -> list[dict[str, Any]]:
        with self._lock:
            if self._connection is None:
                return []
            try:
                cursor = self._connection.execute(query, values)
                names = [column[0] for column in cursor.description]
                return [dict(zip(names, row, strict=True)) for row in cursor]
            except sqlite3.Error as error:
                raise HostError("host_error", f"{self.path}: {_reason(error)}", "daemon.state") from error

    def close(self) -> None:
        with self._lock:
            self._disconnect()
            if self._held is not None:
                self._held.release()
                self._held = None

    # --- the file ---

    def _open_or_set_aside(self) -> None:
        try:
            self._open()
        except (sqlite3.DatabaseError, ValueError) as error:
            if not _damaged(error):
                raise
            self._disconnect()
            aside = state_files.set_aside(self.path, "damaged")
            saved = Salvaged([], [])
            with suppress(OSError):  # as on a full disk
                saved = state_files.salvage(aside)
            self._open()
            self._fill(saved)
            kept = f"{len(saved.objects)} objects and {len(saved.audit)} rows of the audit log could be read of it"
            self._report(f"was damaged ({_reason(error)}) and is now {aside}; a new one was begun: {kept}")

    def _open(self) -> None:
        os.close(state_files.make(self.path, os.O_WRONLY))  # PermissionError: now, and not at the first change
        self._connection = connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.text_factory = state_files.as_text
        connection.execute("PRAGMA journal_mode = WAL")
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise ValueError(found)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            self._disconnect()
            raise OSError(0, f"version {version}, made by a newer mirrord; this one knows {len(MIGRATIONS)}")
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT")
        self._load(connection)
        self._file = self.path.stat()

    def _load(self, connection: sqlite3.Connection) -> None:
        """Take the objects over; set aside the rows that are none."""
        rows = connection.execute("SELECT rowid, section, name, written FROM objects ORDER BY rowid").fetchall()
        bad = {row[0]: (why, row[1:]) for row in rows if (why := state_files.wrong(*row[1:]))}
        self._objects = {row[1:3]: row[3] for row in rows if row[0] not in bad}
        if not bad:
            return
        reasons = "; ".join(why for why, _ in bad.values())
        try:
            aside = state_files.write_aside(self.path, "damaged-rows", [row for _, row in bad.values()])
            connection.executemany("DELETE FROM objects WHERE rowid = ?", [(row,) for row in bad])
        except (sqlite3.Error, OSError) as error:
            self._report(f"has damaged rows, which are not used ({reasons}), and cannot be moved: {_reason(error)}")
        else:
            self._report(f"had damaged rows, which are now in {aside} ({reasons}); all else was kept")

    def _recover(self, why: str) -> None:
        """Write the database anew with what is in memory, and with the audit log as far as it can be read."""
        saved = Salvaged([(*key, written) for key, written in self._objects.items()], [])
        with suppress(sqlite3.Error):
            if self._connection is not None:  # a file that has no name any more can be read all the same
                saved = saved._replace(audit=self._connection.execute("SELECT * FROM audit ORDER BY id").fetchall())
        self._disconnect()
        try:
            there = f", is now {state_files.set_aside(self.path, 'replaced')}" if _stat(self.path) else ""
            self._begin(saved)
        except (sqlite3.Error, OSError, NotStoredError) as error:
            self._objects = {(section, name): written for section, name, written in saved.objects}
            self._give_up(error)
        else:
            self._report(f"{why}{there} and was written anew with all that was made at run time")

    def _begin(self, saved: Salvaged) -> None:
        """Make a new database with this in it, or none."""
        try:
            self._open()
            self._fill(saved)
        except BaseException:
            self._disconnect()
            state_files.remove(self.path)
            raise

    def _give_up(self, error: Exception) -> None:
        """Until the next look."""
        self._disconnect()
        problem = f"was lost while mirrord ran, and cannot be written anew: {_reason(error)}"
        if problem != self.problem:
            self._report(problem)

    def _fill(self, saved: Salvaged) -> None:
        with self._transaction("FULL") as connection:
            connection.executemany(KEEP, saved.objects)
            for row in saved.audit:
                with suppress(sqlite3.Error):  # a value that the schema does not let in: damaged
                    connection.execute(f"INSERT OR IGNORE INTO audit VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608 (only marks)
        self._objects = {(section, name): written for section, name, written in saved.objects}

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _report(self, problem: str) -> None:
        self.problem = problem
        log.error("the state database", path=str(self.path), problem=problem)

    @contextmanager
    def _transaction(self, synchronous: str) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._connection is None:
                raise NotStoredError(self.path, self.problem)
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


def _row(record: AuditRecord) -> tuple[Any, ...]:
    """Of the audit log."""
    caller = record.caller
    old, new = (None if one is None else "".join(pieces(one)) for one in (record.old, record.new))
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
    return (None, time.time(), caller.uid, caller.gid, caller.pid, caller.user, *what)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    del row["id"]
    row["time"] = datetime.fromtimestamp(row["time"], UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    for key in {"old", "new"} & row.keys():
        with suppress(ValueError):  # a damaged one is shown as it is
            row[key] = json.loads(row[key]) if row[key] is not None else None
    return row


def _stat(path: Path) -> os.stat_result | None:
    """What is at the path; None if nothing is. OSError."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


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
        return f"{error.filename}: {reason(error)}" if error.filename else reason(error)
    return str(error)
