"""docs/receivers.md: what programs make of mirrord's own copies. Its table is made here, and compared.

client eth0 ---- nic [source] uplink ---- eth0 [collector] vxlan0

All copies are in one capture: each encapsulation has a conversation, and a remote address, of its own, so that what a
program prints tells which it looked into.
"""

from __future__ import annotations

import io
import re
import signal
import sys
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.utils import RawPcapReader

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.daemon import ROOT
from tests.support.send import UNANSWERED, send
from tests.support.topology import Host, Topology, acquaint, receive_vxlan
from tests.support.wait import wait_for

KINDS = {  # each conversation has addresses of its own, 10.1.N.1 and 10.1.N.2, and copies of it go to 10.99.0.N
    11: ("as they are", 'type = "device", device = "uplink"'),
    12: ("0x8100", 'type = "device", device = "uplink"'),
    13: ("0x88a8, 0x8100", 'type = "device", device = "uplink"'),
    14: ("VXLAN", 'type = "vxlan", remote = "10.99.0.14", vni = 1'),
    15: ("Geneve", 'type = "geneve", remote = "10.99.0.15", vni = 1'),
    16: ("GRE", 'type = "gre", remote = "10.99.0.16"'),
    17: ("GRE, key", 'type = "gre", remote = "10.99.0.17", key = 7'),
    18: ("ERSPAN I", 'type = "erspan", remote = "10.99.0.18", erspan_type = "I"'),
    19: ("ERSPAN II", 'type = "erspan", remote = "10.99.0.19", erspan_type = "II", session_id = 1'),
    20: ("ERSPAN III", 'type = "erspan", remote = "10.99.0.20", erspan_type = "III", session_id = 1'),
}


def conversation(number: int) -> list[bytes]:
    """TCP from SYN to FIN with a request and its answer, a ping, and a name that is asked for."""
    ends = ("02:00:00:00:00:0a", f"10.1.{number}.1"), ("02:00:00:00:00:0b", f"10.1.{number}.2")
    tags = {12: Dot1Q(vlan=111), 13: Dot1AD(vlan=200) / Dot1Q(vlan=111)}.get(number)

    def frame(sender: int, rest: object) -> bytes:
        (source, address), (target, other) = ends[sender], ends[1 - sender]
        link = Ether(src=source, dst=target)
        return bytes((link / tags if tags else link) / IP(src=address, dst=other) / rest)

    def tcp(sender: int, flags: str, seq: int, ack: int, data: bytes = b"") -> bytes:
        ports = (40000, 80) if sender == 0 else (80, 40000)
        options = [("MSS", 1460), ("NOP", None), ("WScale", 7)] if "S" in flags else []
        segment = TCP(sport=ports[0], dport=ports[1], flags=flags, seq=seq, ack=ack, window=64240, options=options)
        return frame(sender, segment / data)

    ask, answer = b"GET /needle HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nneedle"
    return [
        tcp(0, "S", 100, 0), tcp(1, "SA", 500, 101), tcp(0, "A", 101, 501),
        tcp(0, "PA", 101, 501, ask), tcp(1, "PA", 501, 101 + len(ask), answer),
        tcp(0, "A", 101 + len(ask), 501 + len(answer)),
        tcp(0, "FA", 101 + len(ask), 501 + len(answer)), tcp(1, "FA", 501 + len(answer), 102 + len(ask)),
        tcp(0, "A", 102 + len(ask), 502 + len(answer)),
        frame(0, ICMP(id=7, seq=1) / b"ping"), frame(1, ICMP(type=0, id=7, seq=1) / b"ping"),
        frame(0, UDP(sport=5353, dport=7) / b"question"), frame(1, UDP(sport=7, dport=5353) / b"reply"),
    ]  # fmt: skip


NFSTREAM = """
import sys
from nfstream import NFStreamer
for flow in NFStreamer(sys.argv[1], n_dissections=0, system_visibility_mode=0, n_meters=1):
    print(flow.src_ip, flow.dst_ip)
"""
SCAPY = """
import sys
from scapy.all import IP, load_contrib, rdpcap
load_contrib("geneve"), load_contrib("erspan")
for packet in rdpcap(sys.argv[1]):
    print(*(layer.src for n in range(1, 9) if (layer := packet.getlayer(IP, n))))
"""
PROGRAMS = {  # what prints the addresses that each sees; the capture is the file `copies`
    "softflowd": "softflowd -d -D -v 9 -r copies -n 127.0.0.1:9 -c none",
    "pmacct": "pmacctd -I copies -P print -c src_host,dst_host,vlan -o flows.txt; cat flows.txt",
    "nfpcapd": "mkdir nf; nfpcapd -r copies -l nf; nfdump -q -N -R nf -o 'fmt:%sa %da'",
    "argus": "argus -X -r copies -w flows.argus; ra -nr flows.argus -s saddr daddr",
    "nfstream": f"{sys.executable} -c '{NFSTREAM}' copies",
    "tcpflow": "mkdir tf; tcpflow -r copies -o tf; ls tf",
    "ngrep": "ngrep -I copies -q -n 200 needle",
    "p0f": "p0f -r copies",
    "tcpdump": "tcpdump -nr copies",
    "tshark": "tshark -n -r copies -T fields -e ip.src",
    "scapy": f"{sys.executable} -c '{SCAPY}' copies",
}
WRITERS = {  # what writes the frames that it sees on the collector's device
    "netsniff-ng": "exec netsniff-ng --in eth0 --out netsniff-ng.pcap --silent --ring-size 4MiB",
    "daemonlogger": "exec daemonlogger -i eth0 -l . -n daemonlogger",
}


@pytest.mark.parametrize("dataplane", ["native"], indirect=True)
def test_the_table_is_what_the_programs_make_of_copies(
    net: Topology, daemon: MakeDaemon, sniff: MakeSniffer, tmp_path: Path
) -> None:
    client, source, collector = net.host("client"), net.host("source"), net.host("collector")
    net.link(client, "eth0", source, "nic", ("10.0.0.1/24", "10.0.0.2/24"))
    net.link(source, "uplink", collector, "eth0", ("10.99.0.1/24", "10.99.0.2/24"))
    for number in list(KINDS)[3:]:
        collector.ip(f"address add 10.99.0.{number}/24 dev eth0")
        acquaint(source, "uplink", "10.99.0.1", collector, "eth0", f"10.99.0.{number}")
    receive_vxlan(collector, vni=1, local="10.99.0.14")
    sniffer = sniff(collector, "eth0", "not (icmp and src net 10.99.0.0/24) and not arp")
    writers = [collector.spawn("sh", "-c", command, directory=tmp_path) for command in WRITERS.values()]
    sockets = len(WRITERS) + 2  # theirs, tcpdump's, and the first line
    wait_for(lambda: len(collector.run("cat", "/proc/net/packet").splitlines()) >= sockets, "everybody listens")
    mirrord = daemon(source, "".join(map(session, KINDS)))
    sent = [frame for number in KINDS for frame in conversation(number)]
    for frame in sent:
        send(client, "eth0", frame)
    assert mirrord.settle(captured=len(sent)).total("mirrord_mirrored_frames_total") == len(sent)
    wait_for(lambda: collector.counter("vxlan0", "rx", "packets") == 13, "the kernel takes its own off")
    copies = sniffer.frames()
    (tmp_path / "copies").write_bytes(sniffer.stop().file.read_bytes())

    def all_is_written() -> bool:
        send(collector, "eth0", UNANSWERED.ljust(1500, b"\0"), 10)  # what they hold back goes by what follows it
        return all(copies[-1] in data(tmp_path, name) for name in WRITERS)

    wait_for(all_is_written, "the last copy is in their files", 30)
    for writer in writers:
        writer.stop(signal.SIGINT)
        writer.close()
    lines = [row(name, verdicts(printed(collector, command, tmp_path))) for name, command in PROGRAMS.items()]
    lines += [row(name, kept(copies, written(tmp_path, name))) for name in WRITERS]
    table = "\n".join(lines)
    page = (ROOT / "docs" / "receivers.md").read_text()
    assert table in page, f"docs/receivers.md has another table than:\n{table}"


def session(number: int) -> str:
    return f"""
[filters.f{number}]
rules = [{{ priority = 1, action = "accept", source = "10.1.{number}.0/24" }}]
[[mirrors.all.sessions]]
name = "s{number}"
source = "nic"
direction = "ingress"
filter = "f{number}"
destination = {{ {KINDS[number][1]} }}
"""


def row(name: str, cells: list[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def printed(host: Host, command: str, directory: Path) -> str:
    return host.run("sh", "-c", f"cd {directory}; {{ {command}; }} 2>&1", check=False)


def verdicts(text: str) -> list[str]:
    """Whether a program saw the addresses of each conversation, or those of the packets that carry its copies."""
    text, found = re.sub(r"\b0+(?=\d)", "", text), []  # tcpflow's file names have zeros in front
    for number in KINDS:
        inner = re.search(rf"\b10\.1\.{number}\.[12]\b", text)
        outer = re.search(rf"\b10\.99\.0\.{number}\b", text)
        found.append("inner" if inner else "outer" if outer else "-")
    return found


def data(directory: Path, name: str) -> bytes:
    """All that is in the program's file so far."""
    return b"".join(file.read_bytes() for file in directory.glob(f"{name}*"))


def written(directory: Path, name: str) -> list[bytes]:
    """The frames in the program's file."""
    with RawPcapReader(io.BytesIO(data(directory, name))) as reader:
        return [frame for frame, _ in reader]


def kept(copies: list[bytes], frames: list[bytes]) -> list[str]:
    """Whether a program wrote all of each conversation's frames as they were, or what became of their tags."""
    found = []
    for number in KINDS:
        own = [frame for frame in copies if bytes([10, 1, number]) in frame]
        there = [frame for frame in frames if bytes([10, 1, number]) in frame]
        assert len(own) == 13
        types = {frame[12:14].hex() for frame in there}
        found.append("whole" if set(own) <= set(there) else f"as 0x{'/'.join(sorted(types))}")
    return found
