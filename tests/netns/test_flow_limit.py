"""The first of each flow: what real programs say, as tshark counts it; a table that is full; what is kept.

client eth0 ---- nic [source] uplink ---- eth0 [collector] vxlan0, vxlan1, ...
"""

from __future__ import annotations

import socket
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.daemon import Daemon
from tests.support.metrics import Metrics
from tests.support.send import send, udp_frame
from tests.support.sniffer import Recording
from tests.support.source import linked, session, source_and_collector
from tests.support.topology import Host, Topology, acquaint, receive_vxlan
from tests.support.wait import wait_for
from tests.support.wire import one_processor

CLIENT, SERVER = ("02:00:00:00:00:01", "10.1.0.1", 5000), ("02:00:00:00:00:02", "10.1.0.2", 53)
PACKETS, BYTES = 20, 16 << 10
ENDS = 0x07  # RST, SYN, FIN, RFC 9293 3.1

LIMITS = {
    "packets": f"packets = {PACKETS}",
    "bytes": f'bytes = "{BYTES}"',
    "both": f'packets = {PACKETS}, bytes = "{BYTES}"',
    "headers": f'packets = {PACKETS}, then = "headers"',
}


def sessions() -> str:
    """Sessions of `nic` with each of the limits."""
    return "".join(
        f"""
[[mirrors.m.sessions]]
name = "{name}"
source = "nic"
destination = {{ type = "vxlan", remote = "10.99.0.2", vni = {vni} }}
ring_size = "64MiB"
flow_limit = {{ {limit} }}
"""
        for vni, (name, limit) in enumerate(LIMITS.items())
    )


@dataclass
class Conversation:
    """What tshark says of one: of each frame its length, that of its headers, and whether the limit leaves it alone."""

    frames: list[tuple[int, int, bool]] = field(default_factory=list)

    @property
    def lengths(self) -> list[int]:
        return [length for length, _, _ in self.frames]

    def first(self, packets: int, octets: int, *, headers: bool = False) -> list[int]:
        """The lengths of those that a limit has mirrored, with the headers of the others if wanted."""
        kept, seen = [], (0, 0)
        for length, ahead, always in self.frames:
            within = (not packets or seen[0] < packets) and (not octets or seen[1] < octets)
            if within:
                seen = seen[0] + 1, seen[1] + length
            if within or always:
                kept.append(length)
            elif headers:
                kept.append(ahead)
        return kept


def conversations(recording: Recording) -> dict[tuple[str, ...], Conversation]:
    """By protocol and ends, in either order; what is none of any (ARP, ICMP errors) frame by frame."""
    names = (
        "frame.len",
        "ip.proto",
        "ip.src",
        "ip.dst",
        "tcp.port",
        "udp.port",
        "tcp.flags",
        "icmp.type",
        "ip.hdr_len",
        "tcp.hdr_len",
        "_ws.col.Info",
    )
    found: dict[tuple[str, ...], Conversation] = {}
    for length, protocol, source, destination, tcp, udp, flags, icmp, ip_header, tcp_header, info in recording.fields(
        *names
    ):
        ports = (tcp or udp or "0,0").split(",")
        ends = sorted([f"{source} {ports[0]}", f"{destination} {ports[1]}"])
        key = (protocol, *ends) if protocol and icmp != "3" else ("none", info)
        always = key[0] == "none" or (bool(flags) and int(flags, 16) & ENDS > 0)
        ahead = 0 if key[0] == "none" else 14 + int(ip_header) + int(tcp_header or 8)
        found.setdefault(key, Conversation()).frames.append((int(length), ahead, always))
    return found


def converse(client: Host, server: Host, directory: Path) -> None:
    """curl, iperf3, openssl, dig, ping and nmap, from one host to the other."""
    (directory / "page").write_bytes(bytes(range(256)) * 400)
    web = server.spawn(sys.executable, "-m", "http.server", "8000", "--bind", "10.1.0.2", directory=directory)
    iperf = server.spawn("iperf3", "-s", "-B", "10.1.0.2", "--forceflush")
    request = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -subj /CN=mirrord -days 2"
    assert server.spawn(*request.split(), directory=directory).wait(30) == 0
    tls = server.spawn(
        "openssl", "s_server", "-port", "4433", "-key", "key.pem", "-cert", "cert.pem", "-www", directory=directory
    )
    wait_for(lambda: "Listening" in iperf.output() or "listening" in iperf.output(), "iperf3 listens")
    wait_for(lambda: "ACCEPT" in tls.output(), "openssl listens")
    wait_for(lambda: "8000" in server.run("ss", "-ltn"), f"a web server listens: {web.output()}")
    for _ in range(3):
        client.run("curl", "-sS", "-o", "/dev/null", "http://10.1.0.2:8000/page")
    client.run("iperf3", "-c", "10.1.0.2", "-n", "1M")
    client.run("iperf3", "-c", "10.1.0.2", "-u", "-b", "4M", "-n", "200K")
    client.run("openssl", "s_client", "-connect", "10.1.0.2:4433", stdin="GET / HTTP/1.0\r\n\r\n")
    client.run("ping", "-c", "25", "-i", "0.01", "10.1.0.2")
    client.run("nmap", "-n", "-Pn", "-sT", "-p", "4433,8000,9000-9010", "10.1.0.2")
    client.run("dig", "@10.1.0.2", "+tries=2", "+time=1", "mirrord.example", check=False)  # nobody answers but by ICMP


def test_each_conversation_is_mirrored_as_far_as_its_limit(
    net: Topology, daemon: MakeDaemon, sniff: MakeSniffer, tmp_path: Path
) -> None:
    client, source, collector = linked(net)
    for host, device, address in ((client, "eth0", "10.1.0.1"), (source, "nic", "10.1.0.2")):
        host.run("ethtool", "-K", device, "tx", "off", "tso", "off", "gso", "off", "gro", "off")
        host.ip(f"address add {address}/24 dev {device}")
    for vni in range(len(LIMITS)):
        receive_vxlan(collector, vni=vni, device=f"vxlan{vni}")
    mirrord = daemon(source, sessions())
    whole = sniff(source, "nic")
    copies = {name: sniff(collector, f"vxlan{vni}") for vni, name in enumerate(LIMITS)}

    with one_processor():  # of two frames at a time two captures may have another one first
        converse(client, source, tmp_path)
    said = conversations(whole.stop())
    count = sum(len(one.frames) for one in said.values())
    metrics = mirrord.settle(len(LIMITS) * (count + 1))  # and the sniffer's last one

    assert len(said) > 25
    assert sum(len(one.frames) > 2 * PACKETS for one in said.values()) >= 6
    flows = sum(key[0] != "none" for key in said)
    limits = {"packets": (PACKETS, 0), "bytes": (0, BYTES), "both": (PACKETS, BYTES), "headers": (PACKETS, 0)}
    for name, (packets, octets) in limits.items():
        got = {key: one.lengths for key, one in conversations(copies[name].stop()).items()}
        wanted = {key: one.first(packets, octets, headers=name == "headers") for key, one in said.items()}
        assert got == wanted
        mirrored = sum(map(len, wanted.values()))
        assert metrics.total("mirrord_mirrored_frames_total", session=name) == mirrored + 1
        skipped = metrics.total("mirrord_skipped_frames_total", session=name, reason="flow_limit")
        assert skipped == count - mirrored
        assert (mirrored == count) if name == "headers" else (skipped > 500)
        assert metrics.total("mirrord_flow_table_flows", session=name) == flows
    shorter = sum(a < b for key, one in said.items() for a, b in zip(got[key], one.lengths, strict=True))
    assert metrics.total("mirrord_truncated_frames_total") == shorter > 500
    assert metrics.total("mirrord_flow_table_full_total") == 0


def many(count: int) -> Iterator[bytes]:
    """A datagram of each of so many flows, which differ in their ports and addresses."""
    frame = bytearray(udp_frame(CLIENT, SERVER, length=64))
    for n in range(count):
        frame[28:30] = (n >> 14).to_bytes(2, "big")  # the last two bytes of the source address
        frame[34:36] = (1024 + (n & 0x3FFF)).to_bytes(2, "big")
        yield bytes(frame)


def _send_all(host: Host, device: str, frames: Iterator[bytes], mirrord: Daemon, before: int = 0) -> int:
    """Send them, so many at a time that the source's ring holds them; the number of all, with those before."""
    sent = before
    with host.open_socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((device, 0))
        for sent, frame in enumerate(frames, before + 1):
            out.send(frame)
            if sent % 5_000 == 0:
                mirrord.settle(sent)
    return sent


def _resident(pid: int) -> int:
    """KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def test_a_full_table_stays_as_large_as_it_is_and_counts_what_passes(
    net: Topology, daemon: MakeDaemon, dataplane: str
) -> None:
    """1,024 places and 100,000 flows; the Python plane gets a tenth of these."""
    client, source, collector = linked(net)
    receive_vxlan(collector, vni=1)
    mirrord = daemon(
        source, session('capture = "ring"\nring_size = "32MiB"\nflow_limit = { packets = 1, flows = 1024 }')
    )
    first, flows = 2_000, 100_000 if dataplane == "native" else 10_000
    _send_all(client, "eth0", many(first), mirrord)
    before = mirrord.settle(first)
    assert before.total("mirrord_flow_table_flows") == 1024
    assert before.total("mirrord_flow_table_full_total") == first - 1024
    memory = _resident(mirrord.pid)

    sent = _send_all(client, "eth0", many(flows), mirrord, first)
    metrics = mirrord.settle(sent)
    assert _resident(mirrord.pid) - memory < 2048
    assert metrics.total("mirrord_captured_frames_total") == sent
    assert metrics.total("mirrord_flow_table_flows") == 1024
    assert metrics.total("mirrord_skipped_frames_total", reason="flow_limit") == 1024  # they came again
    assert metrics.total("mirrord_mirrored_frames_total") == sent - 1024
    assert metrics.total("mirrord_flow_table_full_total") == sent - 2 * 1024


def test_what_was_counted_is_kept_across_a_reload_and_is_nobody_elses(
    net: Topology, daemon: MakeDaemon, sniff: MakeSniffer
) -> None:
    """Of two sessions only the first one by priority copies: what its limit skips is not for the other one."""
    client, source, collector = source_and_collector(net)
    inner = sniff(collector, "vxlan0")

    def configuration(limit: str) -> str:
        one = session(f"priority = 1\nflow_limit = {{ {limit} }}")
        two = session("priority = 2", '{ type = "vxlan", remote = "10.99.0.2", vni = 2 }').replace('"s"', '"other"')
        return f'[mirrors.m]\noverlap = "first"\n{one}{two}'

    mirrord = daemon(source, configuration("packets = 2"))
    frame = udp_frame(CLIENT, SERVER, length=100)
    send(client, "eth0", frame, 5)
    mirrord.settle(5)
    text = mirrord.file.read_text()
    for limit, more in (
        ("packets = 4", 2),
        ("packets = 5, flows = 9", 1),
        ('packets = 5, bytes = "1GB", flows = 99', 0),
    ):
        mirrord.file.write_text(text.replace("packets = 2", limit))
        before = mirrord.metrics()
        mirrord.reload()
        name = "mirrord_config_last_reload_success_timestamp_seconds"
        wait_for(lambda: mirrord.metrics().total(name) > before.total(name), "the reload")  # noqa: B023
        captured = before.total("mirrord_captured_frames_total")
        mirrored = before.total("mirrord_mirrored_frames_total")
        wait_for(lambda: "session changed" in mirrord.output(), "the session goes by the new plan")
        send(client, "eth0", frame, 5)
        after = mirrord.settle(int(captured) + 5)
        assert after.total("mirrord_mirrored_frames_total") == mirrored + more
        assert after.total("mirrord_flow_table_flows") == 1
    assert after.total("mirrord_captured_frames_total", session="other") == 0
    assert Counter(inner.stop().frames()) == {frame: 5}


def test_the_payload_of_a_busy_flow_that_is_through_is_left_to_the_kernel_and_all_is_counted(
    net: Topology, daemon: MakeDaemon, sniff: MakeSniffer
) -> None:
    """While it is busy the sockets' filters keep 256 bytes of its frames (`ss` shows it), and all of others'. They are
    kept whole when the flow has paused, and when the limit is raised: what is mirrored then is whole.
    """
    client, source, collector = linked(net, mtu=9200)
    for host, device in ((client, "eth0"), (source, "nic")):
        host.ip(f"link set {device} mtu 9000")
    inner = []
    for vni in (1, 2):
        receive_vxlan(collector, vni, f"vxlan{vni}")
        inner.append(sniff(collector, f"vxlan{vni}", snaplen=9000))
    limit = 'ring_size = "64MiB"\nflow_limit = { packets = 5 }'
    socket_too = session(f'capture = "socket"\n{limit}', '{ type = "vxlan", remote = "10.99.0.2", vni = 2 }')
    mirrord = daemon(source, session(f'capture = "ring"\n{limit}') + socket_too.replace('"s"', '"other"'))
    busy, other = udp_frame(CLIENT, SERVER, length=8900), udp_frame(CLIENT, (*SERVER[:2], 54), length=8900)
    sent = 0

    def more(frame: bytes, count: int) -> Metrics:
        nonlocal sent
        send(client, "eth0", frame, count)
        sent += count
        return mirrord.settle(2 * sent)

    def trimming() -> int:
        shown = source.run("ss", "-0", "-b", "-n").split("bpf filter")
        return sum("0x06 0 0 256," in one for one in shown)

    def both_trim() -> bool:
        more(busy, 600)  # 5 MB: five times what a flow has to send between two looks
        return trimming() == 2

    wait_for(both_trim, "the kernel keeps headers alone", 60)
    more(busy, 100)
    metrics = more(other, 3)
    for name in ("s", "other"):
        assert metrics.total("mirrord_captured_frames_total", session=name) == sent
        assert metrics.total("mirrord_read_bytes_total", session=name) == 8900 * sent
        assert metrics.total("mirrord_mirrored_frames_total", session=name) == 5 + 3
        assert metrics.total("mirrord_skipped_frames_total", session=name, reason="flow_limit") == sent - 8

    wait_for(lambda: trimming() == 0, "all frames are kept whole")
    wait_for(both_trim, "the kernel keeps headers alone again", 60)
    mirrord.file.write_text(mirrord.file.read_text().replace("packets = 5", "packets = 9"))
    mirrord.reload()
    wait_for(lambda: mirrord.output().count("session changed") == 2, "the sessions go by the new plan")
    assert trimming() == 0
    metrics = more(busy, 10)
    for name in ("s", "other"):
        assert metrics.total("mirrord_mirrored_frames_total", session=name) == 9 + 3
        assert metrics.total("mirrord_skipped_frames_total", session=name, reason="flow_limit") == sent - 12
    assert metrics.total("mirrord_truncated_frames_total") == 0
    assert [Counter(one.stop().frames()) for one in inner] == 2 * [{busy: 9, other: 3}]


@pytest.mark.parametrize("dataplane", ["native"], indirect=True)
def test_a_session_without_memory_for_its_table_mirrors_all_and_says_so(net: Topology, daemon: MakeDaemon) -> None:
    """Room for one table of 64 flows, and for no ring; the pattern has two devices."""
    client, source, _ = source_and_collector(net)
    net.link(client, "eth1", source, "nic2")
    acquaint(client, "eth1", "10.2.0.1", source, "nic2", "10.2.0.2")
    text = session('capture = "socket"\nflow_limit = { packets = 1, flows = 64 }').replace('"nic"', '"nic*"')
    mirrord = daemon(source, text, memory_limit=f"{64 * 88}B")
    for device in ("eth0", "eth1"):
        send(client, device, udp_frame(CLIENT, SERVER, length=100), 10)
    metrics = mirrord.settle(20)
    by_source = [metrics.total("mirrord_mirrored_frames_total", source=one) for one in ("nic", "nic2")]
    assert sorted(by_source) == [1, 10]
    assert metrics.total("mirrord_flow_table_full_total") == 10
    said = "no memory for its table of flows (daemon.memory_limit"
    wait_for(lambda: said in mirrord.output(), "it is said")
