"""The outer headers of a copy, over IPv4 and IPv6, as tshark reads them; and a kernel vxlan device takes them.

client eth0 ---- nic [source] uplink ---- eth0 [collector] vxlan0
"""

from __future__ import annotations

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.api import Api
from tests.support.daemon import Daemon
from tests.support.send import send, udp_frame
from tests.support.topology import Topology, receive_vxlan

CONFIGURATION = """
[[mirrors.m.sessions]]
name = "s"
direction = "ingress"
source = "nic"
destination = {{ type = "vxlan", remote = "{remote}", vni = 7, local = "{local}", dscp = 46, ttl = 9 }}
"""
FRAMES = [
    udp_frame(("02:00:00:00:00:01", "10.1.0.1", 1000 + n), ("02:00:00:00:00:02", "10.1.0.2", 2000), bytes([n]) * n)
    for n in (0, 1, 2, 17, 255)
]


@pytest.mark.parametrize(
    ("default", "local", "remote", "length", "fields"),
    [
        ("10.99.0.1", "10.99.0.7", "10.99.0.2", 24, ("ip.src", "ip.dst", "ip.dsfield.dscp", "ip.ttl")),
        (
            "2001:db8:99::1",
            "2001:db8:99::7",
            "2001:db8:99::2",
            64,
            ("ipv6.src", "ipv6.dst", "ipv6.tclass.dscp", "ipv6.hlim"),
        ),
    ],
    ids=["ipv4", "ipv6"],
)
def test_outer_headers_are_as_configured_and_the_kernel_takes_them(
    net: Topology,
    daemon: MakeDaemon,
    sniff: MakeSniffer,
    default: str,
    local: str,
    remote: str,
    length: int,
    fields: tuple[str, ...],
) -> None:
    v6 = ":" in remote
    nodad = " nodad" if v6 else ""
    client, source, collector = net.host("client"), net.host("source", ipv6=True), net.host("collector", ipv6=True)
    net.link(client, "eth0", source, "nic")
    # Offloads off: a checksum that is left to the device would look wrong at the collector.
    addresses = (f"{default}/{length}{nodad}", f"{remote}/{length}{nodad}")
    net.link(source, "uplink", collector, "eth0", addresses, mtu=1600, offloads=False)
    source.ip(f"address add {local}/{length}{nodad} dev uplink")
    receive_vxlan(collector, vni=7, local=remote)
    outer, inner = sniff(collector, "eth0", "udp port 4789"), sniff(collector, "vxlan0", "ether src 02:00:00:00:00:01")
    mirrord = daemon(source, CONFIGURATION.format(remote=remote, local=local))

    for frame in FRAMES:
        send(client, "eth0", frame)
    metrics = mirrord.settle(len(FRAMES))
    mirrord.stop()

    assert inner.stop().frames() == FRAMES
    outer.stop()
    rows = [[value.split(",")[0] for value in row] for row in outer.fields(*fields)]  # the outermost of each
    assert rows == [[local, remote, "46", "9"]] * len(FRAMES)
    options = ("-o", "udp.check_checksum:TRUE", "-T", "fields", "-e", "udp.checksum.status", "-e", "udp.checksum")
    for line in outer.tshark(*options).splitlines():
        status, checksum = (value.split(",")[0] for value in line.split("\t"))
        assert (status == "1" and checksum != "0x0000") if v6 else checksum == "0x0000", line
    sizes = [len(packet) for packet in outer.frames()]
    assert metrics.total("mirrord_sent_bytes_total") == sum(sizes)
    assert sizes == [len(frame) + (14 + 40 if v6 else 14 + 20) + 8 + 8 for frame in FRAMES]


@pytest.mark.parametrize(
    ("own", "group", "hops"),
    [("10.99.0.1/24", "239.1.1.7", "ip.ttl"), ("2001:db8::1/64 nodad", "ff05::7", "ipv6.hlim")],
)
def test_copies_to_a_group_travel_as_far_as_configured(
    net: Topology, daemon: MakeDaemon, sniff: MakeSniffer, own: str, group: str, hops: str
) -> None:
    client, source, collector = net.host("client"), net.host("source", ipv6=True), net.host("collector", ipv6=True)
    net.link(client, "eth0", source, "nic")
    net.link(source, "uplink", collector, "eth0", (own, ""), mtu=1600)
    if ":" in group:  # each device has a route to ff00::/8: this one is longer
        source.ip("-6 route add multicast ff05::/16 dev uplink table local")
    else:
        source.ip("route add 239.0.0.0/8 dev uplink")
    outer = sniff(collector, "eth0", f"udp port 4789 and dst host {group}")
    mirrord = daemon(source, CONFIGURATION.format(remote=group, local=own.split("/", maxsplit=1)[0]))
    for frame in FRAMES:
        send(client, "eth0", frame)
    metrics = mirrord.settle(len(FRAMES))
    outer.stop()
    assert [row[0].split(",")[0] for row in outer.fields(hops)] == ["9"] * len(FRAMES), dict(metrics)


@pytest.mark.parametrize("dataplane", ["native"])
def test_who_cannot_send_says_why_and_waits_for_its_address(net: Topology, daemon: MakeDaemon) -> None:
    source, collector = net.host("source"), net.host("collector")
    net.link(source, "uplink", collector, "eth0", ("10.99.0.1/24", "10.99.0.2/24"))
    toml = CONFIGURATION.replace("nic", "uplink")
    mirrord = daemon(source, toml.format(remote="10.99.0.2", local="10.99.0.7"), up=False)
    why = "10.99.0.7 is not an address of this host: no copies can be sent from it"
    assert told(mirrord) == ("waiting", why)
    source.ip("address add 10.99.0.7/24 dev uplink")
    mirrord.wait_up()
    text = mirrord.file.read_text()
    for remote, state, why in (
        ("10.99.0.255", "failed", "10.99.0.255 is a broadcast address, or a route prohibits sending there"),
        ("203.0.113.9", "waiting", "no route to 203.0.113.9"),
        ("2001:db8::2", "waiting", "this host has no address to send to 2001:db8::2 from"),
    ):
        mirrord.file.write_text(text.replace("10.99.0.2", remote).replace('local = "10.99.0.7", ', ""))
        assert Api(mirrord.socket)("POST", "reload").status == 200
        assert told(mirrord) == (state, why)


def told(mirrord: Daemon) -> tuple[str, str]:
    (session,) = Api(mirrord.socket)("GET", "status").body["sessions"]
    return session["state"], session["reason"]
