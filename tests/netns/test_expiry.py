"""A mirror ends when it is to: its copies stop, whoever restarts mirrord or sets the clock meanwhile.

[host] up0 ---- up0 [collector]      tap0 [host] ---- eth0 [guest]
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from tests.support.api import Api
from tests.support.ctl import ctl, invoke
from tests.support.daemon import Daemon
from tests.support.faketime import FAKETIME
from tests.support.send import FRAME, send
from tests.support.topology import Topology
from tests.support.uplink import CORE, REMOTE, Uplink, mirror
from tests.support.wait import wait_for

LASTS = 15  # seconds: longer than a start of mirrord takes on a loaded machine
LATE = 2.0  # seconds: mirrord looks once a second, and a change takes its time on a loaded machine


@pytest.fixture
def uplink(net: Topology) -> Iterator[Uplink]:
    with Uplink(net) as made:
        net.link(made.host, "tap0", net.host("guest"), "eth0")
        yield made


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def copied(uplink: Uplink, seconds: float = 1.0) -> bool:
    """Whether a frame that tap0 sends now reaches the collector."""
    send(uplink.host, "tap0", FRAME)
    return bool(uplink.copies(seconds))


def ends(uplink: Uplink, seconds: float) -> float:
    """When copies stopped to arrive, by CLOCK_BOOTTIME, watched for so long at most."""
    last = until = boottime() + seconds
    while boottime() < until:
        if copied(uplink, 0.1):
            last = boottime()
        elif boottime() - last > 0.5 and last != until:
            break
    assert last < until - 0.5, "the copies did not end"
    return last


def at(seconds: float) -> str:
    """A time of RFC 3339 so many seconds from now."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_a_mirror_with_a_duration_is_disabled_by_mirrord(uplink: Uplink, tmp_path: Path) -> None:
    daemon = Daemon(uplink.host, tmp_path, "", up=False)
    api = Api(daemon.socket)
    source = ["--session", f"name=s,source=tap0,destination.type=vxlan,destination.remote={REMOTE},destination.vni=2"]
    ctl(daemon.socket, "create", "x", "--expires", "2s", *source)
    assert (api("GET", "mirrors/x").body["expires"], api("GET", "mirrors/x").body["enabled"]) == ("2s", False)
    began, wall = boottime(), time.time()
    ctl(daemon.socket, "enable", "x")
    daemon.wait_up()
    shown = api("GET", "mirrors/x").body
    assert 1.5 < datetime.fromisoformat(shown["expires"]).timestamp() - wall < 4  # up to a whole second
    assert api("PUT", "mirrors/x", shown).status == 200  # the time that is shown, sent back, is no new one
    assert 1 < ends(uplink, 10) - began < 2 + LATE

    wait_for(lambda: not api("GET", "mirrors/x").body["enabled"], "it is disabled", 5)
    assert api("GET", "mirrors/x").body["expired"] is True
    row = api.audit()[-1]
    assert (row["user"], row["operation"], row["kind"], row["object"]) == ("mirrord", "disable", "mirror", "x")
    assert (row["result"], row["message"]) == ("done", f"its time was over at {shown['expires']}")
    for command in (["list"], ["show", "x"], ["status"], ["doctor"], ["doctor", "x"]):
        said = invoke(daemon.socket, *command).stdout
        assert "expired" in said or "its time was over" in said, (command, said)

    refused = ctl(daemon.socket, "enable", "x", status=1)
    assert "set expires anew" in refused
    ctl(daemon.socket, "set", "x", "--expires", "1h")
    ctl(daemon.socket, "enable", "x")
    daemon.wait_up()
    assert copied(uplink, 5)
    ctl(daemon.socket, "set", "x", "--expires", "")
    assert api("GET", "mirrors/x").body["expires"] is None
    assert daemon.stop()[0] == 0


def test_a_restart_neither_ends_nor_prolongs_it(uplink: Uplink, tmp_path: Path) -> None:
    """Nor does a time that passes while mirrord is down go unnoticed."""
    daemon = Daemon(uplink.host, tmp_path, "", up=False)
    began = boottime()
    assert Api(daemon.socket)("PUT", "mirrors/x", {**mirror("tap0", 2), "expires": f"{LASTS}s"}).status == 201
    assert Api(daemon.socket)("PUT", "mirrors/y", {**mirror("tap0", 3), "expires": "1s"}).status == 201
    daemon.kill()
    time.sleep(max(0.0, began + 2 - boottime()))
    daemon = Daemon(uplink.host, tmp_path, "", up=False)
    api = Api(daemon.socket)
    assert [one["mirror"] for one in api("GET", "status").body["sessions"]] == ["x"]
    assert copied(uplink, 5)
    assert LASTS - 2 < ends(uplink, 2 * LASTS) - began < LASTS + LATE
    wait_for(lambda: {row["object"] for row in api.audit() if row["operation"] == "disable"} == {"x", "y"}, "both")
    assert daemon.stop()[0] == 0


def test_a_step_of_the_clock_neither_ends_nor_prolongs_it(uplink: Uplink, tmp_path: Path) -> None:
    """The wall clock of mirrord alone is set, by libfaketime, which leaves CLOCK_BOOTTIME as it is."""
    clock = tmp_path / "clock"
    clock.write_text("+0")
    faked = f"LD_PRELOAD={FAKETIME} FAKETIME_TIMESTAMP_FILE={clock} FAKETIME_NO_CACHE=1 DONT_FAKE_MONOTONIC=1"
    daemon = Daemon(uplink.host, tmp_path, "", up=False, under=("env", *faked.split()))
    api = Api(daemon.socket)
    began = boottime()
    assert api("PUT", "mirrors/x", {**mirror("tap0", 2), "expires": f"{LASTS}s"}).status == 201
    before = datetime.fromisoformat(api("GET", "mirrors/x").body["expires"])

    def shown_later_by(seconds: int) -> bool:
        shown = datetime.fromisoformat(api("GET", "mirrors/x").body["expires"])
        return abs((shown - before).total_seconds() - seconds) < 2

    for step in (86400, -86400):
        (tmp_path / "next").write_text(f"{step:+}")
        (tmp_path / "next").replace(clock)
        wait_for(partial(shown_later_by, step), "the time that is shown follows the clock", 5)
        assert api.audit()[-1]["user"] == "mirrord"
        assert copied(uplink, 1)
    assert LASTS - 2 < ends(uplink, 2 * LASTS) - began < LASTS + LATE
    assert daemon.stop()[0] == 0


def test_a_mirror_of_a_file_runs_until_its_time_and_again_by_a_reload(uplink: Uplink, tmp_path: Path) -> None:
    daemon = Daemon(uplink.host, tmp_path, CORE.replace("[mirrors.core]\n", f'[mirrors.core]\nexpires = "{at(6)}"\n'))
    api, written = Api(daemon.socket), daemon.file.read_text()
    assert copied(uplink, 1)
    ends(uplink, 20)
    shown = api("GET", "mirrors/core").body
    assert (shown["enabled"], shown["expired"]) == (True, True)
    for command in (["list"], ["show", "core"], ["status"], ["doctor"], ["doctor", "core"]):
        said = invoke(daemon.socket, *command).stdout
        assert "expired" in said or "its time was over" in said, (command, said)
    assert f"take it out of {daemon.file}" in invoke(daemon.socket, "doctor").stdout
    assert api("POST", "mirrors/core/enable").code == "read_only"
    assert daemon.metrics().total("mirrord_mirror_expires_timestamp_seconds", mirror="core") < time.time()

    expires = next(line for line in written.splitlines() if line.startswith("expires"))
    daemon.file.write_text(written.replace(expires, "expires = 2999-01-31T18:00:00+01:00"))
    assert api("POST", "reload").status == 200
    daemon.wait_up()
    assert copied(uplink, 5)
    assert api("GET", "mirrors/core").body["expires"] == "2999-01-31T17:00:00Z"
    daemon.file.write_text(written.replace(expires, 'expires = "2h"'))
    refused = api("POST", "reload")
    assert refused.code == "invalid_config"
    assert "mirrors.core.expires: expected in a file a time" in refused.message
    assert daemon.stop()[0] == 0


def test_export_and_apply_keep_the_time(uplink: Uplink, tmp_path: Path) -> None:
    daemon = Daemon(uplink.host, tmp_path, "", up=False)
    api, file = Api(daemon.socket), tmp_path / "mine.toml"
    assert api("PUT", "mirrors/x", {**mirror("tap0", 2), "expires": "3h"}).status == 201
    until = api("GET", "mirrors/x").body["expires"]
    file.write_text(ctl(daemon.socket, "export"))
    assert f'expires = "{until}"' in file.read_text()
    assert ["same", "mirror", "x"] in [
        line.split() for line in ctl(daemon.socket, "apply", "-f", str(file)).splitlines()
    ]

    file.write_text(file.read_text().replace(f'"{until}"', "2099-01-31T18:00:00+01:00"))  # a time of TOML
    ctl(daemon.socket, "apply", "-f", str(file), "--dry-run")
    assert api("GET", "mirrors/x").body["expires"] == until
    ctl(daemon.socket, "apply", "-f", str(file))
    assert api("GET", "mirrors/x").body["expires"] == "2099-01-31T17:00:00Z"
    file.write_text(file.read_text().replace("2099", "2020"))
    assert "set expires anew" in ctl(daemon.socket, "apply", "-f", str(file), status=1)
    assert daemon.stop()[0] == 0
