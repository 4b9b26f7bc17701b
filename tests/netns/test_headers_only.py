"""`snaplen = "headers"` on the way of real frames: every header whole, nothing behind it.

client eth0 ---- nic [source] uplink ---- eth0 [collector] vxlan0
"""

from __future__ import annotations

from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting
from scapy.layers.l2 import Dot1AD, Dot1Q
from scapy.packet import Packet

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.offload import GSO_TCPV4, NEEDS_CSUM, Offloaded, Offloader
from tests.support.packets import LINK, V4
from tests.support.send import UNANSWERED, send
from tests.support.source import session, source_and_collector
from tests.support.topology import Topology

V6 = IPv6(src="2001:db8::1", dst="2001:db8::2")
EXTENSIONS = V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting(addresses=["::1"]) / IPv6ExtHdrDestOpt()
OPTIONS = [("Timestamp", (1, 2))] * 4  # 40 bytes
QINQ = LINK / Dot1AD(vlan=7) / Dot1Q(vlan=5)
HEADERS: list[Packet] = [
    LINK / V4 / TCP(options=OPTIONS),
    LINK / EXTENSIONS / TCP(options=OPTIONS),
    QINQ / V4 / UDP(sport=7, dport=9),
    QINQ / EXTENSIONS / TCP(options=OPTIONS),
]
PAYLOAD = bytes(range(256)) * 4
SUPER = bytes(LINK / V4 / TCP(options=OPTIONS, seq=1000, chksum=0) / (PAYLOAD * 4))
DISSECTED = "tcp.hdr_len", "tcp.seq_raw", "udp.length", "ipv6.routing.len", "vlan.id"
EXPECTED = [
    ["60", "0", "", "", ""],
    ["60", "0", "", "2", ""],
    ["", "", "1032", "", "5"],
    ["60", "0", "", "2", "5"],
    *(["60", str(1000 + 1024 * n), "", "", ""] for n in range(4)),
]
"""What tshark reads of each copy."""


def test_headers_arrive_whole(net: Topology, daemon: MakeDaemon, sniff: MakeSniffer) -> None:
    client, source, collector = source_and_collector(net)
    inner = sniff(collector, "vxlan0")
    mirrord = daemon(source, session('snaplen = "headers"\ncapture = "ring"'))
    frames = [bytes(packet / PAYLOAD) for packet in HEADERS]
    for frame in (*frames, UNANSWERED):
        send(client, "eth0", frame)
    with Offloader(client, "eth0") as out:
        out.send(Offloaded(SUPER, NEEDS_CSUM, GSO_TCPV4, 94, 1024, 34, 16))
    metrics = mirrord.settle(len(frames) + 2)
    ends = [len(bytes(packet)) for packet in HEADERS]
    seen = inner.stop()
    copies = seen.frames()
    assert copies[:5] == [*(frame[:end] for frame, end in zip(frames, ends, strict=True)), UNANSWERED]
    assert [len(copy) for copy in copies[5:]] == [94] * 4
    assert metrics.total("mirrord_truncated_frames_total") == len(frames) + 4
    fields = [word for name in DISSECTED for word in ("-e", name)]
    lines = seen.tshark("-T", "fields", *fields, expression="ip or ipv6").splitlines()
    assert [line.split("\t") for line in lines] == EXPECTED
