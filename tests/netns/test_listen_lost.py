"""A tunnel's receiver with nowhere to put its frames, or no time to: what is lost is counted.

sender eth0 ---- eth0 [appliance] mon0 ---- mon1
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scapy.layers.l2 import Ether

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.appliance import Bench, marked, pair, session, vxlan
from tests.support.ctl import ctl
from tests.support.send import flood
from tests.support.topology import Topology, acquaint
from tests.support.wait import wait_for


def test_what_comes_for_a_device_that_has_gone_is_counted(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon
) -> None:
    bench = Bench(net, sniff)
    mirrord = daemon(bench.appliance, session("s", '{ type = "vxlan", local = "10.99.0.2", vni = 7 }'))

    def state() -> tuple[str, str]:
        one = json.loads(ctl(mirrord.socket, "--json", "status"))["sessions"][0]
        return one["state"], one["reason"]

    bench.send(vxlan(7, marked(n)) for n in range(10))
    mirrord.settle(captured=10)
    assert bench.out.stop().frames() == [*map(marked, range(10))]
    bench.appliance.ip("link delete mon0")
    wait_for(lambda: state() == ("waiting", "no such device: mon0"), "the device's end to be noticed")
    bench.send(vxlan(7, marked(n)) for n in range(10, 30))
    metrics = mirrord.settle(captured=30)
    assert metrics.total("mirrord_mirrored_frames_total") == 10
    assert metrics.total("mirrord_dropped_frames_total", reason="no_route") == 20
    assert metrics.total("mirrord_session_up") == 0
    assert "session down" not in mirrord.output()

    later = "name=s,source.type=vxlan,source.local=10.99.0.2,source.vni=8,destination.type=device,destination.device=x0"
    tried = ctl(mirrord.socket, "create", "later", "--enable", "--session", later, "--dry-run")
    assert tried.endswith("session s of later on vxlan:10.99.0.2:4789 would wait\n")
    ctl(mirrord.socket, "create", "later", "--enable", "--session", later)
    bench.send(vxlan(8, marked(n)) for n in range(5))
    metrics = mirrord.settle(captured=35)
    assert metrics.total("mirrord_dropped_frames_total", reason="no_route", mirror="later") == 5
    ctl(mirrord.socket, "delete", "later")

    bench.appliance.ip("link add mon0 mtu 1600 type veth peer name mon1 mtu 1600")
    for device in ("mon1", "mon0"):
        bench.appliance.ip(f"link set dev {device} up")
    again = bench.sniff(bench.appliance, "mon1")
    wait_for(lambda: state() == ("up", ""), "the session to go on by the new device")
    bench.send(vxlan(7, marked(n)) for n in range(30, 40))
    metrics = mirrord.settle(captured=40)
    assert metrics.total("mirrord_mirrored_frames_total", mirror="m") == 20
    mirrord.stop()
    assert again.stop().frames() == [*map(marked, range(30, 40))]


@pytest.mark.parametrize("frozen", [False, True], ids=["running", "frozen"])
def test_a_flood_is_accounted_for(net: Topology, daemon: MakeDaemon, tmp_path: Path, *, frozen: bool) -> None:
    count = 20_000
    sender, appliance = net.host("sender"), net.host("appliance")
    net.link(sender, "eth0", appliance, "eth0", ("10.99.0.1/24", "10.99.0.2/24"))
    pair(appliance, "mon0", "mon1")
    acquaint(sender, "eth0", "10.99.0.1", appliance, "eth0", "10.99.0.2")
    source = '{ type = "vxlan", local = "10.99.0.2" }'
    mirrord = daemon(appliance, session("s", source, more='ring_size = "1MiB"'))
    link = Ether(src=sender.mac("eth0"), dst=appliance.mac("eth0"))

    if frozen:
        mirrord.freeze()
    flood(sender, "eth0", bytes(link / vxlan(7, marked(0))), count, tmp_path)
    if frozen:
        mirrord.thaw()
    arrived = appliance.counter("eth0", "rx", "packets")  # a veth's backlog has no room for some
    metrics = mirrord.settle(captured=arrived)
    mirrord.stop()

    ring_full = metrics.total("mirrord_dropped_frames_total", reason="ring_full")
    assert metrics.total("mirrord_captured_frames_total") == arrived
    assert metrics.total("mirrord_read_frames_total") == arrived - ring_full
    assert metrics.total("mirrord_mirrored_frames_total") == appliance.transmitted("mon0")
    if frozen:
        assert ring_full > 0
