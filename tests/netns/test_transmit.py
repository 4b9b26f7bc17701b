"""How a tunnel's copies leave: by a routed socket or with outer headers of ours, one by one or joined.

client eth0 ---- nic [source] uplink ---- eth0 [collector] vxlan0
"""

from __future__ import annotations

import socket
import struct

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.daemon import Daemon
from tests.support.metrics import Metrics
from tests.support.offload import GSO_TCPV4, NEEDS_CSUM, Offloaded, Offloader
from tests.support.send import udp_frame
from tests.support.topology import Host, Topology, receive_vxlan
from tests.support.wait import wait_for

CONFIGURATION = """
[[mirrors.m.sessions]]
name = "s"
direction = "ingress"
source = "nic"
destination = {{ type = "vxlan", remote = "{remote}", vni = 7, dscp = 46, ttl = 9 }}
transmit = "{transmit}"
gso = "{gso}"
"""
ADDRESSES = {4: ("10.99.0.1/24", "10.99.0.2/24"), 6: ("2001:db8:99::1/64 nodad", "2001:db8:99::2/64 nodad")}
REMOTES = {4: "10.99.0.2", 6: "2001:db8:99::2"}
MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
MSS, SEGMENTS = 1000, 30
TAIL = b"a shorter last one"
PAYLOAD = b"".join(struct.pack("!I", n) * (MSS // 4) for n in range(SEGMENTS)) + TAIL
FLOWS = (1000, 1001, 1002)


def datagram(flow: int, number: int) -> bytes:
    """The number tells the place in its flow; lengths come in runs, with changes in between."""
    length = 60 if number % 7 else 300
    return udp_frame((MACS[0], "10.1.0.1", flow), (MACS[1], "10.1.0.2", 53), number.to_bytes(4, "big"), length=length)


DATAGRAMS = [datagram(flow, number) for number in range(60) for flow in FLOWS]
HEADERS = Ether(src=MACS[0], dst=MACS[1]) / IP(src="10.1.0.1", dst="10.1.0.2", id=1) / TCP(sport=9, dport=80, seq=7)


def segments() -> list[bytes]:
    """What the super-frame is on a wire, by scapy."""
    cut = [PAYLOAD[at : at + MSS] for at in range(0, len(PAYLOAD), MSS)]
    frames = []
    for n, part in enumerate(cut):
        one = HEADERS.copy()
        one[IP].id, one[TCP].seq, one[TCP].flags = 1 + n, 7 + n * MSS, "PA" if n == len(cut) - 1 else "A"
        frames.append(bytes(one / part))
    return frames


def super_frame() -> Offloaded:
    whole = HEADERS.copy()
    whole[TCP].flags = "PA"
    return Offloaded(bytes(whole / PAYLOAD), NEEDS_CSUM, GSO_TCPV4, 54, MSS, 34, 16)


def send_all(client: Host) -> int:
    """Flows in turn, amid them a super-frame; gives the number of frames."""
    middle = len(DATAGRAMS) // 2
    with Offloader(client, "eth0") as out:
        for data in DATAGRAMS[:middle]:
            out.send(Offloaded(data))
        out.send(super_frame())
        for data in DATAGRAMS[middle:]:
            out.send(Offloaded(data))
    return len(DATAGRAMS) + 1


def info(metrics: Metrics, label: str) -> str:
    (labels,) = (dict(labels) for name, labels in metrics if name == "mirrord_session_info")
    return labels[label]


def build(net: Topology, family: int, *, offloads: bool) -> tuple[Host, Host, Host]:
    client, source, collector = net.host("client"), net.host("source", ipv6=True), net.host("collector", ipv6=True)
    net.link(client, "eth0", source, "nic")
    net.link(source, "uplink", collector, "eth0", ADDRESSES[family], mtu=1600, offloads=offloads)
    if not offloads:
        source.run("ethtool", "-K", "uplink", "tx-udp-segmentation", "off")
    receive_vxlan(collector, vni=7, local=REMOTES[family])
    collector.run("ethtool", "-K", "vxlan0", "gro", "off")  # it would join what we cut
    if family == 6:  # a link-local address that is ready, by which the kernel asks for the next hop
        wait_for(lambda: "tentative" not in source.ip("address show dev uplink"), "addresses")
    return client, source, collector


def start(daemon: MakeDaemon, source: Host, family: int, transmit: str, gso: str) -> Daemon:
    made = daemon(source, CONFIGURATION.format(remote=REMOTES[family], transmit=transmit, gso=gso))
    native = made.metrics().select("mirrord_build_info", dataplane="native")
    auto = "packet" if native else "socket: the Python data plane is slower with outer headers of its own"
    expected = auto if transmit == "auto" else transmit
    wait_for(lambda: info(made.metrics(), "transmit") == expected, f"copies leave by {expected}")
    return made


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("transmit", "gso"), [("packet", "off"), ("packet", "on"), ("socket", "on"), ("auto", "auto")])
def test_the_kernel_takes_every_copy(
    net: Topology, daemon: MakeDaemon, sniff: MakeSniffer, dataplane: str, transmit: str, gso: str, family: int
) -> None:
    client, source, collector = build(net, family, offloads=False)
    outer, inner = sniff(collector, "eth0", "udp port 4789"), sniff(collector, "vxlan0", f"ether src {MACS[0]}")
    mirrord = start(daemon, source, family, transmit, gso)
    joined = dataplane == "native" and gso != "off"  # auto too: the device leaves cutting to the kernel
    assert info(mirrord.metrics(), "gso").startswith("on" if joined else "off")
    metrics = mirrord.settle(send_all(client))
    mirrord.stop()

    arrived = inner.stop().frames()
    assert [one for one in arrived if one[23] == socket.IPPROTO_TCP] == segments()
    for flow in FLOWS:
        ours = [one for one in DATAGRAMS if int.from_bytes(one[34:36], "big") == flow]
        assert [one for one in arrived if one[23] == 17 and int.from_bytes(one[34:36], "big") == flow] == ours
    sizes = [len(packet) for packet in outer.stop().frames()]
    assert metrics.total("mirrord_sent_bytes_total") == sum(sizes)
    assert metrics.total("mirrord_sent_packets_total") == len(sizes) == len(arrived)
    checks = ("-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE", "-d", "udp.port==4789,data")
    bad = "udp.checksum.status == 0 || ip.checksum.status == 0 || _ws.malformed"
    assert outer.tshark(*checks, expression=bad) == ""
    v4 = ("ip.dsfield.dscp", "ip.ttl", "ip.flags.df")
    fields = v4 if family == 4 else ("ipv6.tclass.dscp", "ipv6.hlim")
    assert {tuple(v.split(",")[0] for v in row) for row in outer.fields(*fields)} <= {("46", "9", "1"), ("46", "9")}
    ports = {int(row[0].split(",")[0]) for row in outer.fields("udp.srcport")}
    assert min(ports) >= 49152
    assert len(ports) <= len(FLOWS) + 1


@pytest.mark.parametrize("transmit", ["packet", "socket"])
def test_joined_copies_never_reach_a_tap_but_where_asked_for(
    net: Topology, daemon: MakeDaemon, sniff: MakeSniffer, dataplane: str, transmit: str
) -> None:
    client, source, collector = build(net, 4, offloads=True)
    tap = sniff(collector, "eth0", "udp port 4789", snaplen=65600)
    mirrord = start(daemon, source, 4, transmit, "auto")
    assert info(mirrord.metrics(), "gso") in {
        "off: the far side of uplink would see copies joined",
        "off: the native data plane's alone",
    }
    count = send_all(client)
    mirrord.settle(count)
    copies = len(DATAGRAMS) + len(segments())
    assert len(tap.wait_lines(copies)) == copies

    mirrord.file.write_text(mirrord.file.read_text().replace('gso = "auto"', 'gso = "on"'))
    mirrord.reload()
    wait_for(lambda: dataplane == "python" or info(mirrord.metrics(), "gso") == "on", "copies are joined")
    metrics = mirrord.settle(count + send_all(client))
    assert metrics.total("mirrord_sent_packets_total") == 2 * copies
    longest = max(map(len, tap.stop().frames()))
    assert longest > 20_000 if dataplane == "native" else longest < 1600


def test_a_next_hop_that_changes_its_address_loses_nothing(
    net: Topology, daemon: MakeDaemon, sniff: MakeSniffer, dataplane: str
) -> None:
    client, source, collector = build(net, 4, offloads=False)
    outer = sniff(collector, "eth0", "udp port 4789")
    mirrord = start(daemon, source, 4, "auto" if dataplane == "native" else "packet", "off")
    macs = ("02:00:00:00:00:aa", "02:00:00:00:00:bb")
    sent = 0
    for mac in macs:
        source.ip(f"neighbour replace 10.99.0.2 lladdr {mac} dev uplink")

        def followed(mac: str = mac) -> bool:
            nonlocal sent
            sent += send_all(client)
            mirrord.settle(sent)
            return bool(outer.lines(f"ether dst {mac}"))

        wait_for(followed, f"copies to {mac}")
        sent += send_all(client)  # and those of every flow
        mirrord.settle(sent)
    ports = [{packet[34:36] for packet in outer.frames(f"ether dst {mac}")} for mac in macs]
    assert ports[1] <= ports[0]  # the same sockets keep them
    if dataplane == "native":
        source.ip("rule add fwmark 0x7 table 100")
        by_socket = "socket: a routing rule looks at the mark"
    else:
        mirrord.file.write_text(mirrord.file.read_text().replace('transmit = "packet"', 'transmit = "socket"'))
        mirrord.reload()
        by_socket = "socket"
    wait_for(lambda: info(mirrord.metrics(), "transmit") == by_socket, "a socket")
    sent += send_all(client)
    metrics = mirrord.settle(sent)
    assert metrics.total("mirrord_mirrored_frames_total") == metrics.total("mirrord_captured_frames_total") == sent
    seen = outer.stop().frames()
    assert metrics.total("mirrord_sent_packets_total") == len(seen)


def test_a_next_hop_that_does_not_answer_is_waited_for(net: Topology, daemon: MakeDaemon) -> None:
    client, source, collector = build(net, 4, offloads=False)
    collector.ip("address delete 10.99.0.2/24 dev eth0")
    mirrord = daemon(source, CONFIGURATION.format(remote=REMOTES[4], transmit="packet", gso="auto"), up=False)
    wait_for(lambda: info(mirrord.metrics(), "state") == "failed", "the session has nowhere to send to")
    assert info(mirrord.metrics(), "reason") == "the next hop to 10.99.0.2 does not answer"
    collector.ip("address add 10.99.0.2/24 dev eth0")
    mirrord.wait_up()
    mirrord.settle(send_all(client))
