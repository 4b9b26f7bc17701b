"""`payload = "zero"`: what the hosts say to each other arrives between them, and in no copy, whichever way it leaves.

client eth0 ---- nic [source] uplink ---- eth0 [collector]
                       [source] probe ---- eth1 [collector]

TCP in super-frames both ways, UDP in datagrams and fragments, SCTP and echoes, with checksums that the devices are to
make; to a collector by VXLAN, out of a device, into a file and to a live capture.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP, SCTPChunkData

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.ctl import COMMAND
from tests.support.send import send
from tests.support.sniffer import Recording
from tests.support.source import SPAN, VXLAN
from tests.support.topology import Host, Topology, receive_vxlan
from tests.support.wait import wait_for

ADDRESSES = {4: ("10.1.0.1", "10.1.0.2"), 6: ("2001:db8:1::1", "2001:db8:1::2")}
SECRET = b"the eagle lands at dawn "
STREAM = SECRET * 10_000
CHECKS = [part for layer in ("ip", "tcp", "udp") for part in ("-o", f"{layer}.check_checksum:TRUE")]
CHECKS += ["-o", "sctp.checksum:CRC32C"]
WRONG = " || ".join(f"{layer}.checksum.status == 0" for layer in ("ip", "tcp", "udp", "icmp", "icmpv6", "sctp"))
# That of what came in fragments is in one, and stays. The kernel writes 0xFFFF for 0 in TCP, too (skb_checksum_help).
WRONG = f"({WRONG}) && !ip.fragments && !ipv6.fragments && !(tcp.checksum == 0xffff)"


def sessions(file: Path) -> str:
    ways = {
        "vxlan": f"{VXLAN}\ngso = 'on'",
        "device": SPAN.replace("uplink", "probe"),
        "file": f'{{ type = "file", path = "{file}" }}',
    }
    return "".join(
        f"""
[[mirrors.m.sessions]]
name = "{name}"
source = "nic"
payload = "zero"
capture = "ring"
destination = {destination}
"""
        for name, destination in ways.items()
    )


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host, Host]:
    client, source, collector = net.host("client", ipv6=True), net.host("source", ipv6=True), net.host("collector")
    net.link(client, "eth0", source, "nic")
    net.link(source, "uplink", collector, "eth0", ("10.99.0.1/24", "10.99.0.2/24"), mtu=1600)
    receive_vxlan(collector, vni=1)
    for device in ("eth0", "vxlan0"):  # what arrives is to be seen as it was sent
        collector.run("ethtool", "-K", device, "gro", "off")
    net.link(source, "probe", collector, "eth1", mtu=1600)
    for n, (host, device) in enumerate(((client, "eth0"), (source, "nic"))):
        host.ip(f"address add {ADDRESSES[4][n]}/24 dev {device}")
        host.ip(f"address add {ADDRESSES[6][n]}/64 dev {device} nodad")
    return client, source, collector


def converse(client: Host, source: Host, family: int) -> None:
    """Both ways over one TCP connection, as fast as it goes; then a datagram in fragments, a small one and an echo."""
    at = socket.AF_INET6 if family == 6 else socket.AF_INET
    _, there = ADDRESSES[family]
    with source.open_socket(at, socket.SOCK_STREAM) as listener:
        listener.bind((there, 7000))
        listener.listen()
        with client.open_socket(at, socket.SOCK_STREAM) as one:
            one.connect((there, 7000))
            other, _ = listener.accept()
            with other:
                _exchange(one, other)
    with source.open_socket(at, socket.SOCK_DGRAM) as receiver, client.open_socket(at, socket.SOCK_DGRAM) as sender:
        receiver.bind((there, 7001))
        receiver.settimeout(5)
        for length in (5, 1000, 5000):
            sender.sendto(STREAM[:length], (there, 7001))
            assert receiver.recv(65535) == STREAM[:length]
        sender.sendto(STREAM[:100], (there, 7002))  # an ICMP error quotes it
    client.run("ping", "-c", "1", "-p", SECRET[:16].hex(), "-s", "1000", there)


def _exchange(one: socket.socket, other: socket.socket) -> None:
    got: dict[str, bytes] = {}

    def read(name: str, end: socket.socket) -> None:
        chunks = iter(lambda: end.recv(1 << 20), b"")
        got[name] = b"".join(chunks)

    readers = [threading.Thread(target=read, args=(name, end)) for name, end in (("one", one), ("other", other))]
    senders = [threading.Thread(target=_send_all, args=(end,)) for end in (one, other)]
    for thread in (*readers, *senders):
        thread.start()
    for thread in (*senders, *readers):
        thread.join(30)
    assert got == {"one": STREAM, "other": STREAM}


def _send_all(end: socket.socket) -> None:
    end.sendall(STREAM)
    end.shutdown(socket.SHUT_WR)


def sctp() -> bytes:
    layers = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src="192.0.2.1", dst="192.0.2.2")
    return bytes(layers / SCTP(sport=7, dport=8, tag=9) / SCTPChunkData(data=STREAM[:999], tsn=1))


def lengths(copied: Recording) -> dict[str, int]:
    """Bytes of TCP payload by IP version, those sent again left out, as their headers tell."""
    carried = "tcp.len > 0 && !tcp.analysis.retransmission"
    rows = copied.fields("ip.version", "ipv6.version", "tcp.len", expression=carried)
    return {version: sum(int(row[2]) for row in rows if version in row[:2]) for version in ("4", "6")}


def test_no_copy_has_the_payload(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon, sniff: MakeSniffer, tmp_path: Path
) -> None:
    client, source, collector = hosts
    captures = tmp_path / "captures"
    captures.mkdir()
    by_vxlan = sniff(collector, "vxlan0", snaplen=65600)
    by_device = sniff(collector, "eth1", snaplen=65600)
    truth = sniff(source, "nic", snaplen=65600)
    mirrord = daemon(source, sessions(captures / "c.pcapng"), capture_directories=[str(captures)])
    live = tmp_path / "live.pcapng"
    command = [*COMMAND, "--socket", str(mirrord.socket), "capture", "m/file", "-w", str(live)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as capture:
        wait_for(lambda: live.exists() and live.stat().st_size > 0, "the live capture begins")
        for family in ADDRESSES:
            converse(client, source, family)
        send(client, "eth0", sctp())
        for file in (live, captures / "c.pcapng"):
            wait_for(lambda file=file: Recording(file).tshark(expression="sctp"), "the last frame")  # type: ignore[misc]
        capture.send_signal(signal.SIGINT)
        capture.communicate(timeout=10)
    metrics = mirrord.settle(1)
    mirrord.stop()
    assert SECRET[:8] in truth.stop().file.read_bytes()
    copies = {
        "vxlan": by_vxlan.stop(),
        "device": by_device.stop(),
        "file": Recording(captures / "c.pcapng"),
        "live": Recording(live),
    }
    for name, copied in copies.items():
        assert SECRET[:8] not in copied.file.read_bytes(), name
        assert not copied.tshark(*CHECKS, expression=WRONG), name
        assert lengths(copied) == {f"{family}": 2 * len(STREAM) for family in ADDRESSES}, name
    for session in ("vxlan", "device", "file"):
        assert metrics.total("mirrord_segmented_frames_total", session=session) > 0
        assert metrics.total("mirrord_zeroed_frames_total", session=session) > 2 * 2 * len(STREAM) / 1500
