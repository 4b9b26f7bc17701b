"""GRE within the path MTU: what the kernel's IP layer gives a raw socket, fragments put together; and ERSPAN's sequence
numbers, which tell the receiver of every copy that is missing.

client eth0 ---- nic [source] uplink ---- eth0 [collector]
"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.send import flood, send, udp_frame
from tests.support.source import OVER_IPV4, OVER_IPV6, Underlay, linked
from tests.support.topology import Topology
from tests.support.wait import wait_for

MTU = 1400
DESTINATIONS = {
    OVER_IPV4: ('type = "gre", key = 5', 8),
    OVER_IPV6: ('type = "erspan", erspan_type = "III", session_id = 5', 8 + 12),
}


def frame(length: int) -> bytes:
    made = udp_frame(("02:00:00:00:00:01", "10.1.0.1", length), ("02:00:00:00:00:02", "10.1.0.2", 2000), length=length)
    return made[:42] + bytes(n % 251 for n in range(length - 42))


@pytest.mark.parametrize("underlay", [OVER_IPV4, OVER_IPV6], ids=["gre-ipv4", "erspan-ipv6"])
@pytest.mark.parametrize("on_mtu_exceeded", ["truncate", "fragment", "drop"])
def test_the_path_mtu_is_kept_to_the_byte(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon, underlay: Underlay, on_mtu_exceeded: str
) -> None:
    client, source, collector = linked(net, underlay, MTU)
    destination, header = DESTINATIONS[underlay]
    limit = MTU - underlay.ip_header - header
    outer = sniff(collector, "eth0", f"src host {underlay.source} and not icmp6")
    mirrord = daemon(
        source,
        f"""
[[mirrors.m.sessions]]
name = "s"
direction = "ingress"
source = "nic"
destination = {{ {destination}, remote = "{underlay.collector}" }}
on_mtu_exceeded = "{on_mtu_exceeded}"
""",
    )
    frames = [frame(60), frame(limit), frame(limit + 1), frame(1514)]
    family = socket.AF_INET if underlay is OVER_IPV4 else socket.AF_INET6
    with collector.open_socket(family, socket.SOCK_RAW, socket.IPPROTO_GRE) as taker:
        taker.settimeout(5)
        for one in frames:
            send(client, "eth0", one)
        metrics = mirrord.settle(captured=len(frames))
        expected = {
            "truncate": [one[:limit] for one in frames],
            "fragment": frames,
            "drop": [one for one in frames if len(one) <= limit],
        }[on_mtu_exceeded]
        # raw(7) gives the IPv4 header, too; ipv6(7) does not
        skipped = header + (underlay.ip_header if underlay is OVER_IPV4 else 0)
        assert [taker.recv(65536)[skipped:] for _ in expected] == expected
    mirrord.stop()

    sizes = sorted(len(packet) - 14 for packet in outer.stop().frames())
    if on_mtu_exceeded == "fragment":
        assert len(sizes) == len(frames) + 2
        assert sizes[-1] <= MTU
    else:
        assert sizes == sorted(underlay.ip_header + header + len(one) for one in expected)
        assert sizes[-1] == MTU
    altered = {
        "truncate": metrics.total("mirrord_truncated_frames_total"),
        "fragment": metrics.total("mirrord_fragmented_frames_total"),
        "drop": metrics.total("mirrord_dropped_frames_total", reason="mtu_exceeded"),
    }
    assert altered == dict.fromkeys(altered, 0) | {on_mtu_exceeded: 2}


def test_a_gap_in_the_sequence_is_a_copy_that_was_lost(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon, dataplane: str, tmp_path: Path
) -> None:
    count = {"python": 2_500, "native": 10_000}[dataplane]
    client, source, collector = linked(net, mtu=MTU)
    outer = sniff(collector, "eth0", "proto gre", snaplen=64)
    mirrord = daemon(
        source,
        """
[[mirrors.m.sessions]]
name = "s"
direction = "ingress"
source = "nic"
destination = { type = "erspan", erspan_type = "II", session_id = 5, remote = "10.99.0.2" }
ring_size = "64MiB"
""",
    )

    send(client, "eth0", frame(60), count, rate={"python": 5_000, "native": 20_000}[dataplane])
    mirrord.settle(captured=count)
    source.run("tc", "qdisc", "add", "dev", "uplink", "root", "tbf", "rate", "100kbit", "burst", "2k", "limit", "20k")
    flood(client, "eth0", frame(60), count, tmp_path)
    metrics = mirrord.settle(captured=2 * count)
    mirrord.stop()
    lost = metrics.total("mirrord_dropped_frames_total", reason="send_error")
    wait_for(lambda: collector.counter("eth0", "rx", "packets") >= 2 * count - lost, "the queue has emptied")
    outer.stop()

    sequence = [int.from_bytes(data[38:42], "big") for data in outer.frames()]  # Ethernet 14, IPv4 20, GRE 4
    assert sequence[:count] == list(range(count))
    assert sequence == sorted(set(sequence))
    assert lost > 0
    assert len(sequence) == 2 * count - lost
    assert sequence[-1] < 2 * count
    assert metrics.total("mirrord_dropped_frames_total") == lost
