"""daemon.cpu_limit: workers take no more of a core than that; what does not fit is skipped, and the sender waits for
nobody.

client eth0 ---- nic [source] uplink ---- eth0 [collector]
       eth1 ---- nic2
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeDaemon
from tests.support.api import Api
from tests.support.ctl import ctl
from tests.support.daemon import Daemon
from tests.support.send import send, sending, udp_frame
from tests.support.source import session, source_and_collector
from tests.support.topology import Host, Topology, acquaint
from tests.support.wait import wait_for

pytestmark = pytest.mark.alone

FRAME = udp_frame(("02:00:00:00:00:01", "10.0.0.1", 7), ("02:00:00:00:00:02", "10.0.0.2", 9), length=64)
LIMITS = {"native": 0.02, "python": 0.05}  # of a core: what a flood takes is more


def spent(pid: int) -> dict[str, int]:
    """Nanoseconds of processor time by thread, as the scheduler counts it.

    Documentation/scheduler/sched-stats.rst.
    """
    tasks = [one for one in Path(f"/proc/{pid}/task").iterdir() if one.name != str(pid)]
    return {one.name: int((one / "schedstat").read_text().split()[0]) for one in tasks}


def states(api: Api) -> dict[str, Any]:
    return {one["session"]: one for one in api("GET", "status").body["sessions"]}


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host, Host]:
    client, source, collector = source_and_collector(net)
    net.link(client, "eth1", source, "nic2")
    acquaint(client, "eth1", "10.2.0.1", source, "nic2", "10.2.0.2")
    return client, source, collector


def test_the_busiest_session_pauses_and_the_workers_keep_their_share(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon, dataplane: str, tmp_path: Path
) -> None:
    limit = LIMITS[dataplane]
    client, source, _ = hosts
    text = session('direction = "ingress"\ncapture = "ring"\nring_size = "1MiB"')
    text += text.replace('"s"', '"quiet"').replace('"nic"', '"nic2"').replace("vni = 1", "vni = 2")
    mirrord: Daemon = daemon(source, text, cpu_limit=f"{limit:.0%}")
    api = Api(mirrord.socket)
    before, came = spent(mirrord.pid), source.counter("nic", "rx", "packets")
    begun = time.monotonic()
    with sending(client, "eth0", FRAME, tmp_path):
        wait_for(lambda: states(api)["s"]["state"] == "paused", "a pause", 60)
        reason = f"the workers would take more than {limit:.0%} of a core (daemon.cpu_limit)"
        assert states(api)["s"]["reason"] == reason
        assert states(api)["quiet"]["state"] == "up"
        send(client, "eth1", FRAME, 20)
    taken, elapsed = spent(mirrord.pid), time.monotonic() - begun
    most = max(taken[one] - before.get(one, 0) for one in taken) / 1e9
    assert most < limit * elapsed + 0.1, "the busiest thread"  # what it may take at once, and one round more

    flood = source.counter("nic", "rx", "packets") - came
    metrics = mirrord.settle(flood + 20, 60)
    assert metrics.total("mirrord_captured_frames_total", session="s") == flood
    assert metrics.total("mirrord_mirrored_frames_total", session="quiet") == 20
    assert metrics.total("mirrord_skipped_frames_total", session="s", reason="paused") > 0
    assert metrics.total("mirrord_worker_rested_seconds_total") > 0
    assert metrics.total("mirrord_cpu_limit_cores") == limit

    wait_for(lambda: states(api)["s"]["state"] == "up", "copies again", 60)
    mirrored = mirrord.metrics().total("mirrord_mirrored_frames_total", session="s")
    send(client, "eth0", FRAME, 30)
    wait_for(
        lambda: mirrord.metrics().total("mirrord_mirrored_frames_total", session="s") == mirrored + 30, "30 copies more"
    )
    assert f"cpu_limit {limit:.0%}" in ctl(mirrord.socket, "status")
