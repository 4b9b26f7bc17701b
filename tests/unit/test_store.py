"""The state database: what is kept, and for how long; what becomes of one that is damaged or cannot be used."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mirrord.control import store
from mirrord.control.http.peers import Caller
from mirrord.control.store import AuditRecord, NotStoredError, Store, Write

CALLER = Caller(1000, 100, 4711, "anna")
MIRROR = {"description": "a"}


def record(name: str = "a", **more: Any) -> AuditRecord:
    return AuditRecord(CALLER, "create", "mirror", name, name, **more)


def sql(path: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        return database.execute(statement).fetchall()


def filled(path: Path) -> Store:
    made = Store(str(path))
    made.write([Write("mirrors", "a", MIRROR)], record(new=MIRROR))
    return made


def test_objects_and_rows_come_back(tmp_path: Path) -> None:
    path = tmp_path / "not" / "there" / "state.db"
    first = filled(path)
    first.write([Write("filters", "f", {"rules": []}), Write("mirrors", "b", {})], record("b"))
    first.write([Write("mirrors", "b", None)], record("b"))
    first.note(record("c").refused(NotStoredError(path, "why")))
    first.close()
    again = Store(str(path))
    assert again.problem == ""
    assert list(again.objects()) == [("mirrors", "a", MIRROR), ("filters", "f", {"rules": []})]
    rows = again.audit()
    assert [(row["object"], row["result"]) for row in rows] == [
        ("a", "done"), ("b", "done"), ("b", "done"), ("c", "refused"),
    ]  # fmt: skip
    assert {key: rows[0][key] for key in ("uid", "gid", "pid", "user", "old", "new")} == {
        "uid": 1000, "gid": 100, "pid": 4711, "user": "anna", "old": None, "new": MIRROR,
    }  # fmt: skip
    assert rows[3]["code"] == "not_stored"
    again.close()


def test_a_change_and_its_row_are_kept_together_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    first = filled(path)
    sql(path, "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no row'); END")
    with pytest.raises(NotStoredError, match="no row; nothing was changed"):
        first.write([Write("mirrors", "a", None), Write("mirrors", "b", {})], record("b"))
    assert list(first.objects()) == [("mirrors", "a", MIRROR)]
    first.note(record("c"))  # is no error: it is in the log
    assert len(first.audit()) == 1
    first.close()


def overwrite(path: Path) -> None:
    path.write_bytes(os.urandom(8192))


def truncate(path: Path) -> None:
    os.truncate(path, 5000)


def spoil_a_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)


def spoil_the_json(path: Path) -> None:
    sql(path, "UPDATE objects SET written = '{'")


@pytest.mark.parametrize("damage", [overwrite, truncate, spoil_a_page, spoil_the_json])
def test_a_damaged_database_is_set_aside(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "state.db"
    filled(path).close()
    damage(path)
    spoilt = path.read_bytes()
    made = Store(str(path))
    assert "was damaged" in made.problem
    (aside,) = tmp_path.glob("state.db.damaged-*Z")
    assert str(aside) in made.problem
    assert aside.read_bytes() == spoilt
    assert not list(made.objects())
    assert not made.audit()
    made.write([Write("mirrors", "b", {})], record("b"))
    made.close()
    again = Store(str(path))
    assert list(again.objects()) == [("mirrors", "b", {})]
    again.close()


def test_one_that_cannot_be_used_is_left_alone(tmp_path: Path) -> None:
    newer = tmp_path / "newer.db"
    filled(newer).close()
    sql(newer, "PRAGMA user_version = 9")
    (tmp_path / "file").touch()
    for path, problem in (
        (newer, "cannot be used: version 9, made by a newer mirrord; this one knows 1"),
        (tmp_path / "file" / "state.db", f"cannot be used: {tmp_path}/file: File exists"),
        (tmp_path, "cannot be used: unable to open database file"),
    ):
        made = Store(str(path))
        assert made.problem == problem
        assert not list(made.objects())
        assert not made.audit()
        with pytest.raises(NotStoredError, match=r"cannot be used: .*; nothing was changed"):
            made.write([Write("mirrors", "b", {})], record("b"))
        made.note(record())
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file", newer]


def test_one_that_another_program_holds_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BUSY_SECONDS", 0.1)
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        made = Store(str(path))
        assert made.problem == "cannot be used: database is locked"
        assert not list(made.objects())
        with pytest.raises(NotStoredError, match="cannot be used: database is locked; nothing was changed"):
            made.write([Write("mirrors", "b", {})], record("b"))


def test_an_upgrade_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "state.db").close()
    more = "ALTER TABLE objects ADD COLUMN colour TEXT NOT NULL DEFAULT 'red';"
    monkeypatch.setattr(store, "MIGRATIONS", (*store.MIGRATIONS, more))
    made = Store(str(tmp_path / "state.db"))
    assert (made.problem, list(made.objects())) == ("", [("mirrors", "a", MIRROR)])
    assert sql(tmp_path / "state.db", "PRAGMA user_version") == [(2,)]
    assert sql(tmp_path / "state.db", "SELECT name, colour FROM objects") == [("a", "red")]
    made.close()


def test_the_audit_log_is_bounded_by_rows_and_by_bytes(tmp_path: Path) -> None:
    """What is refused, however often, takes nothing from the room of what was done."""
    path = tmp_path / "state.db"
    made = filled(path)
    sql(
        path,
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 12000) INSERT INTO audit SELECT"
        " NULL, n, 0, 0, 0, '', 'create', 'mirror', 'x', 'x', NULL, NULL, 'refused', 'refused', '' FROM n",
    )
    for _ in range(store.PRUNE_EVERY):
        made.note(record("y")._replace(result="refused"))
    count = "SELECT result, count(*) FROM audit GROUP BY result ORDER BY result"
    assert sql(path, count) == [("done", 1), ("refused", store.MAX_ROWS)]
    large = {"description": "x" * 999_980}  # 1,000,000 bytes of JSON
    for n in range(store.PRUNE_EVERY):
        made.note(record("z", new=large if n < 40 else None)._replace(result="refused"))
    kept = (store.PRUNE_EVERY - 40) + store.MAX_BYTES // 1_000_000
    assert sql(path, count) == [("done", 1), ("refused", kept)]
    made.close()
