"""Copies that leave one by one from a TX ring, where the device takes them out of it: an ifb does, as a NIC would.

client eth0 ---- nic [source] out (ifb)
"""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.daemon import Daemon
from tests.support.send import ENDS, send, udp_frame
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
REMOTES = {4: "10.99.0.2", 6: "2001:db8:99::2"}
TO_DEVICE = '{ type = "device", device = "out" }'
TO_VXLAN = '{{ type = "vxlan", remote = "{}", vni = 7 }}'
DESTINATIONS = {"device": TO_DEVICE, **{f"IPv{family}": TO_VXLAN.format(at) for family, at in REMOTES.items()}}
SLOW = ("tbf", "rate", "200kbit", "burst", "4kb", "limit", "8kb")
COUNT = 700  # more than a ring has slots, so that each is used again
SESSION = """
[[mirrors.m.sessions]]
name = "s"
direction = "ingress"
source = "nic"
destination = {destination}
transmit = "{transmit}"
gso = "off"
capture = "ring"
"""


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host]:
    client, source = net.host("client"), net.host("source", ipv6=True)
    net.link(client, "eth0", source, "nic")
    source.ip("link add out mtu 1600 type ifb")
    source.ip("link set out up")
    for address, remote in (("10.99.0.1/24", REMOTES[4]), ("2001:db8:99::1/64", REMOTES[6])):
        source.ip(f"address add {address} dev out")
        source.ip(f"neighbour add {remote} lladdr {MACS[1]} dev out")
    wait_for(lambda: "tentative" not in source.ip("address show dev out"), "addresses")
    return client, source


def frame(number: int, length: int) -> bytes:
    """Of one of five flows in turn."""
    ends = (MACS[0], "10.1.0.1", 1000 + number % 5), (MACS[1], "10.1.0.2", 53)
    return udp_frame(*ends, number.to_bytes(4, "big"), length=length)


def send_each(client: Host, frames: list[bytes]) -> None:
    with client.open_socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind(("eth0", 0))
        for one in frames:
            out.send(one)


def start(daemon: MakeDaemon, source: Host, destination: str, dataplane: str) -> Daemon:
    transmit = "auto" if destination == TO_DEVICE else "packet"
    mirrord = daemon(source, SESSION.format(destination=destination, transmit=transmit))
    rings = Path(f"/proc/{mirrord.pid}/maps").read_text().count("socket:[")
    assert rings == (2 if dataplane == "native" else 1)  # one to capture, and one to transmit
    return mirrord


@pytest.mark.parametrize("way", DESTINATIONS)
def test_every_copy_leaves_whole_and_in_order(
    hosts: tuple[Host, Host], daemon: MakeDaemon, sniff: MakeSniffer, dataplane: str, way: str
) -> None:
    client, source = hosts
    tap = sniff(source, "out", f"ether src {MACS[0]}" if way == "device" else "udp port 4789")
    mirrord = start(daemon, source, DESTINATIONS[way], dataplane)
    sent = [frame(number, 60 + number % 1400) for number in range(COUNT)]
    send_each(client, sent)
    metrics = mirrord.settle(COUNT)
    seen = tap.stop()
    headers = {"device": 0, "IPv4": 50, "IPv6": 70}[way]
    assert [packet[headers:] for packet in seen.frames()] == sent
    assert metrics.total("mirrord_mirrored_frames_total") == COUNT
    assert metrics.total("mirrord_sent_bytes_total") == sum(map(len, seen.frames()))
    checks = ("-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE")
    assert seen.tshark(*checks, expression="ip.checksum.status == 0 || _ws.malformed") == ""
    if way == "IPv6":
        assert len(seen.fields("udp.checksum", expression="ipv6 && udp.checksum != 0")) == COUNT


def test_zeros_are_put_where_payload_was(
    hosts: tuple[Host, Host], daemon: MakeDaemon, sniff: MakeSniffer, dataplane: str
) -> None:
    client, source = hosts
    tap = sniff(source, "out", f"ether src {MACS[0]}")
    mirrord = start(daemon, source, f'{TO_DEVICE}\npayload = "zero"', dataplane)
    secret = b"attack at dawn" * 90
    sent = [udp_frame(*ENDS, secret[: 5 + n % 1200]) for n in range(COUNT)]
    send_each(client, sent)
    mirrord.settle(COUNT)
    seen = tap.stop()
    assert seen.frames() == [udp_frame(*ENDS, bytes(5 + n % 1200)) for n in range(COUNT)]


@pytest.mark.parametrize("way", ["device", "IPv4"])
def test_what_the_queue_drops_is_counted(
    hosts: tuple[Host, Host], daemon: MakeDaemon, dataplane: str, way: str
) -> None:
    client, source = hosts
    mirrord = start(daemon, source, DESTINATIONS[way], dataplane)
    source.run("tc", "qdisc", "replace", "dev", "out", "root", *SLOW)
    send(client, "eth0", frame(0, 1000), 200)
    metrics = mirrord.settle(200)
    said = source.run("tc", "-s", "qdisc", "show", "dev", "out")
    dropped = int(re.findall(r"dropped (\d+)", said)[0])
    lost = metrics.total("mirrord_dropped_frames_total", reason="send_error")
    assert lost > 100
    assert metrics.total("mirrord_mirrored_frames_total") == 200 - lost
    assert dropped >= lost  # a copy may be tried more than once
    assert metrics.unaccounted() == 0


def test_a_device_that_goes_down_and_comes_back(hosts: tuple[Host, Host], daemon: MakeDaemon, dataplane: str) -> None:
    client, source = hosts
    mirrord = start(daemon, source, TO_DEVICE, dataplane)
    source.ip("link set out down")
    send(client, "eth0", frame(0, 100), 10)
    assert mirrord.settle(10).total("mirrord_dropped_frames_total", reason="link_down") == 10
    wait_for(lambda: mirrord.metrics().total("mirrord_session_up") == 0, "the session says so")
    source.ip("link set out up")
    mirrord.wait_up()
    send(client, "eth0", frame(1, 100), 600)
    assert mirrord.settle(610).total("mirrord_mirrored_frames_total") == 600


@pytest.mark.parametrize("way", ["device", "IPv4"])
def test_a_copy_too_long_for_a_slot_leaves_in_its_turn(
    hosts: tuple[Host, Host], daemon: MakeDaemon, sniff: MakeSniffer, dataplane: str, way: str
) -> None:
    client, source = hosts
    source.ip("link set out mtu 1500")
    mirrord = start(daemon, source, DESTINATIONS[way], dataplane)
    headers = {"device": 0, "IPv4": 50}[way]
    for host, device in ((client, "eth0"), (source, "nic"), (source, "out")):
        host.ip(f"link set {device} mtu 4000")
    tap = sniff(source, "out", f"ether src {MACS[0]}" if way == "device" else "udp port 4789", snaplen=5000)
    sent = [frame(number, 3900 if number % 3 else 100) for number in range(30)]

    def long_ones_fit() -> bool:  # the daemon hears of the MTU soon
        send(client, "eth0", frame(0, 3900))
        return any(len(one) == headers + 3900 for one in tap.frames())

    wait_for(long_ones_fit, "a long copy")
    before = len(tap.frames())
    send_each(client, sent)
    wait_for(lambda: len(tap.frames()) >= before + 30, "all copies")
    assert [packet[headers:] for packet in tap.stop().frames()[before:]] == sent
    assert mirrord.metrics().unaccounted() == 0
