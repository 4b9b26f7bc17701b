"""A wire to hold copies against: super-frames mirrored on one side of a bridge, cut by the kernel on the other.

client eth0 ---- guest [bridge] wire ---- eth0 server
                 bridge uplink ---- eth0 collector

The client leaves segmentation and checksums to its device. The device `wire` does neither, so that the kernel does both
in software before a frame leaves by it: what the server's tcpdump sees is what a wire would have carried.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.daemon import Daemon
from tests.support.metrics import Metrics
from tests.support.process import Process
from tests.support.sniffer import Recording
from tests.support.topology import Host, Topology, receive_vxlan
from tests.support.wait import wait_for

ADDRESSES = {4: ("10.0.0.1", "10.0.0.2"), 6: ("2001:db8::1", "2001:db8::2")}  # the client's, the server's
UNDERLAY = ("192.168.0.1", "192.168.0.2")
MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
FULL_FRAME = 1514
OUTER_HEADERS = 50  # Ethernet, IPv4, UDP, VXLAN
PORT = 7000
_CHECKS = [part for layer in ("ip", "tcp", "udp") for part in ("-o", f"{layer}.check_checksum:TRUE")]
_CHECKS += [part for layer in ("tcp", "udp") for part in ("-d", f"{layer}.port=={PORT},data")]
# The kernel's software checksum writes 0xFFFF for 0 (skb_checksum_help), in TCP too, which tshark calls bad there.
_WRONG = (
    "ip.checksum.status == 0 || (tcp.checksum.status == 0 && tcp.checksum != 0xffff) || udp.checksum.status == 0"
    " || _ws.malformed || tcp.analysis.lost_segment || tcp.analysis.ack_lost_segment || tcp.analysis.out_of_order"
)


def session(device: str, direction: str) -> str:
    return f"""
[mirrors.m]
enabled = true

[[mirrors.m.sessions]]
name = "s"
direction = "{direction}"
source = {{ type = "device", device = "{device}" }}
destination = {{ type = "vxlan", remote = "10.99.0.2", vni = 7 }}
"""


class Wire:
    """The hosts, the daemon on the bridge, and tcpdump where copies and wire frames arrive.

    `inside`: the daemon runs in the client, whose eth0 it mirrors. `overlay`: the hosts' addresses are those of kernel
    vxlan devices over eth0, whose outer checksum is there (udpcsum) or not (noudpcsum).
    """

    def __init__(
        self,
        net: Topology,
        sniff: MakeSniffer,
        daemon: MakeDaemon,
        *,
        direction: str = "",
        inside: bool = False,
        overlay: str = "",
    ) -> None:
        self.client, self.server = net.host("client", ipv6=True), net.host("server", ipv6=True)
        bridge, collector = net.host("bridge"), net.host("collector")
        net.link(self.client, "eth0", bridge, "guest", macs=(MACS[0], ""))
        net.link(bridge, "wire", self.server, "eth0", macs=("", MACS[1]), offloads=False)
        bridge.add_bridge("br0", "guest", "wire")
        for n, host in enumerate((self.client, self.server)):
            if overlay:
                host.ip(f"address add {UNDERLAY[n]}/24 dev eth0")
                host.ip(
                    f"link add vx0 mtu 1450 type vxlan id 9 dstport 4789 local {UNDERLAY[n]} remote {UNDERLAY[1 - n]}"
                )
                host.ip("link set vx0 up")
            host.ip(f"address add {ADDRESSES[4][n]}/24 dev {'vx0' if overlay else 'eth0'}")
            host.ip(f"address add {ADDRESSES[6][n]}/64 dev {'vx0' if overlay else 'eth0'} nodad")
        source = self.client if inside else bridge
        self._senders = [(self.client, "eth0"), *([(bridge, "guest")] if direction == "both" else [])]
        collect(net, source, collector)
        self._copies = sniff(collector, "eth0", "udp port 4789")
        self._truth = sniff(self.server, "eth0")
        configuration = session("eth0", direction or "egress") if inside else session("guest", direction or "ingress")
        self._daemon = daemon(source, configuration)
        self._ahead = wait_for(self._count_ahead, "a moment without a frame")

    def _sent(self) -> int:
        """Frames that are captured once the daemon runs."""
        return sum(host.transmitted(device) for host, device in self._senders)

    def _count_ahead(self) -> tuple[int] | None:
        """How many frames were captured more than were sent since: hosts talk of their own accord, too."""
        sent = self._sent()
        captured = int(self._daemon.metrics().total("mirrord_captured_frames_total"))
        return (captured - sent,) if self._sent() == sent else None

    def finish(self) -> tuple[Recording, Recording, Metrics]:
        """The frames that the wire carried, the copies' own (out of VXLAN), and the last metrics."""
        metrics = drain(self._daemon, self._sent() + self._ahead[0])
        return self._truth.stop(), decapsulated(self._copies.stop()), metrics


def collect(net: Topology, source: Host, collector: Host) -> None:
    """A way for copies: a link of MTU 1600 to a host that takes VXLAN."""
    net.link(source, "uplink", collector, "eth0", ("10.99.0.1/24", "10.99.0.2/24"), mtu=1600)
    receive_vxlan(collector)


def drain(daemon: Daemon, captured: int) -> Metrics:
    """Wait for that many frames, and stop the daemon: it forwards what it has captured before it ends."""
    metrics = daemon.settle(captured)
    status, output = daemon.stop()
    assert status == 0, output
    return metrics


@contextmanager
def one_processor() -> Iterator[None]:
    """Keep this thread, and what it starts, on one: with several, a veth may change frames' order behind the taps."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@one_processor()
def send_file(client: Host, server: Host, address: str, content: bytes, directory: Path) -> str:
    """A file by nc; its SHA-256."""
    file = directory / "sent"
    file.write_bytes(content)
    listening = listen(server, address)
    client.run("sh", "-c", f"nc -N {address} {PORT} <{file}")
    assert listening.wait(30) == 0, listening.output()
    return sha256(content).hexdigest()


@one_processor()
def send_at_once(client: Host, server: Host, address: str, content: bytes) -> str:
    """All of it handed to TCP in one call, for super-frames as large as they get; its SHA-256."""
    listening = listen(server, address)
    with client.open_socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as stream:
        stream.connect((address, PORT))
        stream.sendall(content)
    assert listening.wait(30) == 0, listening.output()
    return sha256(content).hexdigest()


def listen(server: Host, address: str) -> Process:
    process = server.spawn("sh", "-c", f"exec nc -l {address} {PORT} >/dev/null")
    wait_for(lambda: f":{PORT}" in server.run("ss", "-ltn"), "nc listens")
    return process


def decapsulated(copies: Recording) -> Recording:
    """The mirrored frames without what was put before them, by editcap."""
    inner = copies.file.with_suffix(".inner.pcap")
    whole = copies.file.with_suffix(".whole.pcap")
    subprocess.run(["tcpdump", "-r", copies.file, "-w", whole, "udp port 4789"], check=True, capture_output=True)
    subprocess.run(
        ["editcap", "-L", "-F", "pcap", "-C", str(OUTER_HEADERS), whole, inner], check=True, capture_output=True
    )
    return Recording(inner)


def wrong(recording: Recording) -> str:
    """What tshark finds wrong: checksums, gaps, the order, malformed packets."""
    return recording.tshark(*_CHECKS, expression=_WRONG)


def stream_hash(recording: Recording, stream: int = 0) -> str:
    """The SHA-256 of what a TCP connection, the first one, carried from its opener, reassembled by tshark."""
    lines = recording.tshark("-q", "-z", f"follow,tcp,raw,{stream}").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("Node 1"))
    return sha256(b"".join(bytes.fromhex(line) for line in lines[start + 1 : -1] if line[:1] != "\t")).hexdigest()


def from_client(family: int, protocol: str, *, overlay: bool = False) -> str:
    """A tcpdump expression for what the client sent; in an overlay, told by the inner ethertype and protocol."""
    if not overlay:
        return f"{protocol} and src {ADDRESSES[family][0]}"
    ethertype, field = {4: (0x0800, 39), 6: (0x86DD, 36)}[family]
    return f"src {UNDERLAY[0]} and udp[28:2] == {ethertype} and udp[{field}] == {socket.getprotobyname(protocol)}"


def differences(wire: Recording, copied: Recording, expression: str, *, ordered: bool = True) -> list[str]:
    """Where the copies that a tcpdump expression selects are not the wire's frames, byte for byte.

    `ordered` off: in any order, for frames of many flows; copies keep the order within each.
    """
    truth, copies = wire.frames(expression), copied.frames(expression)
    if not ordered:
        truth, copies = sorted(truth), sorted(copies)
    found = [] if truth else ["nothing on the wire"]
    if len(truth) != len(copies):
        found.append(f"{len(truth)} frames on the wire, {len(copies)} copies")
    for n, (one, other) in enumerate(zip(truth, copies, strict=False)):
        if one != other:
            at = next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), "the end")
            found.append(f"frame {n}, byte {at}: {len(one)} bytes {one[:80].hex()}, {len(other)} {other[:80].hex()}")
    return found[:3]
