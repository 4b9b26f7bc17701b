"""Headers as scapy reads them; and what a flow's hash has to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert, fragment
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    fragment6,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import ARP, GRE, Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet

from mirrord.dataplane.forward import encap
from mirrord.dataplane.forward.step import Copy
from mirrord.dataplane.frame.headers import parse
from mirrord.dataplane.frame.wire import Frame
from mirrord.plans import ForwardPlan
from tests.support.packets import LINK, V4
from tests.support.planes import step

V6 = IPv6(src="2001:db8::1", dst="2001:db8::2")
EXTENSIONS = V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting(addresses=["::1"]) / IPv6ExtHdrDestOpt()
PACKETS = [
    LINK / V4 / TCP(sport=1000, dport=80),
    LINK / IP(src="10.0.0.1", dst="10.0.0.2", options=[IPOption_Router_Alert()]) / UDP(sport=53, dport=1234),
    LINK / V4 / SCTP(sport=7, dport=8),
    LINK / V4 / ICMP(),
    LINK / V4 / GRE() / V4 / TCP(),
    LINK / V6 / TCP(sport=1000, dport=80),
    LINK / V6 / ICMPv6EchoRequest(),
    LINK / EXTENSIONS / UDP(sport=1, dport=65535),
    LINK / Dot1Q(vlan=5, prio=3) / V4 / UDP(sport=1, dport=2),
    LINK / Dot1AD(vlan=7) / Dot1Q(vlan=5) / V6 / TCP(sport=3, dport=4),
    LINK / ARP(psrc="10.0.0.1", pdst="10.0.0.2"),
    *fragment(LINK / V4 / UDP(sport=1, dport=2) / bytes(3000)),
    *(LINK / piece for piece in fragment6(V6 / IPv6ExtHdrFragment() / UDP(sport=1, dport=2) / bytes(3000), 1280)),
]
PROTOCOLS = {TCP: 6, UDP: 17, SCTP: 132, ICMP: 1, GRE: 47, ICMPv6EchoRequest: 58}


@pytest.mark.parametrize("packet", PACKETS, ids=lambda packet: packet.summary())
def test_headers_are_what_scapy_reads(packet: Packet) -> None:
    data = bytes(packet)
    read, headers = Ether(data), parse(data)
    tags = [layer.vlan for layer in (read.getlayer(Dot1AD), read.getlayer(Dot1Q)) if layer]
    assert [tag.vid for tag in headers.tags] == tags
    network = read.getlayer(IP) or read.getlayer(IPv6)
    assert headers.family == (network.version if network else 0)
    if network is None:
        assert (headers.ethertype, headers.source, headers.protocol) == (0x0806, data[6:12], None)
        return
    assert (ip_address(headers.source), ip_address(headers.destination)) == tuple(
        map(ip_address, (network.src, network.dst))
    )
    piece = read.getlayer(IPv6ExtHdrFragment)
    offset = piece.offset if piece else network.frag if headers.family == 4 else 0
    more = bool(piece.m) if piece else headers.family == 4 and "MF" in network.flags
    assert headers.fragment == (offset > 0 or more)
    if offset:
        assert (headers.protocol, headers.transport, headers.source_port) == (17, None, None)
        return
    kind = next(kind for kind in read.layers() if kind in PROTOCOLS)
    transport = read[kind]
    assert headers.protocol == PROTOCOLS[kind]
    assert headers.transport is not None
    assert data[headers.transport :][:4] == bytes(transport)[:4]
    ports = (transport.sport, transport.dport) if kind in (TCP, UDP, SCTP) else (None, None)
    assert (headers.source_port, headers.destination_port) == ports


def test_an_authentication_header_is_looked_through() -> None:
    authentication = AH(icv=bytes(12), nh=6, payloadlen=4)  # 24 bytes, in units of four less two: RFC 4302 2.2
    headers = parse(bytes(LINK / V6 / authentication / TCP(sport=5, dport=6)))
    assert (headers.protocol, headers.transport) == (6, 14 + 40 + 24)
    assert (headers.source_port, headers.destination_port) == (5, 6)


Hash = Callable[[Packet | bytes], int]


@pytest.fixture
def flow(dataplane: str) -> Hash:
    forward = step(ForwardPlan(encap.bare()), dataplane)
    return lambda packet: forward(Frame(bytes(packet), len(bytes(packet)))).flow


LIES = {  # what of a packet lies or is cut short, and what is known all the same: family, protocol, transport
    "a runt": (bytes(LINK / V4)[:13], (0, None, None)),
    "IPv4, cut in its header": (bytes(LINK / V4 / UDP())[: 14 + 19], (0, None, None)),
    "IPv4 of version 5": (bytes(LINK / IP(version=5) / UDP()), (0, None, None)),
    "IPv4, whose header is shorter than one can be": (bytes(LINK / IP(ihl=4) / UDP()), (0, None, None)),
    "IPv4, whose options are cut": (bytes(LINK / IP(ihl=15) / UDP()), (0, None, None)),
    "IPv6, cut in its header": (bytes(LINK / V6 / UDP())[: 14 + 39], (0, None, None)),
    "IPv6 of version 4": (bytes(LINK / IPv6(version=4) / UDP()), (0, None, None)),
    "an extension header, cut": (bytes(LINK / V6 / IPv6ExtHdrHopByHop())[: 14 + 40 + 7], (6, None, None)),
    "an extension header behind a later fragment": (
        bytes(LINK / V6 / IPv6ExtHdrFragment(offset=9, nh=60) / bytes(20)),
        (6, None, None),
    ),
    "ports, cut": (bytes(LINK / V4 / UDP())[: 34 + 3], (4, 17, 34)),
}


@pytest.mark.parametrize(("data", "known"), LIES.values(), ids=LIES)
def test_what_is_cut_short_or_lies_ends_the_parse_there(data: bytes, known: tuple[int, int | None, int | None]) -> None:
    """RFC 791 3.1, RFC 8200 3 and 4: a length that is less than a header's least is none."""
    headers = parse(data)
    assert (headers.family, headers.protocol, headers.transport) == known
    assert headers.source_port is headers.destination_port is headers.tcp_flags is None


def test_seven_extension_headers_hide_what_follows() -> None:
    chain = V6 / IPv6ExtHdrDestOpt()
    for _ in range(6):
        chain /= IPv6ExtHdrDestOpt()
    headers = parse(bytes(LINK / chain / UDP(sport=1, dport=2)))
    assert (headers.family, headers.protocol, headers.transport) == (6, None, None)


@pytest.mark.parametrize("length", [0, 1])
def test_icmp_that_is_cut_has_the_type_that_is_there(length: int) -> None:
    headers = parse(bytes(LINK / V4 / ICMP(type=8, code=3))[: 34 + length])
    assert (headers.icmp_type, headers.icmp_code) == ((8, None) if length else (None, None))


def test_both_directions_are_one_flow(flow: Hash) -> None:
    for there, back in (
        (V4 / TCP(sport=5000, dport=80), IP(src=V4.dst, dst=V4.src) / TCP(sport=80, dport=5000)),
        (V6 / UDP(sport=5000, dport=53), IPv6(src=V6.dst, dst=V6.src) / UDP(sport=53, dport=5000)),
    ):
        assert flow(LINK / there) == flow(Ether(src=LINK.dst, dst=LINK.src) / back)
        assert flow(LINK / there) == flow(LINK / Dot1Q(vlan=5) / there)
    assert flow(LINK / V4 / TCP(sport=5000, dport=80)) != flow(LINK / V4 / UDP(sport=5000, dport=80))
    assert flow(LINK / V4 / TCP(sport=5000, dport=80)) != flow(LINK / V4 / TCP(sport=80, dport=5000))


def test_every_fragment_of_a_host_pair_hashes_without_ports(flow: Hash) -> None:
    pieces = fragment(LINK / V4 / UDP(sport=1, dport=2) / bytes(4000))
    pieces += fragment(LINK / V4 / UDP(sport=3, dport=4) / bytes(4000))
    assert len({flow(piece) for piece in pieces}) == 1
    pieces = fragment6(V6 / IPv6ExtHdrFragment() / UDP(sport=1, dport=2) / bytes(4000), 1280)
    assert len({flow(LINK / piece) for piece in pieces}) == 1
    pieces = fragment6(V6 / IPv6ExtHdrFragment() / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2) / bytes(4000), 1280)
    assert len({flow(LINK / piece) for piece in pieces}) == 1  # only the first shows what is behind the options


def test_flows_spread_evenly_and_sampling_does_not_thin_the_ports(flow: Hash) -> None:
    one = bytes(LINK / IP(src="0.0.0.0", dst="10.0.0.2") / TCP(sport=0, dport=443))
    flows = [
        flow(one[:26] + bytes([10, 1, a, b]) + one[30:34] + (40000 + b).to_bytes(2, "big") + one[36:])
        for a in range(20)
        for b in range(200)
    ]
    kept = [hashed for hashed in flows if (hashed & 0xFFFFFFFF) % 4 == 0]
    assert abs(len(kept) - 1000) < 5 * (4000 * 0.25 * 0.75) ** 0.5
    for some in (flows, kept):
        ports = Counter(Copy(b"", hashed).source_port for hashed in some)
        assert all(49152 <= port <= 65535 for port in ports)
        # Of 16384 ports, n flows take 16384 (1 - e^(-n / 16384)) on average, and rarely 3 % fewer.
        assert len(ports) > 0.97 * 16384 * (1 - 2.718281828 ** (-len(some) / 16384))
        # Chi-squared over 32 groups, the sockets of a destination: below 80 but for one in 10^5 even hashes.
        groups = Counter((hashed >> 32) * 32 >> 32 for hashed in some)
        expected = len(some) / 32
        assert sum((groups[group] - expected) ** 2 / expected for group in range(32)) < 80
