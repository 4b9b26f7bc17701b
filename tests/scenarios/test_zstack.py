"""Documents 000 and 004: VM-2's NIC mirrored to VM-1's second NIC, on one host and across two.

VM-2 eth0 ---- tap-vm2 [host: br0] tap-dhcp ---- eth0 DHCP server
                  | mirrored
VM-1 eth1 ---- tap-vm1
"""

from __future__ import annotations

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.ctl import ctl
from tests.support.topology import Host, Topology, receive_vxlan

ECHO_REQUEST, ECHO_REPLY = "icmp[0] == 8", "icmp[0] == 0"


def configuration(direction: str) -> str:
    return f"""
[mirrors.vm-2]
description = "core business on VM-2"
enabled = true

[[mirrors.vm-2.sessions]]
name = "nic"
direction = "{direction}"
source = {{ type = "device", device = "tap-vm2", perspective = "guest" }}
destination = {{ type = "device", device = "tap-vm1" }}
"""


@pytest.fixture
def machines(net: Topology) -> tuple[Host, Host, Host]:
    """The host, VM-1 and VM-2; what VM-2 pings is at 10.1.225.124."""
    host, vm1, vm2, dhcp = net.host("host"), net.host("vm1"), net.host("vm2"), net.host("dhcp")
    net.link(vm2, "eth0", host, "tap-vm2", ("10.1.225.37/24", ""))
    net.link(dhcp, "eth0", host, "tap-dhcp", ("10.1.225.124/24", ""))
    net.link(vm1, "eth1", host, "tap-vm1")
    host.add_bridge("br0", "tap-vm2", "tap-dhcp")
    return host, vm1, vm2


def test_every_request_and_reply_arrives_untouched(
    machines: tuple[Host, Host, Host], sniff: MakeSniffer, daemon: MakeDaemon
) -> None:
    host, vm1, vm2 = machines
    original, received = sniff(vm2, "eth0", "icmp"), sniff(vm1, "eth1", "icmp")
    mirrord = daemon(host, configuration("both"))
    vm2.run("ping", "-c", "5", "-i", "0.2", "10.1.225.124")
    mirrord.stop()

    lines = received.stop().lines()
    assert [" echo request," in line for line in lines] == [True, False] * 5, lines
    assert all("ethertype IPv4 (0x0800), length 98: " in line for line in lines), lines
    assert received.frames() == original.stop().frames()


@pytest.mark.parametrize(("direction", "seen"), [("ingress", ECHO_REPLY), ("egress", ECHO_REQUEST)])
def test_directions_are_the_guests(
    machines: tuple[Host, Host, Host], sniff: MakeSniffer, daemon: MakeDaemon, direction: str, seen: str
) -> None:
    host, vm1, vm2 = machines
    original, received = sniff(vm2, "eth0", seen), sniff(vm1, "eth1", "icmp")
    mirrord = daemon(host, configuration(direction))
    vm2.run("ping", "-c", "2", "-i", "0.2", "10.1.225.124")
    mirrord.stop()
    assert received.stop().frames() == original.stop().frames()
    assert len(received.frames()) == 2


ACROSS = """
[flow_networks."流量网络"]
device = "em02"
addresses = "192.168.29.10-192.168.29.20/24"
gateway = "192.168.29.1"

[mirrors."端口镜像"]
flow_network = "流量网络"
enabled = true

[[mirrors."端口镜像".sessions]]
name = "会话"
source = { type = "device", device = "tap-vm2", perspective = "guest" }
destination = { type = "vxlan", remote = "192.168.29.30", vni = 100 }
"""


def test_across_two_hosts_over_a_flow_network(net: Topology, sniff: MakeSniffer, daemon: MakeDaemon) -> None:
    """VM-1 is on the second host, whose kernel takes the frames out of VXLAN and bridges them to it."""
    one, two, vm1, vm2 = net.host("one"), net.host("two"), net.host("vm1"), net.host("vm2")
    net.link(vm2, "eth0", one, "tap-vm2", ("10.1.225.37/24", "10.1.225.124/24"))
    net.link(one, "em02", two, "em02", ("", "192.168.29.30/24"), mtu=1600)
    net.link(vm1, "eth1", two, "tap-vm1")
    receive_vxlan(two, vni=100)
    two.add_bridge("br0", "vxlan0", "tap-vm1")
    two.run("bridge", "link", "set", "dev", "vxlan0", "learning", "off")  # both ends of each frame come from there
    original, received = sniff(vm2, "eth0", "icmp"), sniff(vm1, "eth1", "icmp")
    outer = sniff(two, "em02", "udp")
    mirrord = daemon(one, ACROSS)
    vm2.run("ping", "-c", "5", "-i", "0.2", "10.1.225.124")
    received.wait_lines(10)
    assert "flow network 流量网络" in ctl(mirrord.socket, "show", "端口镜像")
    assert mirrord.metrics().total("mirrord_session_up", mirror="端口镜像", session="会话") == 1
    ctl(mirrord.socket, "create", "核心")
    assert ctl(mirrord.socket, "set", "核心", "--name", "核心业务") == "核心: renamed to 核心业务\n"
    assert ctl(mirrord.socket, "delete", "核心业务") == "核心业务: deleted\n"
    mirrord.stop()

    lines = received.stop().lines()
    assert [" echo request," in line for line in lines] == [True, False] * 5, lines
    assert all("ethertype IPv4 (0x0800), length 98: " in line for line in lines), lines
    assert received.frames() == original.stop().frames()
    rows = outer.stop().fields("ip.src", "ip.dst", "vxlan.vni", expression="icmp")
    ends = {tuple(value.split(",")[0] for value in row) for row in rows}
    assert ends == {("192.168.29.10", "192.168.29.30", "100")}
