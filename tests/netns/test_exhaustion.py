"""A host that has no descriptors or no threads left: what cannot be done is refused with the reason, and no bug.

guest eth0 ---- tap0 [host] up0 ---- up0 collector
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.support.api import Api
from tests.support.daemon import Daemon
from tests.support.strace import injected
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


def no_threads(daemon: Daemon) -> AbstractContextManager[None]:
    """Whatever thread the daemon starts, clone(2) fails."""
    fault = "inject=clone,clone3:error=EAGAIN"
    return injected(daemon, "-o", "/dev/null", "-e", "trace=clone,clone3", "-e", fault)


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
    with no_threads(daemon):
        assert api("PUT", "mirrors/x", mirror("tap0", 2)).status == 201
        assert api("GET", "doctor").status == 200
        answer = api("GET", "mirrors/core/sessions/a/capture")
        assert (answer.status, answer.code) == (503, "no_resources")
        assert "no more threads can be started" in answer.message
        assert api("DELETE", "mirrors/x").status == 204
    status, said = daemon.stop()
    assert status == 0
    assert "Traceback" not in said
