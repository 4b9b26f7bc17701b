"""daemon.memory_limit bounds rings, tables and recorders: refused beforehand, and kept to at run time.

guest eth0 ---- tap0 [host] up0 ---- up0 collector
"""

from __future__ import annotations

from pathlib import Path

from tests.conftest import MakeDaemon
from tests.support.api import Api
from tests.support.ctl import ctl
from tests.support.daemon import Daemon
from tests.support.send import FRAME, send
from tests.support.topology import Topology
from tests.support.uplink import mirror, tapped
from tests.support.wait import wait_for

MIB = 1 << 20


def rings(mirrord: Daemon) -> int:
    """Bytes of memory that the process shares with packet sockets, as the kernel lists them; TX rings are shorter."""
    maps = Path(f"/proc/{mirrord.pid}/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in maps if "socket:[" in line]
    sizes = [int(end, 16) - int(begin, 16) for begin, end in spans]
    return sum(size for size in sizes if size >= MIB)


def test_what_exceeds_it_is_refused_and_what_is_there_goes_on(net: Topology, daemon: MakeDaemon) -> None:
    host, _ = tapped(net)
    mirrord = daemon(host, "", up=False, memory_limit="4MiB")
    api = Api(mirrord.socket)
    ring = {"capture": "ring", "ring_size": "2MiB"}
    assert api("PUT", "mirrors/one", mirror("tap0", 1, **ring)).status == 201
    assert api("PUT", "mirrors/same", mirror("tap0", 2, **ring)).status == 201  # it shares the ring
    mirrord.wait_up()
    assert mirrord.metrics().total("mirrord_memory_bytes") == rings(mirrord) == 2 * MIB

    refused = api("PUT", "mirrors/large", mirror("up0", 3, capture="ring", ring_size="3MiB"))
    assert refused.status == 409, refused
    assert refused.code == "refused"
    assert "its ring takes 3MiB, with all before it 5MiB: more than memory_limit, 4MiB" in refused.message
    assert refused.body["error"]["path"] == "mirrors.large.sessions[s].ring_size"
    refused = api("PATCH", "mirrors/one/sessions/s", {"recorder": "3MiB"})
    assert "its recorder takes 3MiB, with all before it 5MiB: more than memory_limit, 4MiB" in refused.message

    assert api("PUT", "mirrors/other", mirror("up0", 3, capture="ring", ring_size="1MiB")).status == 201
    mirrord.wait_up()
    said = f"rings, tables and recorders {rings(mirrord) // MIB} MiB (memory_limit 4 MiB)"
    wait_for(lambda: said in ctl(mirrord.socket, "status"), "what is held")
    assert "2 MiB of rings, tables and recorder" in ctl(mirrord.socket, "show", "one")

    send(host, "tap0", FRAME, 20)
    metrics = mirrord.settle(40)
    for name in ("one", "same"):
        assert metrics.total("mirrord_mirrored_frames_total", mirror=name) == 20
    for name in ("one", "same", "other"):
        assert api("DELETE", f"mirrors/{name}").status == 204
    wait_for(lambda: rings(mirrord) == mirrord.metrics().total("mirrord_memory_bytes") == 0, "all given back")


def test_a_live_capture_has_what_is_left_of_it(net: Topology, daemon: MakeDaemon) -> None:
    """No session asked for its ring: the daemon itself keeps to the limit."""
    host, _ = tapped(net)
    mirrord = daemon(host, "", up=False, memory_limit="2MiB")
    api = Api(mirrord.socket)
    ring = {"capture": "ring", "ring_size": "2MiB", "direction": "egress"}
    assert api("PUT", "mirrors/one", mirror("tap0", 1, **ring)).status == 201
    mirrord.wait_up()
    told = ctl(mirrord.socket, "capture", "one/s", "-w", "-", status=1)
    assert "tap0 cannot be captured: no memory for its ring (daemon.memory_limit" in told
    send(host, "tap0", FRAME, 20)
    assert mirrord.settle(20).total("mirrord_mirrored_frames_total") == 20
