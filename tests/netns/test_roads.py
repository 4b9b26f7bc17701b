"""Encrypted roads for copies, as docs/recipes.md has them: WireGuard and IPsec, MTU and all.

client eth0 ---- nic [source] uplink ---- eth0 [collector] vxlan1, vxlan3
"""

from __future__ import annotations

import pytest

from tests.conftest import MakeDaemon
from tests.support.api import Api
from tests.support.daemon import Daemon
from tests.support.receiver import Receiver
from tests.support.send import UNANSWERED, send
from tests.support.source import OVER_IPV4, linked
from tests.support.topology import Host, Topology, receive_vxlan
from tests.support.wait import wait_for
from tests.support.wireguard import connect, set_mark

ETHERTYPE = 0x88B6  # of UNANSWERED
LONGEST = UNANSWERED.ljust(1514, b"\1")
COUNT = 20


def configuration(remote: str) -> str:
    """Copies that are cut where they are too long (vni 1), that are fragmented (3), and of the link itself (5)."""
    to = f'type = "vxlan", remote = "{remote}", liveness = "icmp"'
    return "".join(
        f'[[mirrors.m.sessions]]\nname = "{name}"\nsource = "{source}"\n{more}\ndestination = {{ {to}, vni = {vni} }}\n'
        for name, source, vni, more in (
            ("cut", "nic", 1, 'direction = "ingress"'),
            ("whole", "nic", 3, 'direction = "ingress"\non_mtu_exceeded = "fragment"'),
            ("loop", "uplink", 5, 'direction = "egress"'),
        )
    )


def told(mirrord: Daemon) -> dict[str, dict[str, object]]:
    return {one["session"]: one for one in Api(mirrord.socket)("GET", "status").body["sessions"]}


def lengths(client: Host, collector: Host, mirrord: Daemon, captured: int) -> tuple[list[int], list[int]]:
    """Of the copies of COUNT of the longest frames, as they arrive: those that may be cut, and the fragmented ones."""
    with Receiver(collector, "vxlan1") as cut, Receiver(collector, "vxlan3") as whole:
        send(client, "eth0", LONGEST, COUNT)
        mirrord.settle(captured)
        found: tuple[list[bytes], list[bytes]] = [], []

        def arrived() -> bool:
            for frames, receiver in zip(found, (cut, whole), strict=True):
                frames.extend(receiver.frames(ETHERTYPE))
            return [len(one) for one in found] == [COUNT, COUNT]

        wait_for(arrived, "the copies arrive")
    assert all(LONGEST.startswith(frame) for one in found for frame in one)
    return [len(frame) for frame in found[0]], [len(frame) for frame in found[1]]


def set_mtu(hosts: tuple[Host, Host], mtu: int) -> None:
    for host, device in zip(hosts, ("uplink", "eth0"), strict=True):
        host.ip(f"link set dev {device} mtu {mtu}")


@pytest.mark.parametrize("dataplane", ["native"], indirect=True)
def test_wireguard(net: Topology, daemon: MakeDaemon) -> None:
    client, source, collector = linked(net, mtu=1610)
    ends = source, collector
    connect(ends, (OVER_IPV4.source, OVER_IPV4.collector), "wg0", ("10.200.0.1/24", "10.200.0.2/24"))
    set_mark(0, "0x10000000")
    for vni in (1, 3):
        receive_vxlan(collector, vni, f"vxlan{vni}")
    for host in ends:
        host.ip("link set dev wg0 mtu 1550")
    source.run("ping", "-c", "1", "-W", "10", "10.200.0.2")  # the handshake
    mirrord = daemon(source, configuration("10.200.0.2"))
    assert lengths(client, collector, mirrord, 2 * COUNT) == ([1514] * COUNT, [1514] * COUNT)
    assert told(mirrord)["cut"]["warnings"] == []

    set_mtu(ends, 1500)
    for host in ends:
        host.ip("link set dev wg0 mtu 1420")  # as it is by default
    wait_for(lambda: told(mirrord)["cut"]["warnings"], "it is told that copies are cut")
    assert lengths(client, collector, mirrord, 4 * COUNT) == ([1420 - 36] * COUNT, [1514] * COUNT)
    assert mirrord.metrics().total("mirrord_captured_frames_total", session="loop") == 0  # it is not copied again

    collector.ip("link set dev wg0 down")
    wait_for(lambda: told(mirrord)["cut"]["state"] == "failed", "nobody is there")
    assert told(mirrord)["cut"]["reason"] == (
        "the collector is not alive: it does not answer; copies are sent all the same"
    )
    before = mirrord.metrics().total("mirrord_mirrored_frames_total")
    send(client, "eth0", LONGEST, COUNT)
    after = mirrord.settle(6 * COUNT)
    assert after.total("mirrord_mirrored_frames_total") - before == 2 * COUNT
    assert after.total("mirrord_remote_up") == 0
    collector.ip("link set dev wg0 up")
    wait_for(lambda: told(mirrord)["cut"]["state"] == "up", "somebody is there", 30)
