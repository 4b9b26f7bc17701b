"""A bridge as source: every frame that enters or leaves it, once, by whatever way it came.

g1, g2, g3, g4 (eth0) ---- p1, p2, p3, p4 [host: br0, with an address] sensor ---- eth0 [sensor]
"""

from __future__ import annotations

from collections import Counter

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.daemon import Daemon
from tests.support.send import send
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

CONFIGURATION = """
[[mirrors.m.sessions]]
name = "all"
source = { type = "bridge", bridge = "br0" }
destination = { type = "device", device = "sensor" }
"""


def bridge(net: Topology) -> tuple[Host, Host]:
    """The host and its sensor."""
    host, sensor = net.host("host"), net.host("sensor")
    host.add_bridge("br0")
    host.ip("address add 10.0.0.254/24 dev br0")
    net.link(host, "sensor", sensor, "eth0")
    return host, sensor


def plug(net: Topology, host: Host, number: int) -> Host:
    guest = net.host(f"g{number}")
    net.link(guest, "eth0", host, f"p{number}", (f"10.0.0.{number}/24", ""))
    host.ip(f"link set dev p{number} master br0")
    return guest


def datagram(source: str, destination: str, number: int) -> bytes:
    layers = (
        Ether(src=source, dst=destination) / IP(src="192.0.2.1", dst="192.0.2.2", id=number) / UDP(sport=9, dport=9)
    )
    return bytes(layers / b"discard".ljust(18, b"."))


def test_unicast_broadcast_and_multicast_are_copied_once(net: Topology, sniff: MakeSniffer, daemon: MakeDaemon) -> None:
    host, sensor = bridge(net)
    guests = {number: plug(net, host, number) for number in (1, 2, 3, 4)}
    entered = [sniff(guest, "eth0", f"ether src {guest.mac('eth0')}") for guest in guests.values()]
    entered.append(sniff(host, "br0", f"ether src {host.mac('br0')}"))
    received = sniff(sensor, "eth0")
    mirrord = daemon(host, CONFIGURATION)

    senders = [(guest, "eth0", guest.mac("eth0")) for guest in guests.values()] + [(host, "br0", host.mac("br0"))]
    everyone = [mac for _, _, mac in senders]
    everyone += ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:fb", "02:00:00:00:99:99"]  # the last one nobody has
    for number in range(3):
        for sender, device, own in senders:
            for destination in everyone:
                if destination != own:
                    send(sender, device, datagram(own, destination, number))
    guests[1].run("ping", "-c", "2", "-i", "0.2", "10.0.0.3")
    guests[2].run("ping", "-c", "2", "-i", "0.2", "10.0.0.254")
    host.run("ping", "-c", "2", "-i", "0.2", "10.0.0.4")
    mirrord.stop()

    sent = (
        "udp port 9 or icmp"  # ARP and IGMP are sent when a host likes, before the daemon's start and after its end too
    )
    expected = Counter(frame for sniffer in entered for frame in sniffer.stop().frames(sent))
    assert sum(expected.values()) == 3 * 5 * 7 + 3 * 4
    assert Counter(received.stop().frames(sent)) == expected


def test_ports_come_and_go(net: Topology, sniff: MakeSniffer, daemon: MakeDaemon) -> None:
    host, sensor = bridge(net)
    plug(net, host, 1)
    received = sniff(sensor, "eth0", "udp port 9")
    mirrord = daemon(host, CONFIGURATION)

    late = plug(net, host, 2)
    wait_for(lambda: ups(mirrord).get("p2") == 1, "the new port mirrored")
    frames = [datagram(late.mac("eth0"), "ff:ff:ff:ff:ff:ff", n) for n in range(3)]
    send(late, "eth0", frames[0])
    received.wait_lines(1)
    host.ip("link set dev p2 nomaster")
    wait_for(lambda: "p2" not in ups(mirrord), "the port given up")
    send(late, "eth0", frames[1])
    host.ip("link set dev p2 master br0")
    wait_for(lambda: ups(mirrord).get("p2") == 1, "the port mirrored again")
    send(late, "eth0", frames[2])
    received.wait_lines(2)
    host.ip("link delete br0")
    wait_for(lambda: ups(mirrord) == {"br0": 0}, "the session waiting for the bridge")
    mirrord.stop()
    assert received.stop().frames() == [frames[0], frames[2]]


def ups(mirrord: Daemon) -> dict[str, float]:
    """What is mirrored, by device: 1 running, 0 waiting."""
    samples = mirrord.metrics().select("mirrord_session_up")
    return {dict(labels)["source"]: value for (_, labels), value in samples.items()}
