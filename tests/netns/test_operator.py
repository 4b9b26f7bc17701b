"""A person's day at the command line: who may look, who waits, what is down, what goes on.

guest eth0 ---- tap0 [host] out0 ---- out0 [collector]
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mirrord.cli import asker
from mirrord.cli.main import main
from mirrord.control.configuration import config
from tests.conftest import MakeDaemon
from tests.support.ctl import COMMAND, ROOT, ctl, invoke, run
from tests.support.daemon import Daemon
from tests.support.root import Root
from tests.support.send import FRAME, send
from tests.support.terminal import Terminal
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

CONFIG = """
[mirrors.core]
[[mirrors.core.sessions]]
name = "nic"
source = "tap0"
direction = "ingress"
destination = { type = "device", device = "out0" }
"""


@pytest.fixture
def dataplane() -> str:
    """One is enough: how frames go is not the question."""
    return "native"


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host]:
    guest, host, collector = net.host("guest"), net.host("host"), net.host("collector")
    net.link(guest, "eth0", host, "tap0")
    net.link(host, "out0", collector, "out0")
    return guest, host


@pytest.fixture
def running(hosts: tuple[Host, Host], daemon: MakeDaemon, tmp_path: Path) -> Daemon:
    return daemon(hosts[1], CONFIG, read_only_socket=str(tmp_path / "read.sock"))


def status(running: Daemon, *words: str) -> Any:
    return json.loads(ctl(running.socket, "--json", "status", *words))


def test_who_may_only_look_asks_where_that_is_allowed(
    running: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asker, "SOCKET", str(tmp_path / "none.sock"))
    monkeypatch.setattr(asker, "READ_ONLY_SOCKET", str(tmp_path / "read.sock"))
    looked = CliRunner().invoke(main, ["list"])
    assert (looked.exit_code, "core" in looked.output) == (0, True)
    refused = CliRunner().invoke(main, ["disable", "core"])
    assert (refused.exit_code, "this socket serves GET alone" in refused.stderr) == (1, True)
    assert "to change something, be root or a member of the group" in refused.stderr
    done = run("disable", "core", MIRRORD_SOCKET=str(running.socket))
    assert (done.returncode, done.stdout) == (1, ""), done
    assert f"{running.file}: change it there" in done.stderr


def test_a_daemon_that_hangs_is_told_of_before_it_is_given_up(running: Daemon) -> None:
    running.freeze()
    try:
        with Terminal([*COMMAND, "--socket", str(running.socket), "list"]) as waiting:
            wait_for(lambda: waiting.shows("does not answer yet"), "the notice", 30)
            running.thaw()
            assert "core" in waiting.wait()
            assert waiting.process.returncode == 0
    finally:
        running.thaw()


def test_a_destination_that_is_down_is_not_up(running: Daemon, hosts: tuple[Host, Host]) -> None:
    guest, host = hosts
    assert status(running)["netns"] == host.name
    assert f", network namespace {host.name}\n" in ctl(running.socket, "status")
    host.ip("link set out0 down")
    wait_for(lambda: status(running)["sessions"][0]["state"] == "failed", "the session failed")
    send(guest, "eth0", FRAME, 7)
    metrics = running.settle(7)
    assert metrics.total("mirrord_dropped_frames_total") == 7
    assert metrics.total("mirrord_session_up") == 0
    shown = ctl(running.socket, "status")
    assert "core/nic on tap0: failed: out0, by which copies leave, is down" in shown
    host.ip("link set out0 up")
    wait_for(lambda: status(running)["sessions"][0]["state"] == "up", "the session up")
    send(guest, "eth0", FRAME, 5)
    assert running.settle(12).total("mirrord_mirrored_frames_total") == 5


def test_one_mirror_is_watched_and_the_audit_log_followed(running: Daemon) -> None:
    ctl(running.socket, "create", "other")
    assert [one["mirror"] for one in status(running, "core")["sessions"]] == ["core"]
    assert status(running, "other")["sessions"] == []
    start = [*COMMAND, "--socket", str(running.socket)]
    with Terminal([*start, "status", "core", "-w"]) as watching, Terminal([*start, "audit", "-f"]) as following:
        wait_for(lambda: watching.shows("out0"), "the session")
        wait_for(lambda: following.shows("other"), "the first row")
        ctl(running.socket, "create", "later")
        ctl(running.socket, "create", "later", status=1)
        wait_for(lambda: "refused" in following.plain, "the refusal")
        rows = [line.split()[3:6] for line in following.plain.splitlines() if "mirror" in line]
        assert rows == [["create", "mirror", "other"], ["create", "mirror", "later"], ["create", "mirror", "later"]]
        watching.press(b"q")
        following.press(b"\x03")
        for one in (watching, following):
            assert "Traceback" not in one.wait()
            assert one.process.returncode == 0
    (last,) = json.loads(ctl(running.socket, "--json", "audit", "--limit", "1"))
    assert (last["object"], last["result"]) == ("later", "refused")


def test_what_many_sessions_have_in_common_is_said_once(hosts: tuple[Host, Host], daemon: MakeDaemon) -> None:
    sessions = [
        f"""
[[mirrors.many.sessions]]
name = "s{n}"
source = "tap0"
destination = {{ type = "vxlan", remote = "198.51.100.9", vni = {n} }}
"""
        for n in range(40)
    ]
    many = daemon(hosts[1], "[mirrors.many]\n" + "".join(sessions), up=False)
    lines = ctl(many.socket, "status").splitlines()
    assert len(lines) == 3 + 1 + 40 + 1  # the daemon, the titles, the sessions, what is wrong with all of them
    assert lines[-1].startswith("many/s0 on tap0, many/s1 on tap0, many/s2 on tap0, many/s3 on tap0, and 36 more: ")
    assert "no route to 198.51.100.9" in lines[-1]


def test_explain_has_no_table_where_there_was_no_packet(tmp_path: Path) -> None:
    file = tmp_path / "mirrord.toml"
    file.write_text('[filters.f]\nrules = [{ priority = 1, action = "accept" }]\n')
    done = invoke("/none", "explain", "f", "--config", str(file), "--pcap", str(tmp_path / "none.pcap"))
    assert (done.exit_code, done.stdout) == (1, "")
    assert "No such file or directory" in done.stderr


def test_another_file_does_not_meet_the_hosts_own(tmp_path: Path) -> None:
    """What README tells to try first, on a host where something runs already."""
    with Root(tmp_path) as root:
        (root / "etc/mirrord/conf.d").mkdir(parents=True)
        (root / "etc/mirrord/conf.d/core.toml").write_text(CONFIG)
        (tmp_path / "mirror.toml").write_text(CONFIG)
        (root / config.DEFAULT_PATH).write_text("")
        check = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "mirrord.control.daemon", "--check"]
        assert "is valid" in root.run(*check, "-c", str(tmp_path / "mirror.toml"))
        assert "is valid" in root.run(*check)
        (root / config.DEFAULT_PATH).write_text(CONFIG)
        told = subprocess.run([*root.enter, *check], capture_output=True, text=True, check=False)
        assert told.returncode == 2
        assert f"{config.DEFAULT_PATH}" in told.stderr
        assert "already defined in" in told.stderr


def test_a_place_that_the_unit_does_not_allow_is_told_so(
    hosts: tuple[Host, Host], daemon: MakeDaemon, tmp_path: Path
) -> None:
    guarded = tmp_path / "guarded"
    guarded.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", guarded], check=True)
    try:
        end = f'{{ type = "file", path = "{guarded}/nic.pcapng" }}'
        text = CONFIG.replace('{ type = "device", device = "out0" }', end)
        made = daemon(hosts[1], text, up=False, capture_directories=[str(guarded)])
        (session,) = status(made)["sessions"]
        assert session["state"] == "failed"
        assert "systemctl edit mirrord, ReadWritePaths=" in session["reason"]
    finally:
        subprocess.run(["umount", guarded], check=True)
