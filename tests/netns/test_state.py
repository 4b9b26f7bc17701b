"""What was made at run time outlives the daemon, whatever ended it, and never keeps it from running.

guest eth0 ---- tap0 [host] up0 ---- up0 collector
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.api import Api
from tests.support.daemon import Daemon
from tests.support.topology import Host, Topology
from tests.support.uplink import CORE, mirror, tapped


@pytest.fixture
def host(net: Topology) -> Host:
    return tapped(net)[0]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "mirrord-test", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def running(api: Api) -> list[tuple[str, str]]:
    return [(one["mirror"], one["state"]) for one in api("GET", "status").body["sessions"]]


def test_a_damaged_database_costs_what_was_made_and_no_more(host: Host, tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"no database at all" * 1000)
    daemon = Daemon(host, tmp_path, CORE)
    api = Api(daemon.socket)
    state = api("GET", "status").body["state"]
    assert state["path"] == str(tmp_path / "state.db")
    (aside,) = tmp_path.glob("state.db.damaged-*")
    assert str(aside) in state["problem"]
    assert str(aside) in daemon.output()
    assert api("PUT", "mirrors/x", mirror("tap0", 2)).status == 201
    assert daemon.stop()[0] == 0
    daemon = Daemon(host, tmp_path, CORE)
    assert running(api) == [("core", "up"), ("x", "up")]
    assert api("GET", "status").body["state"]["problem"] == ""
    assert daemon.stop()[0] == 0


def test_what_no_longer_goes_with_the_files_is_set_aside(host: Host, tmp_path: Path) -> None:
    filters = '[filters.f]\nrules = [{ priority = 1, action = "accept" }]\n'
    daemon = Daemon(host, tmp_path, filters, up=False)
    api = Api(daemon.socket)
    assert api("PUT", "mirrors/x", mirror("tap0", 1)).status == 201
    assert api("PUT", "mirrors/y", mirror("tap0", 2, filter="f")).status == 201
    assert api("PUT", "mirrors/z", mirror("tap0", 3)).status == 201
    assert daemon.stop()[0] == 0

    daemon = Daemon(host, tmp_path, CORE)
    assert running(api) == [("core", "up"), ("z", "up")]
    aside = {one["name"]: one["reason"] for one in api("GET", "status").body["config"]["set_aside"]}
    assert aside.keys() == {"x", "y"}
    assert "mirrors.core.sessions[0] sends to the same remote, port and VNI" in aside["x"]
    assert "there is no filter 'f'" in aside["y"]
    for reason in aside.values():
        assert reason in daemon.output()
    assert api("GET", "mirrors/x").status == 404
    assert api("DELETE", "mirrors/x").status == 204
    daemon.file.write_text(daemon.file.read_text() + filters)
    assert api("POST", "reload").status == 200
    assert running(api) == [("core", "up"), ("z", "up"), ("y", "up")]
    assert api("GET", "status").body["config"]["set_aside"] == []
    assert daemon.stop()[0] == 0


def test_a_full_disk_refuses_a_change_and_nothing_else(host: Host, tmp_path: Path, small: Path) -> None:
    daemon = Daemon(host, tmp_path, CORE, state=str(small / "state.db"))
    api = Api(daemon.socket)
    before = api("GET", "mirrors").body
    filler = small / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(2 << 20))
    answer = api("PUT", "mirrors/x", {**mirror("tap0", 2), "description": "x" * 1000})
    assert (answer.status, answer.code) == (507, "not_stored")
    assert answer.message == f"{small}/state.db: database or disk is full; nothing was changed"
    assert api("GET", "mirrors").body == before
    assert running(api) == [("core", "up")]
    filler.unlink()
    assert api("PUT", "mirrors/x", mirror("tap0", 2)).status == 201
    assert running(api) == [("core", "up"), ("x", "up")]
    assert daemon.stop()[0] == 0
