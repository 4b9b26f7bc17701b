"""Document 003: output to a VLAN, a VLAN selected, a whole bridge selected (select_all), and clear.

ns1 tap1 ---- p1 [br0] p2 ---- tap2 ns2
              | output to VLAN 111
             trunk ---- trunk [br1] p4 ---- tap4 ns4
"""

from __future__ import annotations

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.daemon import Daemon
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

OUTPUT_VLAN = """
[[mirrors.m1.sessions]]
name = "tap1"
direction = "ingress"
source = { type = "device", device = "p1" }
destination = { type = "device", device = "trunk", vlan = 111 }
"""
SELECT_VLAN = """
[[mirrors.m2.sessions]]
name = "tap4"
source = { type = "bridge", bridge = "br0", vlan = 111 }
destination = { type = "device", device = "p4" }
"""
SELECT_ALL = """
[[mirrors.m0.sessions]]
name = "br0"
source = { type = "bridge", bridge = "br0" }
destination = { type = "device", device = "p3" }
"""


def switch(net: Topology, label: str) -> Host:
    """A host with a bridge `br0`."""
    host = net.host(label)
    host.add_bridge("br0")
    return host


def plug(net: Topology, host: Host, number: int, address: str = "") -> Host:
    """A namespace whose tap is the bridge's port of the same number."""
    made = net.host(f"ns{number}")
    net.link(made, f"tap{number}", host, f"p{number}", (address, ""))
    host.ip(f"link set dev p{number} master br0")
    return made


def clear(mirrord: Daemon) -> None:
    """`ovs-vsctl clear bridge br0 mirrors`: the configuration without its mirrors."""
    text = mirrord.file.read_text()
    mirrord.file.write_text(text[: text.index("[[mirrors")])
    mirrord.reload()
    wait_for(lambda: not mirrord.metrics().select("mirrord_session_up"), "no session left")


def test_output_to_a_vlan_and_the_vlan_selected_with_its_tag_stripped(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon
) -> None:
    br0, br1 = switch(net, "br0"), switch(net, "br1")
    ns1, _ = plug(net, br0, 1, "10.10.10.11/24"), plug(net, br0, 2, "10.10.10.12/24")
    ns4 = plug(net, br1, 4)
    net.link(br0, "trunk", br1, "trunk")
    br1.ip("link set dev trunk master br0")
    br1.run("bridge", "link", "set", "dev", "trunk", "learning", "off")  # flood_vlans = 111
    br1.run("bridge", "link", "set", "dev", "p4", "learning", "off", "flood", "off", "bcast_flood", "off")
    trunk, received = sniff(br1, "trunk", "vlan 111 and icmp"), sniff(ns4, "tap4", "icmp")
    daemons = [daemon(br0, OUTPUT_VLAN), daemon(br1, SELECT_VLAN)]

    ns1.run("ping", "-c", "2", "-i", "0.2", "10.10.10.12")
    carried, lines = trunk.wait_lines(2), received.wait_lines(2)
    for mirrord in daemons:
        assert "learns addresses" not in mirrord.output()
        clear(mirrord)
    ns1.run("ping", "-c", "2", "-i", "0.2", "10.10.10.12")
    for mirrord in daemons:
        mirrord.stop()

    echo = "10.10.10.11 > 10.10.10.12: ICMP echo request"
    assert all(f"802.1Q (0x8100), length 102: vlan 111, p 0, ethertype IPv4 (0x0800), {echo}" in one for one in carried)
    assert all(f"ethertype IPv4 (0x0800), length 98: {echo}" in line for line in lines)
    assert len(lines) == 2
    assert received.stop().lines() == lines  # cleared, nothing comes any more
    assert trunk.lines() == carried


def test_all_of_a_bridge_is_selected(net: Topology, sniff: MakeSniffer, daemon: MakeDaemon) -> None:
    host = switch(net, "br0")
    host.ip("address add 10.10.10.1/24 dev br0")
    ns1, ns2 = plug(net, host, 1, "10.10.10.11/24"), plug(net, host, 2, "10.10.10.12/24")
    ns3 = plug(net, host, 3)  # where the mirror goes: a port of the same bridge
    received = sniff(ns3, "tap3", "icmp")
    mirrord = daemon(host, SELECT_ALL)
    assert "bridge link set dev p3 learning off" in mirrord.output()

    ns1.run("ping", "-c", "2", "-i", "0.2", "10.10.10.12")
    ns2.run("ping", "-c", "2", "-i", "0.2", "10.10.10.1")
    lines = received.wait_lines(8)
    clear(mirrord)
    ns1.run("ping", "-c", "2", "-i", "0.2", "10.10.10.12")
    mirrord.stop()

    assert received.stop().lines() == lines
    assert len(lines) == 8, lines
    assert all("ethertype IPv4 (0x0800), length 98: " in line for line in lines), lines
    pairs = [("11", "12"), ("12", "11")] * 2 + [("12", "1"), ("1", "12")] * 2
    for source, destination in pairs:
        assert sum(f" 10.10.10.{source} > 10.10.10.{destination}: ICMP echo" in line for line in lines) == 2
