"""Which finished files give way, and who may write a file: real files, whose times a clock that steps gave them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mirrord.dataplane.forward.step import Copy
from mirrord.dataplane.transmit.file import FileTransmit
from mirrord.plans import FilePlan
from tests.support.wait import wait_for

SECOND = 1_000_000_000
TODAY, FUTURE = 1_800_000_000 * SECOND, 1_925_000_000 * SECOND  # in January 2027 and 2031
LIST = ".c.pcapng.files"


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., FileTransmit]]:
    """Begins a file, as at a session's start: `begin(keep=3)`."""
    made = []

    def start(keep: int = 0, directory: Path = tmp_path) -> FileTransmit:
        made.append(FileTransmit(FilePlan(str(directory), "c.pcapng", "nic", keep=keep)))
        return made[-1]

    yield start
    for one in made:
        one.close()


def finish(transmit: FileTransmit, clock: int) -> str:
    """Finish a file with a packet, by a clock that says this; what it is called."""
    directory = Path(transmit.plan.directory)
    before = set(os.listdir(directory))  # noqa: PTH208 (names)
    assert transmit.send([Copy(b"a block", 0)]) == (1, 0)
    os.utime(directory / "c.pcapng", ns=(clock, clock))
    transmit.next_file()
    assert transmit.output.error == 0
    (new,) = set(os.listdir(directory)) - before - {LIST}  # noqa: PTH208
    return new


def left(directory: Path) -> set[str]:
    return {one.name for one in directory.iterdir()} - {LIST, "c.pcapng"}


def test_a_clock_that_steps_deletes_nothing_that_is_newer_nor_misnames_what_follows(
    tmp_path: Path, begin: Callable[..., FileTransmit]
) -> None:
    transmit = begin(keep=4)
    clocks = (TODAY, FUTURE, TODAY + 2 * SECOND, TODAY + 3 * SECOND, TODAY - 3600 * SECOND)
    names = [finish(transmit, clock) for clock in clocks]
    assert [name[:11] for name in names] == ["c-20270115T", "c-20310101T", "c-20270115T", "c-20270115T", "c-20270115T"]
    assert left(tmp_path) == set(names[2:])
    transmit.close()

    again = begin(keep=3)  # a restart, by which fewer are kept
    assert left(tmp_path) == set(names[3:])
    more = [finish(again, clock) for clock in (FUTURE, TODAY)]
    assert left(tmp_path) == set(more)


def test_files_finished_at_one_moment_are_named_in_their_order(begin: Callable[..., FileTransmit]) -> None:
    transmit = begin(keep=2)
    names = [finish(transmit, clock) for clock in (TODAY, TODAY, TODAY - 1, TODAY + 1)]
    assert names == sorted(names)
    assert len(set(names)) == 4


def test_a_file_that_is_not_in_the_list_stays(tmp_path: Path, begin: Callable[..., FileTransmit]) -> None:
    stays = {f"c-2031010{day}T000000.000000000Z.pcapng" for day in (1, 2, 3)}
    for name in stays:
        (tmp_path / name).write_text("an earlier mirrord's")
    (tmp_path / "c.pcapng").write_text("somebody else's")
    (tmp_path / LIST).write_text("../c-20310101T000000.000000000Z.pcapng\nnot-ours\n\xff\n/etc/passwd\nc.pcapng\n")
    transmit = begin(keep=2)
    (other,) = left(tmp_path) - stays
    assert (tmp_path / other).read_text() == "somebody else's"
    names = [finish(transmit, TODAY + n * SECOND) for n in range(4)]
    assert left(tmp_path) == {*stays, other, names[-1]}


def test_a_killed_daemon_has_left_no_finished_file_out_of_the_list(
    tmp_path: Path, begin: Callable[..., FileTransmit]
) -> None:
    transmit = begin(keep=9)
    for n in range(3):
        name = finish(transmit, TODAY + n * SECOND)
        assert (tmp_path / LIST).read_text().splitlines()[1:][-1] == name
    assert not (tmp_path / f"{LIST}.new").exists()


def test_a_list_that_cannot_be_written_bounds_all_the_same(tmp_path: Path, begin: Callable[..., FileTransmit]) -> None:
    (tmp_path / f"{LIST}.new").mkdir()
    transmit = begin(keep=3)
    transmit.send([Copy(b"a block", 0)])
    for _ in range(5):
        transmit.next_file()
        transmit.send([Copy(b"a block", 0)])
    assert len(left(tmp_path) - {f"{LIST}.new"}) == 2


def test_a_file_is_written_by_one(tmp_path: Path, begin: Callable[..., FileTransmit]) -> None:
    """Whatever it is called: the directory has another name, too."""
    place, alias = tmp_path / "place", tmp_path / "alias"
    place.mkdir()
    alias.symlink_to(place)
    first = begin(directory=place)
    with pytest.raises(OSError, match="another session or program writes this file") as refused:
        begin(directory=alias)
    assert refused.value.errno == errno.EBUSY
    assert first.send([Copy(b"a block", 0)]) == (1, 0)
    finished = finish(first, TODAY)
    assert (place / finished).read_bytes().endswith(b"a blocka block")
    with pytest.raises(OSError, match="another session"):
        begin(directory=alias)
    first.close()
    begin(directory=alias)


def test_the_list_reaches_the_disk(
    tmp_path: Path, begin: Callable[..., FileTransmit], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file and then the directory, by another thread than the one that writes."""
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    finish(begin(keep=2), TODAY)
    wait_for(lambda: {tmp_path / LIST, tmp_path} <= {*synced}, "both")
    of_this = [one for one in synced if one in (tmp_path / LIST, tmp_path)]
    assert of_this == [tmp_path / LIST, tmp_path]
