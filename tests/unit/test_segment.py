"""Super-frames cut into segments, by both data planes, against frames that scapy builds one by one.

scapy writes lengths and checksums itself; what differs between segments (sequence numbers, IDs, flags) is spelled out
here as RFC 9293, RFC 3168 and the kernel's segmentation-offloads.rst have it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import pytest
from scapy.layers.inet import IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import GRE, Dot1AD, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet

from mirrord.dataplane.counters import Slot
from mirrord.dataplane.forward import encap
from mirrord.dataplane.frame.headers import Tag
from mirrord.dataplane.frame.wire import Frame, Vnet
from mirrord.plans import ForwardPlan
from tests.support.packets import LINK
from tests.support.planes import Result, step

MSS = 1000
PAYLOAD = bytes(n * 7 & 0xFF for n in range(3 * MSS + 137))
PIECES = [PAYLOAD[at : at + MSS] for at in range(0, len(PAYLOAD), MSS)]
LAST = len(PIECES) - 1

V4 = {"src": "10.0.0.1", "dst": "10.0.0.2"}
V6 = {"src": "2001:db8::1", "dst": "2001:db8::2"}
OUTER4 = {"src": "172.16.0.1", "dst": "172.16.0.2"}
OUTER6 = {"src": "2001:db8:f::1", "dst": "2001:db8:f::2"}
OPTIONS = [("NOP", None), ("NOP", None), ("Timestamp", (0x01020304, 0x05060708))]

TCPV4, TCPV6, UDP_L4, ECN = 1, 4, 5, 0x80  # gso_type, linux/virtio_net.h
NEEDS_CSUM = 1


def tcp(n: int, options: Sequence[tuple[str, object]] = ()) -> Packet:
    """Segment n of a TCP super-frame with CWR, PSH and FIN; its sequence numbers wrap around."""
    flags = "A" + ("C" if n == 0 else "") + ("PF" if n == LAST else "")
    return TCP(sport=5000, dport=80, seq=(0xFFFFFC00 + n * MSS) % 2**32, ack=9, flags=flags, options=list(options))


def datagram(_: int) -> Packet:
    return UDP(sport=5000, dport=443)


def ip(n: int, **fields: object) -> Packet:
    return IP(**V4, id=(0xFFFE + n) & 0xFFFF, flags="DF", **fields)


def outer(n: int) -> Packet:
    return LINK / IP(**OUTER4, id=40 + n)


def ported(**fields: object) -> Packet:
    return UDP(sport=50000, dport=4789, **fields)


GENEVE = struct.pack("!BBHI", 2, 0, 0x6558, 5 << 8) + b"\x01\x02\x80\x01\0\0\0\x09"

# gso_type, and the headers in front of the payload of segment n
CASES: dict[str, tuple[int, Callable[[int], Packet]]] = {
    "TCP over IPv4": (TCPV4 | ECN, lambda n: LINK / ip(n) / tcp(n)),
    "TCP over IPv6": (TCPV6 | ECN, lambda n: LINK / IPv6(**V6, fl=7, tc=3) / tcp(n)),
    "TCP options": (TCPV4 | ECN, lambda n: LINK / ip(n) / tcp(n, OPTIONS)),
    "IP options": (TCPV4 | ECN, lambda n: LINK / ip(n, options=[IPOption_NOP()] * 8) / tcp(n)),
    "IPv6 extension": (TCPV6 | ECN, lambda n: LINK / IPv6(**V6) / IPv6ExtHdrDestOpt() / tcp(n)),
    "a VLAN tag": (TCPV4 | ECN, lambda n: LINK / Dot1Q(vlan=5, prio=3) / ip(n) / tcp(n)),
    "QinQ": (TCPV6 | ECN, lambda n: LINK / Dot1AD(vlan=7) / Dot1Q(vlan=5) / IPv6(**V6) / tcp(n)),
    "UDP over IPv4": (UDP_L4, lambda n: LINK / ip(n) / datagram(n)),
    "UDP over IPv6": (UDP_L4, lambda n: LINK / IPv6(**V6) / datagram(n)),
    "VXLAN, no checksum": (TCPV4 | ECN, lambda n: outer(n) / ported(chksum=0) / VXLAN(vni=9) / LINK / ip(n) / tcp(n)),
    "VXLAN, checksum": (TCPV4 | ECN, lambda n: outer(n) / ported() / VXLAN(vni=9) / LINK / ip(n) / tcp(n)),
    "VXLAN over IPv6": (
        UDP_L4,
        lambda n: LINK / IPv6(**OUTER6) / ported() / VXLAN(vni=9) / LINK / Dot1Q(vlan=3) / IPv6(**V6) / datagram(n),
    ),
    "Geneve with an option": (
        TCPV6 | ECN,
        lambda n: (
            outer(n) / UDP(sport=50000, dport=16081) / (GENEVE + bytes(LINK)[:12] + b"\x86\xdd") / IPv6(**V6) / tcp(n)
        ),
    ),
    "GRE": (TCPV4 | ECN, lambda n: outer(n) / GRE(proto=0x0800) / ip(n) / tcp(n)),
    "GRE with checksum and key": (
        TCPV4 | ECN,
        lambda n: outer(n) / GRE(proto=0x6558, chksum_present=1, key_present=1, key=77) / LINK / ip(n) / tcp(n),
    ),
    "IPIP": (TCPV4 | ECN, lambda n: outer(n) / ip(n) / tcp(n)),
    "IPv6 in IPv4": (TCPV6 | ECN, lambda n: outer(n) / IPv6(**V6) / tcp(n)),
    "VXLAN in GRE": (
        TCPV4 | ECN,
        lambda n: outer(n) / GRE(proto=0x0800) / IP(**OUTER4, id=n) / ported() / VXLAN(vni=9) / LINK / ip(n) / tcp(n),
    ),
}


def super_frame(headers: Callable[[int], Packet], payload: bytes, gso_type: int, flags: int = NEEDS_CSUM) -> Frame:
    """What the kernel would hold: the first segment's headers before the whole payload, the last one's flags added."""
    packet = headers(0) / payload
    kind, offset = (UDP, 6) if gso_type == UDP_L4 else (TCP, 16)
    innermost = packet.getlayer(kind, sum(layer is kind for layer in packet.layers()))
    if kind is TCP:
        innermost.flags = "ACPF"
    data = bytes(packet)
    start = len(data) - len(bytes(innermost))
    vnet = Vnet(flags, gso_type, 0, MSS, start, offset) if flags else Vnet(flags, gso_type, 0, MSS)
    return Frame(data, len(data), vnet=vnet)


def built(headers: Callable[[int], Packet], pieces: list[bytes] = PIECES) -> list[bytes]:
    return [bytes(headers(n) / piece) for n, piece in enumerate(pieces)]


def forward(frame: Frame, dataplane: str) -> Result:
    return step(ForwardPlan(encap.bare()), dataplane)(frame)


@pytest.mark.parametrize("case", CASES)
def test_segments_are_what_scapy_builds(case: str, dataplane: str) -> None:
    gso_type, headers = CASES[case]
    result = forward(super_frame(headers, PAYLOAD, gso_type), dataplane)
    assert result.copies == built(headers)
    assert result[2:6] == (None, 0, 1, 0)


@pytest.mark.parametrize("case", ["TCP over IPv4", "TCP over IPv6", "a VLAN tag", "UDP over IPv4"])
@pytest.mark.parametrize("flags", [0, NEEDS_CSUM], ids=["merged", "said to be unfinished"])
@pytest.mark.parametrize("field", [None, 0, 0xFFFF], ids=["whole", "zero", "any"])
def test_whatever_is_in_the_checksum_field(case: str, flags: int, field: int | None, dataplane: str) -> None:
    """A driver sums the pseudo-header up with the length of the whole, with none, or a device has finished it."""
    gso_type, headers = CASES[case]
    frame = super_frame(headers, PAYLOAD, gso_type, flags=flags)
    if field is not None:
        known = super_frame(headers, PAYLOAD, gso_type).vnet
        at = known.csum_start + known.csum_offset
        frame = frame._replace(data=frame.data[:at] + field.to_bytes(2, "big") + frame.data[at + 2 :])
    assert forward(frame, dataplane).copies == built(headers)


@pytest.mark.parametrize("case", ["TCP over IPv4", "a VLAN tag", "VXLAN, checksum"])
def test_the_tag_that_the_kernel_took_is_in_every_segment(case: str, dataplane: str) -> None:
    gso_type, headers = CASES[case]
    frame = super_frame(headers, PAYLOAD, gso_type)._replace(tag=Tag(0x88A8, 0x6007))
    tagged = [data[:12] + bytes.fromhex("88a86007") + data[12:] for data in built(headers)]
    assert forward(frame, dataplane).copies == tagged


@pytest.mark.parametrize("length", [0, 1, MSS - 1, MSS])
def test_one_segment_is_not_counted_as_split(length: int, dataplane: str) -> None:
    frame = super_frame(lambda n: LINK / ip(n) / tcp(LAST), PAYLOAD[:length], TCPV4)
    result = forward(frame, dataplane)
    # The only segment is the first and the last: it keeps every flag.
    (copy,) = result.copies
    assert TCP in Ether(copy)
    assert Ether(copy)[TCP].flags == "ACPF"
    assert copy == frame.data
    assert result.segmented == 0


def test_big_tcp_loses_its_jumbo_option(dataplane: str) -> None:
    payload = bytes(range(256)) * 300  # over 64 KiB
    pieces = [payload[at : at + MSS] for at in range(0, len(payload), MSS)]

    def flagged(n: int) -> Packet:
        return TCP(
            sport=5000,
            dport=80,
            seq=n * MSS,
            flags="ACPF" if n < 0 else "A" + "C" * (not n) + "PF" * (n == len(pieces) - 1),
        )

    jumbo = struct.pack("!BBBBI", 6, 0, 0xC2, 4, 8 + 20 + len(payload))  # RFC 2675 2
    data = bytes(
        LINK / IPv6(**V6, nh=0, plen=0) / (jumbo + bytes(flagged(0))[:13] + b"\x99" + bytes(flagged(0))[14:] + payload)
    )
    frame = Frame(data, len(data), vnet=Vnet(NEEDS_CSUM, TCPV6 | ECN, 0, MSS, 14 + 40 + 8, 16))
    assert forward(frame, dataplane).copies == built(lambda n: LINK / IPv6(**V6) / flagged(n), pieces)


@pytest.mark.parametrize(
    "change",
    [
        {"gso_size": 0},
        {"gso_type": 3},
        {"gso_type": UDP_L4},
        {"csum_start": 33},
        {"csum_start": 14},
        {"csum_start": 60000},
    ],
)
def test_what_does_not_fit_together_is_malformed(change: dict[str, int], dataplane: str) -> None:
    frame = super_frame(CASES["TCP over IPv4"][1], PAYLOAD, TCPV4)
    result = forward(frame._replace(vnet=frame.vnet._replace(**change)), dataplane)
    assert (result.copies, result.reason) == ([], Slot.dropped_malformed)


def test_a_super_frame_that_the_capture_cut_is_malformed(dataplane: str) -> None:
    frame = super_frame(CASES["TCP over IPv4"][1], PAYLOAD, TCPV4)
    assert forward(frame._replace(data=frame.data[:-1]), dataplane).reason is Slot.dropped_malformed
