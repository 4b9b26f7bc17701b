"""A host that has no descriptors or no threads left: what cannot be done is refused with the reason, and no bug.

guest eth0 ---- tap0 [host] up0 ---- up0 collector
"""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.api import Api
from tests.support.cgroup import limited
from tests.support.daemon import Daemon
from tests.support.send import FRAME, send
from tests.support.topology import Host, Topology
from tests.support.uplink import CORE, mirror, tapped
from tests.support.wait import wait_for

NETWORK = """
[flow_networks.n]
device = "up0"
addresses = "192.0.2.1/24"

[mirrors.core]
flow_network = "n"
"""


@pytest.fixture
def host(net: Topology) -> Host:
    return tapped(net)[0]


def opened(daemon: Daemon) -> set[int]:
    return {int(one.name) for one in Path(f"/proc/{daemon.pid}/fd").iterdir()}


def settled(daemon: Daemon) -> bool:
    """Whether it has the same descriptors a tenth of a second later."""
    before = opened(daemon)
    time.sleep(0.1)
    return opened(daemon) == before


@contextmanager
def room_for(daemon: Daemon, descriptors: int) -> Iterator[None]:
    """Let the daemon have so many descriptors more than it has now, what it opens for a moment closed."""
    before = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    wait_for(lambda: settled(daemon), "what it opens for a moment closed")
    used = opened(daemon)
    free = [number for number in range(len(used) + descriptors + 1) if number not in used]
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (free[descriptors], before[1]))  # it bounds the numbers
    try:
        yield
    finally:
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, before)


def test_without_descriptors_a_change_is_refused_with_the_reason(host: Host, tmp_path: Path) -> None:
    daemon = Daemon(host, tmp_path, CORE)
    api = Api(daemon.socket)
    answers = []
    for room in range(1, 8):
        with room_for(daemon, room):
            answer = api("PUT", f"mirrors/x{room}", mirror("tap0", 10 + room))
        assert answer.status in (201, 503, 507)
        if answer.status == 503:
            assert (answer.code, "too many files are open in mirrord" in answer.message) == ("no_resources", True)
        assert (api("GET", f"mirrors/x{room}").status == 200) == (answer.status == 201)
        answers.append(answer.status)
    assert {201, 503} <= {*answers}
    all_up = lambda: {one["state"] for one in api("GET", "status").body["sessions"]} == {"up"}  # noqa: E731
    wait_for(all_up, "what was kept runs as soon as it can", 20)
    assert api("PUT", "mirrors/y", mirror("tap0", 2)).status == 201
    status, said = daemon.stop()
    assert status == 0
    assert "Traceback" not in said
    assert "a bug" not in said


def test_a_reload_that_the_host_has_nothing_for_is_told_and_the_old_configuration_runs(
    host: Host, tmp_path: Path
) -> None:
    daemon = Daemon(host, tmp_path, CORE)
    api = Api(daemon.socket)
    daemon.file.write_text(daemon.file.read_text().replace("\n[mirrors.core]\n", NETWORK))
    with room_for(daemon, 1):
        daemon.reload()
        wait_for(lambda: "the old configuration stays" in daemon.output(), "the refusal")
    config = api("GET", "status").body["config"]
    assert config["last_reload_successful"] is False
    assert "too many files are open in mirrord" in config["problems"][0]
    assert api.audit()[-1]["code"] == "no_resources"
    daemon.reload()
    wait_for(lambda: api("GET", "status").body["config"]["last_reload_successful"], "the next one goes well")
    status, said = daemon.stop()
    assert status == 0
    assert "Traceback" not in said


def test_without_threads_changes_are_made_and_a_capture_is_refused(host: Host, tmp_path: Path) -> None:
    daemon = Daemon(host, tmp_path, CORE)
    api = Api(daemon.socket)
    with limited(daemon.pid, "pids", len(list(Path(f"/proc/{daemon.pid}/task").iterdir()))):
        assert api("PUT", "mirrors/x", mirror("tap0", 2)).status == 201
        assert api("GET", "doctor").status == 200
        answer = api("GET", "mirrors/core/sessions/a/capture")
        assert (answer.status, answer.code) == (503, "no_resources")
        assert "no more threads can be started" in answer.message
        assert api("DELETE", "mirrors/x").status == 204
    status, said = daemon.stop()
    assert status == 0
    assert "Traceback" not in said


def test_the_memory_of_its_control_group_ends_it_and_the_next_start_goes_on(host: Host, tmp_path: Path) -> None:
    """Enough: nothing is noticed. Too little for what was asked of it, without a `memory_limit`: it is killed."""
    daemon = Daemon(host, tmp_path, CORE)
    api = Api(daemon.socket)
    kept = {"recorder": "64MiB", "direction": "egress"}
    with limited(daemon.pid, "memory", 24 << 20):
        send(host, "tap0", FRAME, 200)
        assert daemon.settle(200).total("mirrord_mirrored_frames_total") == 200
        ring = {"capture": "ring", "ring_size": "64MiB"}  # the kernel's own memory, in no group
        assert api("PUT", "mirrors/ring", mirror("up0", 3, **ring)).status == 201
        daemon.wait_up()
        assert api("DELETE", "mirrors/ring").status == 204
        assert api("PUT", "mirrors/x", mirror("tap0", 2, **kept)).status == 201
        daemon.wait_up()
        large = FRAME.ljust(1500, b"\0")

        def killed() -> bool:
            send(host, "tap0", large, 2000)
            return daemon.status() is not None

        wait_for(killed, "it is killed", 60)
        assert daemon.status() == -signal.SIGKILL
    daemon.start()
    daemon.wait_up()
    assert api("GET", "mirrors/x").body["sessions"][0]["recorder"] == kept["recorder"]
    send(host, "tap0", FRAME, 50)
    assert daemon.settle(100).total("mirrord_mirrored_frames_total") == 100
    assert daemon.stop()[0] == 0
