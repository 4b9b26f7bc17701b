"""How long a lone frame takes through a quiet session, told by the kernel's stamps on both sides: one clock.

client eth0 ---- nic [source] uplink ---- eth0 [collector] vxlan0
"""

from __future__ import annotations

from statistics import median

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.send import send, udp_frame
from tests.support.sniffer import Sniffer
from tests.support.source import session, source_and_collector
from tests.support.topology import Topology

pytestmark = pytest.mark.alone

COUNT = 50
STAMP = 2e-6  # how exact a stamp in a capture file is, twice


def test_a_lone_frame_is_soon_forwarded_and_the_histogram_says_so(
    net: Topology, daemon: MakeDaemon, sniff: MakeSniffer
) -> None:
    client, source, collector = source_and_collector(net)
    captured, sent, arrived = sniff(source, "nic"), sniff(source, "uplink"), sniff(collector, "eth0")
    mirrord = daemon(source, session('direction = "ingress"'))

    for port in range(1, 1 + COUNT):
        frame = udp_frame(("02:00:00:00:00:01", "10.1.0.1", port), ("02:00:00:00:00:02", "10.1.0.2", 2000), bytes(50))
        send(client, "eth0", frame)
        mirrord.settle(port)  # it is alone
    metrics = mirrord.metrics()
    mirrord.stop()

    began, left, came = (_stamps(sniffer.stop()) for sniffer in (captured, sent, arrived))
    assert set(began) == set(left) == set(came) == {str(port) for port in range(1, 1 + COUNT)}
    assert median(came[port] - began[port] for port in began) < 0.005

    # A copy is stamped within its send: a frame's latency, which ends behind it, is that much or little more.
    taken = [left[port] - began[port] for port in began]
    name = "mirrord_forward_latency_seconds"
    assert metrics.total(f"{name}_count") == metrics.total("mirrord_mirrored_frames_total") == COUNT
    assert sum(taken) - COUNT * STAMP <= metrics.total(f"{name}_sum") <= sum(taken) + COUNT * 0.002
    for (_, labels), below in metrics.select(f"{name}_bucket").items():
        bound = float(dict(labels)["le"])
        assert below <= sum(one <= bound + STAMP for one in taken), bound
        assert below >= sum(one <= bound - 0.02 for one in taken), bound


def _stamps(sniffer: Sniffer) -> dict[str, float]:
    """When each frame passed, by its innermost source port."""
    rows = sniffer.fields("frame.time_epoch", "udp.srcport", expression="udp.dstport == 2000")
    return {ports.split(",")[-1]: float(time) for time, ports in rows}
