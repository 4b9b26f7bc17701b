"""Rules on MAC addresses, lengths, DSCP, TCP flags and ICMP, on the traffic of real programs, beside tcpdump's filters.

client eth0 ---- nic [source], which writes files
"""

from __future__ import annotations

import socket
from pathlib import Path

from scapy.utils import RawPcapNgReader

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.topology import Host, Topology, acquaint

CLIENT, SOURCE = "10.0.0.1", "10.0.0.2"
MATCHES = {
    'protocol = "tcp", tcp_flags = "syn,!ack"': "tcp[tcpflags] & (tcp-syn|tcp-ack) = tcp-syn",
    'protocol = "tcp", tcp_flags = ["fin", "rst"]': "tcp[tcpflags] & (tcp-fin|tcp-rst) != 0",
    'protocol = "tcp", tcp_flags = "psh", length = "-70"': "tcp[tcpflags] & tcp-push != 0 and less 70",
    'protocol = "icmp", icmp_type = 8': "icmp[0] = 8",
    'protocol = "icmp", icmp_type = [3, 0], icmp_code = 3': "icmp[0] = 3 and icmp[1] = 3",
    "dscp = 46": "ip[1] & 0xfc = 0xb8",
    'dscp = 0, family = "ipv4"': "ip[1] & 0xfc = 0",
    'length = "400-"': "greater 400",
    'length = ["48", "98-142"]': "len = 48 or (len >= 98 and len <= 142)",
    'destination_mac = "{nic}"': "ether dst {nic}",
    'source_mac = ["{nic}", "02:00:00:00:00:99"]': "ether src {nic}",
    'destination_mac = "ff:ff:ff:ff:ff:ff"': "ether broadcast",
}


def traffic(client: Host, source: Host) -> None:
    """Connections that end, and one that is refused, pings of sizes and classes, an unwanted datagram, a broadcast."""
    client.run("ping", "-c", "2", "-i", "0.01", SOURCE)
    client.run("ping", "-c", "2", "-i", "0.01", "-Q", "0xb8", "-s", "600", SOURCE)
    client.run("ping", "-c", "1", "-Q", "0xbb", "-s", "60", SOURCE)
    with source.open_socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.bind((SOURCE, 80))
        listening.listen()
        for payload in (b"x", b"y" * 300):
            with client.open_socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
                connection.connect((SOURCE, 80))
                connection.sendall(payload)
                peer, _ = listening.accept()
                with peer:
                    assert peer.recv(1000) == payload
    with client.open_socket(socket.AF_INET, socket.SOCK_STREAM) as refused:
        assert refused.connect_ex((SOURCE, 81))
    with client.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as unheard:
        unheard.sendto(b"nobody", (SOURCE, 9))
    client.run("ping", "-b", "-c", "1", "-W", "0.1", "10.0.0.255", check=False)


def test_each_rule_takes_what_tcpdump_does(
    net: Topology, daemon: MakeDaemon, sniff: MakeSniffer, tmp_path: Path
) -> None:
    """By the program that the kernel runs, and by the exact match behind it, which counts."""
    client, source = net.host("client"), net.host("source")
    net.link(client, "eth0", source, "nic", (f"{CLIENT}/24", f"{SOURCE}/24"), offloads=False)
    acquaint(client, "eth0", CLIENT, source, "nic", SOURCE)
    nic, configuration = source.mac("nic"), ""
    for n, keys in enumerate(MATCHES):
        match = keys.format(nic=nic)
        configuration += f'[filters.f{n}]\nrules = [{{ priority = 1, action = "accept", {match} }}]\n'
        for counted in ("true", "false"):
            configuration += f"""
[[mirrors.m.sessions]]
name = "s{n}-{counted}"
source = "nic"
filter = "f{n}"
count_rules = {counted}
destination = {{ type = "file", path = "{tmp_path}/{n}-{counted}.pcapng" }}
"""
    mirrord = daemon(source, configuration, capture_directories=[str(tmp_path)])
    everything = sniff(source, "nic")
    traffic(client, source)
    everything.stop()
    expected = [everything.frames(expression.format(nic=nic)) for expression in MATCHES.values()]
    assert all(expected)
    mirrord.settle(2 * sum(map(len, expected)))
    for n, frames in enumerate(expected):
        for counted in ("true", "false"):
            with RawPcapNgReader(str(tmp_path / f"{n}-{counted}.pcapng")) as written:
                assert [data for data, _ in written] == frames, (list(MATCHES)[n], counted)
    metrics = mirrord.metrics()
    for n, frames in enumerate(expected):
        assert metrics.total("mirrord_rule_matched_frames_total", filter=f"f{n}") == len(frames)
