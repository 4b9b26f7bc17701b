"""What was made at run time outlives the daemon, whatever ended it, and never keeps it from running.

guest eth0 ---- tap0 [host] up0 ---- up0 collector
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.api import Api
from tests.support.ctl import invoke
from tests.support.daemon import ROOT, Daemon
from tests.support.topology import Host, Topology
from tests.support.uplink import CORE, mirror, tapped
from tests.support.wait import wait_for


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


def test_a_mirror_ends_in_time_though_the_disk_is_full(host: Host, tmp_path: Path, small: Path) -> None:
    """It is kept as disabled, and audited, when there is room again."""
    daemon = Daemon(host, tmp_path, CORE, state=str(small / "state.db"))
    api = Api(daemon.socket)
    assert api("PUT", "mirrors/x", {**mirror("tap0", 2), "expires": "3s"}).status == 201
    assert running(api) == [("core", "up"), ("x", "up")]
    filler = small / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(2 << 20))
    wait_for(lambda: running(api) == [("core", "up")], "x ended", 10)
    shown = api("GET", "mirrors/x").body
    assert (shown["enabled"], shown["expired"]) == (True, True)
    wait_for(lambda: "cannot keep what the time made of a mirror" in daemon.output(), "it is logged")
    filler.unlink()
    assert daemon.stop()[0] == 0
    daemon = Daemon(host, tmp_path, CORE, state=str(small / "state.db"))
    assert running(api) == [("core", "up")]
    wait_for(lambda: not api("GET", "mirrors/x").body["enabled"], "it is disabled", 5)
    assert [row["user"] for row in api.audit() if row["operation"] == "disable"] == ["mirrord"]
    assert daemon.stop()[0] == 0


def test_two_daemons_do_not_share_one(host: Host, tmp_path: Path) -> None:
    daemon = Daemon(host, tmp_path, CORE)
    other = tmp_path / "other.toml"
    settings = {"socket": str(tmp_path / "other.sock"), "state": str(tmp_path / "state.db"), "metrics": ""}
    other.write_text("[daemon]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
    run = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "mirrord.control.daemon", "-c", str(other)]
    second = host.spawn(*run)
    assert second.wait(30) == 1
    taken = f"mirrord: daemon.state: {tmp_path}/state.db: another mirrord (pid {daemon.pid}) has it"
    assert second.output().splitlines() == [taken]
    assert host.run(*run, "--check") == f"{other}: the configuration is valid\n"
    assert Api(daemon.socket)("PUT", "mirrors/x", mirror("tap0", 2)).status == 201
    daemon.kill()
    daemon = Daemon(host, tmp_path, CORE)  # a killed one holds nothing
    assert running(Api(daemon.socket)) == [("core", "up"), ("x", "up")]
    assert daemon.stop()[0] == 0


def test_one_that_is_deleted_or_replaced_meanwhile_is_written_anew(host: Host, tmp_path: Path) -> None:
    daemon = Daemon(host, tmp_path, CORE)
    api, state = Api(daemon.socket), tmp_path / "state.db"
    assert api("PUT", "mirrors/x", mirror("tap0", 2)).status == 201
    for file in tmp_path.glob("state.db*"):
        file.unlink()
    assert api("PUT", "mirrors/y", mirror("tap0", 3)).status == 201
    problem = "was deleted while mirrord ran and was written anew with all that was made at run time"
    assert api("GET", "status").body["state"]["problem"] == problem
    assert problem in daemon.output()
    assert problem in invoke(daemon.socket, "doctor").stdout

    (tmp_path / "other").write_bytes(b"from a backup" * 1000)
    (tmp_path / "other").rename(state)
    wait_for(lambda: "was replaced" in api("GET", "status").body["state"]["problem"], "it is noticed without a change")
    (aside,) = tmp_path.glob("state.db.replaced-*Z")
    assert aside.read_bytes() == b"from a backup" * 1000
    assert [row["object"] for row in api.audit()] == ["x", "y"]
    assert daemon.stop()[0] == 0
    daemon = Daemon(host, tmp_path, CORE)
    assert running(Api(daemon.socket)) == [("core", "up"), ("x", "up"), ("y", "up")]
    assert daemon.stop()[0] == 0
