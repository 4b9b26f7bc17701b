"""The state database: what is kept, and for how long; what becomes of one that is damaged or cannot be used."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mirrord.control import store
from mirrord.control.callers import Caller
from mirrord.control.store import AuditRecord, NotStoredError, Store, Write
from mirrord.errors import HostError

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


@pytest.mark.parametrize(("damage", "rows"), [(overwrite, 0), (truncate, 0), (spoil_a_page, 1)])
def test_a_damaged_database_is_set_aside(tmp_path: Path, damage: Callable[[Path], None], rows: int) -> None:
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
    assert len(made.audit()) == rows
    assert f"0 objects and {rows} rows of the audit log could be read of it" in made.problem
    made.write([Write("mirrors", "b", {})], record("b"))
    made.close()
    again = Store(str(path))
    assert list(again.objects()) == [("mirrors", "b", {})]
    again.close()


def test_of_a_damaged_database_all_that_can_be_read_is_kept(tmp_path: Path) -> None:
    """One page of the objects is spoilt; SQLite's dbstat tells which."""
    path = tmp_path / "state.db"
    made = Store(str(path))
    objects = [("mirrors", f"m{n:03}", {"description": "x" * 200}) for n in range(300)]
    made.write([Write(*one) for one in objects], record())
    made.close()
    pages = sql(path, "SELECT pageno FROM dbstat WHERE name = 'objects' AND pagetype = 'leaf' ORDER BY path")
    assert len(pages) > 10
    with path.open("r+b") as file:
        file.seek(4096 * (pages[5][0] - 1))
        file.write(b"\xff" * 4096)
    again = Store(str(path))
    kept = list(again.objects())
    assert kept == [one for one in objects if one in kept], "in the order of their making"
    assert 250 < len(kept) < 300
    assert f"{len(kept)} objects and 1 rows of the audit log could be read of it" in again.problem
    again.close()
    third = Store(str(path))
    assert (third.problem, list(third.objects())) == ("", kept)
    third.close()


def test_damaged_rows_are_set_aside_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    made = filled(path)
    made.write([Write("mirrors", name, {"description": name}) for name in "bcde"], record())
    made.close()
    sql(path, "UPDATE objects SET written = '{' WHERE name = 'b'")
    sql(path, "UPDATE objects SET section = 'mirror' WHERE name = 'c'")
    sql(path, "UPDATE objects SET written = CAST(x'7bff7d' AS TEXT) WHERE name = 'd'")
    sql(path, "UPDATE audit SET new = '{' WHERE id = 1")
    again = Store(str(path))
    assert [name for _, name, _ in again.objects()] == ["a", "e"]
    assert [row["new"] for row in again.audit()] == ["{", None]
    (aside,) = tmp_path.glob("state.db.damaged-rows-*Z")
    assert again.problem.startswith(f"had damaged rows, which are now in {aside} (mirrors.b is not JSON")
    assert "no such section: mirror" in again.problem
    set_aside = [json.loads(line) for line in aside.read_text().splitlines()]
    assert set_aside == [["mirrors", "b", "{"], ["mirror", "c", '{"description": "c"}'], ["mirrors", "d", "{\\xff}"]]
    again.close()
    third = Store(str(path))
    assert (third.problem, len(list(third.objects()))) == ("", 2)
    third.close()


def delete(path: Path) -> None:
    path.unlink()


def delete_all(path: Path) -> None:
    shutil.rmtree(path.parent)


def replace(path: Path) -> None:
    other = path.with_name("other")
    filled(other).close()
    other.rename(path)


def replace_by_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def overwrite_in_place(path: Path) -> None:
    sql(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    overwrite(path)


@pytest.mark.parametrize("lose", [delete, delete_all, replace, replace_by_a_directory, overwrite_in_place])
def test_one_that_is_lost_while_it_is_used_is_written_anew(tmp_path: Path, lose: Callable[[Path], None]) -> None:
    path = tmp_path / "place" / "state.db"
    made = filled(path)
    made.write([Write("filters", "f", {"rules": []})], record("f"))
    lose(path)
    made.write([Write("mirrors", "b", {})], record("b"))
    assert "while mirrord ran" in made.problem
    assert "was written anew with all that was made at run time" in made.problem
    objects = [("mirrors", "a", MIRROR), ("filters", "f", {"rules": []}), ("mirrors", "b", {})]
    assert list(made.objects()) == objects
    rows = [row["object"] for row in made.audit()]
    assert rows == (["b"] if lose is overwrite_in_place else ["a", "f", "b"])
    made.close()
    again = Store(str(path))
    assert (again.problem, list(again.objects())) == ("", objects)
    again.close()


def test_one_that_cannot_be_written_anew_takes_no_change_until_it_can(tmp_path: Path) -> None:
    place = tmp_path / "place"
    made = filled(place / "state.db")
    shutil.rmtree(place)
    place.touch()
    for _ in range(2):
        with pytest.raises(NotStoredError, match=r"was lost while mirrord ran, and cannot be written anew: .*place"):
            made.write([Write("mirrors", "b", {})], record("b"))
    place.unlink()
    made.look()
    assert "was written anew" in made.problem
    made.write([Write("mirrors", "b", {})], record("b"))
    assert [name for _, name, _ in made.objects()] == ["a", "b"]
    made.close()


def test_a_full_disk_is_not_filled_with_what_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.db"
    made = filled(path)
    replace(path)
    with monkeypatch.context() as broken:
        broken.setattr(store, "KEEP", "INSERT INTO nowhere VALUES (?, ?, ?)")
        for _ in range(3):
            made.look()
    assert "cannot be written anew" in made.problem
    assert len(list(tmp_path.glob("state.db.replaced-*Z"))) == 1
    made.look()
    assert "was written anew" in made.problem
    assert [name for _, name, _ in made.objects()] == ["a"]
    made.close()


def test_one_is_used_by_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    made = filled(path)
    (tmp_path / "alias.db").symlink_to(path)
    for name in ("state.db", "alias.db"):
        with pytest.raises(HostError, match=rf"{name}: another mirrord \(pid {os.getpid()}\) has it") as refused:
            Store(str(tmp_path / name))
        assert (refused.value.code, refused.value.path) == ("state_in_use", "daemon.state")
    with closing(sqlite3.connect(path)) as reader:  # its closing is no end of the lock
        assert reader.execute("SELECT count(*) FROM objects").fetchone() == (1,)
    with pytest.raises(HostError):
        Store(str(path))
    made.close()
    Store(str(path)).close()


def test_a_lock_that_is_deleted_is_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    made = filled(path)
    (tmp_path / "state.db.lock").unlink()
    made.look()
    with pytest.raises(HostError, match="another mirrord"):
        Store(str(path))
    (tmp_path / "state.db.lock").unlink()
    other = Store(str(path))
    with pytest.raises(NotStoredError, match="another mirrord"):
        made.write([Write("mirrors", "b", {})], record("b"))
    other.close()
    made.look()
    made.write([Write("mirrors", "b", {})], record("b"))
    made.close()


def test_one_that_cannot_be_used_is_left_alone(tmp_path: Path) -> None:
    newer = tmp_path / "newer.db"
    filled(newer).close()
    sql(newer, "PRAGMA user_version = 9")
    (tmp_path / "file").touch()
    for path, problem in (
        (newer, "cannot be used: version 9, made by a newer mirrord; this one knows 1"),
        (tmp_path / "file" / "state.db", f"cannot be used: {tmp_path}/file: File exists"),
        (tmp_path, f"cannot be used: {tmp_path}: Is a directory"),
    ):
        made = Store(str(path))
        assert made.problem == problem
        assert not list(made.objects())
        assert not made.audit()
        with pytest.raises(NotStoredError, match=r"cannot be used: .*; nothing was changed"):
            made.write([Write("mirrors", "b", {})], record("b"))
        made.note(record())
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file", newer, tmp_path / "newer.db.lock"]


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
