"""The files of the state database: the lock beside it, what is moved out of its way, what can be read of a damaged one.

The lock is a file of its own: SQLite's locks go when any descriptor of the process on its file is closed.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from mirrord.control.configuration.config import SECTIONS
from mirrord.errors import HostError
from mirrord.ownership import give_to_owner_of

MODE = 0o640
COMPANIONS = ("", "-wal", "-shm")
"""What SQLite appends to the database's name."""


class InUseError(HostError):
    """Another process has the database."""


class StateLock:
    """Held: no other mirrord uses the database at this path, by whatever links. OSError, InUseError."""

    def __init__(self, database: Path) -> None:
        self._database, self.path = database, Path(f"{database.resolve()}.lock")
        self._descriptor = -1
        self._hold()

    def renew(self) -> None:
        """Hold it again where the file is gone. OSError, InUseError."""
        if not _is_at(self._descriptor, self.path):
            self.release()
            self._hold()

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _hold(self) -> None:
        while True:
            self._descriptor = make(self.path, os.O_RDWR)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = os.pread(self._descriptor, 20, 0).decode(errors="replace").strip()
                self.release()
                message = f"{self._database}: another mirrord (pid {pid}) has it"
                raise InUseError("state_in_use", message, "daemon.state") from None
            except OSError:
                self.release()
                raise
            if _is_at(self._descriptor, self.path):
                break
            self.release()  # it was taken away before it was locked
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)


def _is_at(descriptor: int, path: Path) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def make(path: Path, flags: int) -> int:
    """Open a file, made if it is not there. OSError."""
    flags |= os.O_CREAT | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_EXCL, MODE)
    except FileExistsError:
        return os.open(path, flags, MODE)
    give_to_owner_of(path.parent, descriptor)
    return descriptor


# --- out of the way ---


def set_aside(database: Path, word: str) -> Path:
    """Rename what is at the path, with its companions; what it is called now. OSError."""
    aside = _aside(database, word)
    for suffix in COMPANIONS:
        with suppress(FileNotFoundError):
            database.with_name(database.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside


def remove(database: Path) -> None:
    """Delete what is at the path, with its companions."""
    for suffix in COMPANIONS:
        with suppress(OSError):
            database.with_name(database.name + suffix).unlink()


def write_aside(database: Path, word: str, rows: Iterable[object]) -> Path:
    """Keep rows in a file of their own, each a line of JSON; what it is called. OSError."""
    path = _aside(database, word)
    with os.fdopen(make(path, os.O_WRONLY), "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())
    return path


def _aside(database: Path, word: str) -> Path:
    return database.with_name(f"{database.name}.{word}-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")


# --- what can be read ---


class Salvaged(NamedTuple):
    """Objects (section, name, written as JSON) and rows of the audit log, each in their order."""

    objects: list[tuple[str, str, str]]
    audit: list[Sequence[Any]]


def as_text(data: bytes) -> str:
    """Text of a database, also where it is damaged."""
    return data.decode(errors="backslashreplace")


def wrong(section: object, name: object, written: object) -> str:
    """Why this is no object as it was stored; "" if it is one."""
    if section not in (*SECTIONS, "origins"):  # the last: what a cluster wants of this host
        return f"no such section: {section}"
    try:
        value = json.loads(str(written))
    except (ValueError, RecursionError) as error:
        return f"{section}.{name} is not JSON: {error}"
    return "" if isinstance(value, dict) else f"{section}.{name} is no object"


def salvage(database: Path) -> Salvaged:
    """What can be read of a damaged database: all rows before the first damage, and all behind the last.

    It is read from a copy, which SQLite may write to. OSError.
    """
    with tempfile.TemporaryDirectory(prefix=f".{database.name}-", dir=database.parent) as place:
        copy = Path(place) / "copy"
        for suffix in COMPANIONS[:2]:
            with suppress(FileNotFoundError):
                shutil.copyfile(database.with_name(database.name + suffix), copy.with_name(copy.name + suffix))
        try:
            with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
                connection.text_factory = as_text
                return Salvaged(
                    [row[1:] for row in _rows(connection, "objects", 4) if not wrong(*row[1:])],
                    [row[1:] for row in _rows(connection, "audit", 16)],
                )
        except sqlite3.Error:
            return Salvaged([], [])


def _rows(connection: sqlite3.Connection, table: str, columns: int) -> list[tuple[Any, ...]]:
    found: dict[int, tuple[Any, ...]] = {}
    for order in ("ASC", "DESC"):
        with suppress(sqlite3.Error):
            for row in connection.execute(f"SELECT rowid, * FROM {table} NOT INDEXED ORDER BY rowid {order}"):  # noqa: S608 (our own words)
                if len(row) != columns or row[0] in found:
                    break
                found[row[0]] = row
    return [found[row] for row in sorted(found)]
