"""Flow networks: the address that is taken, the way that copies leave by, and that nothing of it is left behind.

client eth0 ---- nic [source] em02 ---- em02 [router] eth1 ---- eth0 [collector]
                              em01 ---- em01
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import GRE, Ether
from scapy.packet import Raw

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.daemon import Daemon
from tests.support.metrics import Metrics
from tests.support.send import FRAME, UNANSWERED, send
from tests.support.sniffer import Sniffer
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for


class Plan(NamedTuple):
    """The addresses of one IP version; each network is written up to the host's number, 1 to 99."""

    version: int
    set_aside: str
    other: str
    far: str
    length: int

    def address(self, number: int, network: str = "") -> str:
        return f"{network or self.set_aside}{number}/{self.length}"

    def toml(self, remote: str, addresses: str, *, gateway: bool = True) -> str:
        return f"""
[flow_networks.capture]
device = "em02"
addresses = "{addresses}"
{f'gateway = "{self.set_aside}1"' if gateway else ""}

[mirrors.m]
flow_network = "capture"
enabled = true
[[mirrors.m.sessions]]
name = "s"
source = "nic"
destination = {{ type = "vxlan", remote = "{remote}", vni = 1 }}
"""

    def range(self) -> str:
        return f"{self.set_aside}10-{self.set_aside}20/{self.length}"

    def left(self, host: Host) -> list[str]:
        """All that a flow network could leave behind."""
        asked = ("-o address show", "rule show", "route show table all")
        return [line for what in asked for line in sorted(host.ip(f"-{self.version} {what}").splitlines())]


V4 = Plan(4, "192.0.2.", "198.51.100.", "203.0.113.", 24)
V6 = Plan(6, "2001:db8:2::", "2001:db8:51::", "2001:db8:113::", 64)
both_versions = pytest.mark.parametrize("plan", [V4, V6], ids=["ipv4", "ipv6"])


class Hosts(NamedTuple):
    client: Host
    source: Host
    router: Host


@pytest.fixture
def hosts(net: Topology, plan: Plan) -> Hosts:
    """Client, source and router. The host's own routes lead everywhere by em01."""
    client, source, router = net.host("client"), *(net.host(label, ipv6=True) for label in ("source", "router"))
    for host in (source, router):  # addresses of the links can be used at once
        host.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
    router.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1", "net.ipv4.ip_forward=1")
    net.link(client, "eth0", source, "nic")
    net.link(source, "em02", router, "em02", ("", plan.address(1)), mtu=1600)
    net.link(source, "em01", router, "em01", (plan.address(2, plan.other), plan.address(1, plan.other)), mtu=1600)
    source.ip(f"route add default via {plan.other}1")
    source.ip(f"route add {plan.set_aside}{'0' if plan.version == 4 else ''}/{plan.length} via {plan.other}1")
    # Others that are added are probed, with a shorter time for an answer, and to wait before, than the kernel's.
    source.run(
        *("sysctl", "-qw", "net.ipv6.conf.em02.accept_dad=1", "net.ipv6.conf.em02.router_solicitation_delay=0"),
        *("net.ipv6.neigh.em02.retrans_time_ms=200", "net.ipv6.conf.nic.disable_ipv6=1"),
    )
    wait_for(lambda: source.ip("address show").count("inet6 fe80:") == 2, "the kernel's own addresses")
    return Hosts(client, source, router)


def waits(daemon: Daemon) -> str:
    """Why the only session does not run; "" while it does."""
    ((_, labels),) = daemon.metrics().select("mirrord_session_info")
    return dict(labels)["reason"]


def probed(sniffer: Sniffer, plan: Plan) -> list[str]:
    """The addresses that were asked for by somebody who has none yet (RFC 5227 2.1.1, RFC 4862 5.4.2), in order."""
    if plan is V4:
        rows = sniffer.fields("arp.src.proto_ipv4", "arp.dst.proto_ipv4", expression="arp.opcode == 1")
        return [target for sender, target in rows if sender == "0.0.0.0"]
    rows = sniffer.fields("ipv6.src", "icmpv6.nd.ns.target_address", expression="icmpv6.type == 135")
    return [target for sender, target in rows if sender == "::"]


@both_versions
def test_copies_leave_by_the_device_alone_and_the_address_is_given_back(
    net: Topology, hosts: Hosts, plan: Plan, sniff: MakeSniffer, daemon: MakeDaemon
) -> None:
    client, source, router = hosts
    collector = net.host("collector", ipv6=True)
    collector.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
    net.link(router, "eth1", collector, "eth0", (plan.address(1, plan.far), plan.address(9, plan.far)), mtu=1600)
    collector.ip(f"route add default via {plan.far}1")
    router.ip(f"address add {plan.set_aside}10/{plan.length} dev em02")
    before = plan.left(source)
    set_aside, other = sniff(router, "em02", "arp or icmp6 or udp"), sniff(router, "em01", "udp")
    arrived = sniff(collector, "eth0", "udp")

    mirrord = daemon(source, plan.toml(f"{plan.far}9", plan.range()))
    assert plan.address(11) in source.ip("address show dev em02")  # .10 answers
    for _ in range(3):
        send(client, "eth0", FRAME)
    arrived.wait_lines(3)
    assert mirrord.settle(captured=3).total("mirrord_mirrored_frames_total") == 3
    mirrord.stop()

    assert plan.left(source) == before
    lines = arrived.stop().lines()
    assert len(lines) == 3
    for line in lines:
        assert f" {plan.set_aside}11." in line
        assert f"> {plan.far}9.4789: VXLAN, flags [I] (0x08), vni 1" in line
    assert other.stop().lines() == []
    assert (
        probed(set_aside.stop(), plan)
        == {
            V4: [f"{plan.set_aside}10"] + [f"{plan.set_aside}11"] * 3,
            V6: [f"{plan.set_aside}10", f"{plan.set_aside}11"],
        }[plan]
    )
    if plan is V4:  # announced, RFC 5227 2.3
        said = set_aside.fields("arp.src.proto_ipv4", "arp.dst.proto_ipv4", expression="arp.opcode == 1")
        assert ["192.0.2.11", "192.0.2.11"] in said


@pytest.mark.parametrize(("plan", "dataplane"), [(V4, "python"), (V6, "native")], ids=["ipv4", "ipv6"])
def test_what_a_crash_left_is_found_again_and_a_reload_gives_it_back(
    hosts: Hosts, plan: Plan, daemon: MakeDaemon, tmp_path: Path
) -> None:
    client, source, _ = hosts
    before = plan.left(source)
    toml = plan.toml(f"{plan.set_aside}1", plan.range(), gateway=False)
    first = daemon(source, toml)
    held = plan.left(source)
    assert held != before
    first.kill()
    assert plan.left(source) == held

    (tmp_path / "mirrord-source").rename(tmp_path / "crashed")
    mirrord = daemon(source, toml)
    assert plan.left(source) == held
    source.ip("link set em02 down")
    wait_for(lambda: waits(mirrord) == "device is down: em02", "the session waiting")
    source.ip("link set em02 up")  # its routes, and an IPv6 address, went when it did
    mirrord.wait_up()
    send(client, "eth0", FRAME)

    def sent() -> Metrics | None:
        metrics = mirrord.metrics()
        return metrics if metrics.total("mirrord_sent_packets_total") == 1 else None

    wait_for(sent, "the copy sent")
    mirrord.file.write_text(mirrord.file.read_text().replace("enabled = true", "enabled = false"))
    mirrord.reload()
    wait_for(lambda: plan.left(source) == before, "everything given back")


@pytest.mark.parametrize(("plan", "dataplane"), [(V4, "native")], ids=["ipv4"])
def test_a_network_that_is_not_fit_says_why(hosts: Hosts, plan: Plan, daemon: MakeDaemon) -> None:
    _, source, router = hosts
    only, gateway = plan.address(10), f"{plan.set_aside}1"
    router.ip(f"address add {only} dev em02")
    mirrord = daemon(source, plan.toml(gateway, only), up=False)
    wait_for(lambda: waits(mirrord) == f"no address of {only} is free on em02", "the reason")
    router.ip(f"address del {only} dev em02")
    mirrord.wait_up()
    source.ip(f"route add default via {gateway} dev em02 onlink metric 500")
    wait_for(lambda: waits(mirrord).startswith("em02 holds a default route of this host"), "the refusal")
    source.ip("link delete em02")
    wait_for(lambda: waits(mirrord) == "no such device: em02", "the device missed")
    wait_for(lambda: f"from {plan.set_aside}10" not in source.ip("rule show"), "the rule given back")


@both_versions
@pytest.mark.parametrize("dataplane", ["native"])
def test_an_address_that_is_there_is_used_and_left(hosts: Hosts, plan: Plan, daemon: MakeDaemon) -> None:
    _, source, _ = hosts
    source.ip(f"address add {plan.address(15)} dev em02 noprefixroute")
    wait_for(lambda: "tentative" not in source.ip("address show"), "an address that can be used")
    before, addresses = plan.left(source), source.ip("-o address show")
    mirrord = daemon(source, plan.toml(f"{plan.set_aside}1", plan.range()))
    assert source.ip("-o address show") == addresses
    assert f"from {plan.set_aside}15 lookup" in source.ip(f"-{plan.version} rule show")
    mirrord.stop()
    assert plan.left(source) == before


RECEIVED = """
[flow_networks.capture]
device = "em02"
addresses = "192.0.2.2/24"

[mirrors.m]
flow_network = "capture"
[[mirrors.m.sessions]]
name = "gre"
direction = "ingress"
source = { type = "gre", flow_network = "capture", key = 5 }
destination = { type = "device", device = "out1" }
[[mirrors.m.sessions]]
name = "geneve"
direction = "ingress"
source = { type = "geneve", flow_network = "capture", vni = 7 }
destination = { type = "device", device = "out2" }
"""


def test_gre_and_geneve_too_are_received_at_its_address_from_its_own_network(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon
) -> None:
    sender, host, collector = net.host("sender"), net.host("host"), net.host("collector")
    net.link(sender, "em02", host, "em02", ("192.0.2.1/24", ""))
    outs = ("out1", "out2")
    for device in outs:
        net.link(host, device, collector, device)
    mirrord = daemon(host, RECEIVED)
    received = [sniff(collector, device) for device in outs]
    tunnels = (
        GRE(proto=0x6558, key_present=1, key=5),
        UDP(sport=50000, dport=6081, chksum=0) / GENEVE(vni=7, proto=0x6558),
    )
    to = Ether(src=sender.mac("em02"), dst=host.mac("em02"))
    for source in ("192.0.2.1", "203.0.113.9"):  # the other one is not in the flow network
        for tunnel in tunnels:
            send(sender, "em02", bytes(to / IP(src=source, dst="192.0.2.2") / tunnel / Raw(UNANSWERED)))
    mirrord.settle(captured=2)
    for one in received:
        one.wait_lines(1)
        assert one.stop().frames() == [UNANSWERED]
