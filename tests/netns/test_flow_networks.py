"""Flow networks: the address that is taken, the way that copies leave by, and that nothing of it is left behind.

client eth0 ---- nic [source] em02 ---- em02 [router] eth1 ---- eth0 [collector]
                              em01 ---- em01
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.daemon import Daemon
from tests.support.metrics import Metrics
from tests.support.send import send, udp_frame
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

FRAME = udp_frame(("02:00:00:00:00:01", "10.1.0.1", 1000), ("02:00:00:00:00:02", "10.1.0.2", 2000), length=100)


def configuration(remote: str, addresses: str = "192.0.2.10-192.0.2.20/24", gateway: str = "192.0.2.1") -> str:
    return f"""
[flow_networks.capture]
device = "em02"
addresses = "{addresses}"
{f'gateway = "{gateway}"' if gateway else ""}

[mirrors.m]
flow_network = "capture"
enabled = true
[[mirrors.m.sessions]]
name = "s"
source = "nic"
destination = {{ type = "vxlan", remote = "{remote}", vni = 1 }}
"""


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host, Host]:
    """Client, source and router. The host's own routes lead everywhere by em01."""
    client, source, router = net.host("client"), net.host("source"), net.host("router")
    net.link(client, "eth0", source, "nic")
    net.link(source, "em02", router, "em02", ("", "192.0.2.1/24"), mtu=1600)
    net.link(source, "em01", router, "em01", ("198.51.100.2/24", "198.51.100.1/24"), mtu=1600)
    source.ip("route add default via 198.51.100.1")
    source.ip("route add 192.0.2.0/24 via 198.51.100.1")
    return client, source, router


def network(host: Host) -> list[str]:
    """All that a flow network could leave behind."""
    return [
        host.ip("-4 -o address show"), host.ip("-4 rule show"), host.ip("-4 route show table all"),
    ]  # fmt: skip


def waits(daemon: Daemon) -> str:
    """Why the only session does not run; "" while it does."""
    ((_, labels),) = daemon.metrics().select("mirrord_session_info")
    return dict(labels)["reason"]


def test_copies_leave_by_the_device_alone_and_the_address_is_given_back(
    net: Topology, hosts: tuple[Host, Host, Host], sniff: MakeSniffer, daemon: MakeDaemon
) -> None:
    client, source, router = hosts
    collector = net.host("collector")
    net.link(router, "eth1", collector, "eth0", ("203.0.113.1/24", "203.0.113.9/24"), mtu=1600)
    collector.ip("route add default via 203.0.113.1")
    router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    router.ip("address add 192.0.2.10/32 dev em02")
    before = network(source)
    set_aside, other = sniff(router, "em02", "arp or udp"), sniff(router, "em01", "udp")
    arrived = sniff(collector, "eth0", "udp")

    mirrord = daemon(source, configuration("203.0.113.9"))
    assert "192.0.2.11/24" in source.ip("address show dev em02")  # .10 answers
    for _ in range(3):
        send(client, "eth0", FRAME)
    arrived.wait_lines(3)
    assert mirrord.settle(captured=3).total("mirrord_mirrored_frames_total") == 3
    mirrord.stop()

    assert network(source) == before
    lines = arrived.stop().lines()
    assert len(lines) == 3
    assert all("192.0.2.11" in line and "> 203.0.113.9.4789: VXLAN, flags [I] (0x08), vni 1" in line for line in lines)
    assert other.stop().lines() == []
    probes = set_aside.stop().fields("arp.src.proto_ipv4", "arp.dst.proto_ipv4", expression="arp.opcode == 1")
    asked = [target for sender, target in probes if sender == "0.0.0.0"]
    assert asked == ["192.0.2.10"] + ["192.0.2.11"] * 3  # RFC 5227 2.1.1
    assert ["192.0.2.11", "192.0.2.11"] in probes  # announced, 2.3


def test_what_a_crash_left_is_found_again_and_a_reload_gives_it_back(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon, tmp_path: Path
) -> None:
    client, source, _ = hosts
    before = network(source)
    first = daemon(source, configuration("192.0.2.1", gateway=""))
    held = network(source)
    assert held != before
    first.kill()
    assert network(source) == held

    (tmp_path / "mirrord-source").rename(tmp_path / "crashed")
    mirrord = daemon(source, configuration("192.0.2.1", gateway=""))
    assert network(source) == held
    source.ip("link set em02 down")
    wait_for(lambda: waits(mirrord) == "device is down: em02", "the session waiting")
    source.ip("link set em02 up")  # its routes went when it did
    mirrord.wait_up()
    send(client, "eth0", FRAME)

    def sent() -> Metrics | None:
        metrics = mirrord.metrics()
        return metrics if metrics.total("mirrord_sent_packets_total") == 1 else None

    wait_for(sent, "the copy sent")
    mirrord.file.write_text(mirrord.file.read_text().replace("enabled = true", "enabled = false"))
    mirrord.reload()
    wait_for(lambda: network(source) == before, "everything given back")


@pytest.mark.parametrize("dataplane", ["native"])
def test_a_network_that_is_not_fit_says_why(hosts: tuple[Host, Host, Host], daemon: MakeDaemon) -> None:
    _, source, router = hosts
    router.ip("address add 192.0.2.10/32 dev em02")
    mirrord = daemon(source, configuration("192.0.2.1", addresses="192.0.2.10/24"), up=False)
    wait_for(lambda: waits(mirrord) == "no address of 192.0.2.10/24 is free on em02", "the reason")
    router.ip("address del 192.0.2.10/32 dev em02")
    mirrord.wait_up()
    source.ip("route add default via 192.0.2.1 dev em02 onlink metric 500")
    wait_for(lambda: waits(mirrord).startswith("em02 holds a default route of this host"), "the refusal")
    source.ip("link delete em02")
    wait_for(lambda: waits(mirrord) == "no such device: em02", "the device missed")
    wait_for(lambda: "from 192.0.2.10" not in source.ip("rule show"), "the rule given back")


@pytest.mark.parametrize("dataplane", ["native"])
def test_an_address_that_is_there_is_used_and_left(hosts: tuple[Host, Host, Host], daemon: MakeDaemon) -> None:
    _, source, _ = hosts
    source.ip("address add 192.0.2.15/24 dev em02 noprefixroute")
    before = network(source)
    mirrord = daemon(source, configuration("192.0.2.1"))
    assert network(source)[0] == before[0]
    assert "from 192.0.2.15 lookup" in source.ip("rule show")
    mirrord.stop()
    assert network(source) == before
