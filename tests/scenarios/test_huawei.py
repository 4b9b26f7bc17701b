"""Document 001: the inbound TCP traffic of one NIC, by filter, in VXLAN to a collector.

client .161 ----+
source .230 ----+---- one subnet; the copies leave by the NIC that is mirrored
collector .164 -+
"""

from __future__ import annotations

import re

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.huawei import CONFIGURATION, connect, lan
from tests.support.sniffer import Sniffer
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

OUTER = 50  # Ethernet, IPv4, UDP and VXLAN headers: RFC 7348, section 5


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host, Host]:
    return lan(net, offloads=False)  # a frame's bytes are final when it is captured


def converse(client: Host, source: Host, port: int) -> None:
    """The client says 12345 to a port of the source, and gets an answer."""
    caller, server = connect(client, source, port)
    caller.write("12345\n")
    wait_for(lambda: server.output() == "12345\n", "nc has received 12345")
    server.write("answer\n")
    wait_for(lambda: caller.output() == "answer\n", "the client has its answer")
    caller.stop()
    server.wait(10)  # it ends with the connection


def sent_to_1234(source: Host, sniff: MakeSniffer) -> Sniffer:
    return sniff(source, "eth0", "tcp and src host 192.168.0.161 and dst host 192.168.0.230 and dst port 1234")


def test_the_documents_packet_arrives_to_the_byte(
    hosts: tuple[Host, Host, Host], sniff: MakeSniffer, daemon: MakeDaemon
) -> None:
    client, source, collector = hosts
    original, copies = sent_to_1234(source, sniff), sniff(collector, "eth0", "udp port 4789")
    mirrord = daemon(source, CONFIGURATION)

    converse(client, source, 1234)
    converse(client, source, 1235)
    client.run("ping", "-c", "1", "192.168.0.230")

    count = len(original.stop().lines())
    metrics = mirrord.settle(captured=count)
    mirrord.stop()
    lines = copies.stop().lines()

    expected = re.compile(
        rf"{source.mac('eth0')} > {collector.mac('eth0')}, ethertype IPv4 \(0x0800\), length 122: "
        r"192\.168\.0\.230\.(\d+) > 192\.168\.0\.164\.4789: VXLAN, flags \[I\] \(0x08\), vni 1 "
        rf"{client.mac('eth0')} > {source.mac('eth0')}, ethertype IPv4 \(0x0800\), length 72: "
        r"192\.168\.0\.161\.\d+ > 192\.168\.0\.230\.1234: Flags \[P\.\], .*, length 6"
    )
    found = [match for line in lines if (match := expected.fullmatch(line))]
    assert len(found) == 1, lines
    assert 49152 <= int(found[0][1]) <= 65535

    ports = {line.split(" > ")[1].split(".")[-1] for line in lines}
    assert ports == {found[0][1]}, "one conversation, one outer source port"

    # All that the client sent to the port, nothing of the replies, nothing of the other port, each byte as it was.
    assert [frame[OUTER:] for frame in copies.frames()] == original.frames()
    assert metrics.total("mirrord_mirrored_frames_total", mirror="core", session="source", source="eth0") == count
    assert metrics.total("mirrord_sent_packets_total") == count
    assert metrics.total("mirrord_sent_bytes_total") == sum(map(len, copies.frames()))


def test_the_daemon_drains_says_its_totals_and_ends_well(
    hosts: tuple[Host, Host, Host], sniff: MakeSniffer, daemon: MakeDaemon
) -> None:
    client, source, collector = hosts
    original, copies = sent_to_1234(source, sniff), sniff(collector, "eth0", "udp port 4789")
    mirrord = daemon(source, CONFIGURATION)
    converse(client, source, 1234)
    status, said = mirrord.stop()  # at once: what was captured before is still sent
    assert status == 0, said
    assert len(copies.stop().lines()) == len(original.stop().lines())
    assert "core" in said
