"""Copies of other hosts, told from the rest by what they are: scapy's packets of every configured kind of tunnel."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib.erspan import ERSPAN_II, ERSPAN_III
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import GRE, Dot1Q
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet

from mirrord.control.planning.tunnels import Tunnels
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.forward import encap
from mirrord.dataplane.forward.own_copies import NO_GUARDS, Guard, Guards, by_vni
from mirrord.dataplane.forward.step import Forward
from mirrord.dataplane.frame.wire import Frame
from mirrord.dataplane.native import core
from mirrord.model import Config
from mirrord.plans import ForwardPlan
from tests.support.frames import captured
from tests.support.packets import LINK
from tests.support.planes import Step, step
from tests.support.selections import frames, guards

INNER = LINK / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(dport=53) / bytes(20)
TO, FROM = IP(src="192.0.2.1", dst="192.0.2.9"), IP(src="192.0.2.9", dst="192.0.2.1")
TO6 = IPv6(src="2001:db8::1", dst="2001:db8::9")
ELSEWHERE = IP(src="192.0.2.1", dst="192.0.2.8")


def forward(plane: str, **ends: object) -> Step:
    """A step whose configuration has one session with this source or destination."""
    session = {"name": "s", "source": "eth0", "destination": {"type": "device", "device": "eth1"}, **ends}
    known = Tunnels()(Config.model_validate({"mirrors": {"m": {"sessions": [session]}}}))
    return step(ForwardPlan(encap.bare()), plane, guards=known)


def own(forward: Step, packet: Packet) -> bool:
    data = bytes(packet)
    result = forward(Frame(data, len(data)))
    assert result.reason in (None, Slot.skipped_own_copy)
    return result.reason is not None


@pytest.fixture(params=["python", "native"])
def plane(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def gre(protocol: int, **fields: object) -> Packet:
    return GRE(proto=protocol, **fields)


KINDS = [
    (
        {"type": "vxlan", "remote": "192.0.2.9", "vni": 7},
        [TO / UDP(sport=50000) / VXLAN(vni=7) / INNER, FROM / UDP(sport=50000) / VXLAN(vni=7) / INNER,
         TO / UDP(sport=50000, chksum=0) / VXLAN(vni=7) / INNER],
        [TO / UDP(sport=50000) / VXLAN(vni=8) / INNER, ELSEWHERE / UDP(sport=50000) / VXLAN(vni=7) / INNER,
         TO / UDP(dport=2049) / bytes(40), TO / UDP(sport=4789, dport=53) / bytes(40), TO / TCP(dport=4789),
         TO / ICMP(), TO / UDP(dport=4789)],
    ),
    (
        {"type": "vxlan", "remote": "2001:db8::9", "vni": 7, "port": 8472},
        [TO6 / UDP(sport=50000, dport=8472) / VXLAN(vni=7) / INNER],
        [TO6 / UDP(sport=50000, dport=8472) / VXLAN(vni=6) / INNER, TO6 / UDP(dport=4789) / VXLAN(vni=7) / INNER],
    ),
    (
        {"type": "geneve", "remote": "192.0.2.9", "vni": 7},
        [TO / UDP(sport=50000, dport=6081) / GENEVE(vni=7) / INNER],
        [TO / UDP(sport=50000, dport=6081) / GENEVE(vni=9) / INNER],
    ),
    (
        {"type": "gre", "remote": "192.0.2.9"},
        [TO / gre(0x6558) / INNER],
        [TO / gre(0x6558, key_present=1, key=1) / INNER, TO / gre(0x0800) / IP(), ELSEWHERE / gre(0x6558) / INNER],
    ),
    (
        {"type": "gre", "remote": "192.0.2.9", "key": 0x1111},
        [TO / gre(0x6558, key_present=1, key=0x1111) / INNER,
         TO / gre(0x6558, chksum_present=1, key_present=1, key=0x1111) / INNER],
        [TO / gre(0x6558, key_present=1, key=0x1112) / INNER, TO / gre(0x6558) / INNER],
    ),
    (
        {"type": "erspan", "remote": "192.0.2.9", "erspan_type": "I"},
        [TO / gre(0x88BE) / INNER],
        [TO / gre(0x88BE, seqnum_present=1, sequence_number=0) / ERSPAN_II(session_id=0) / INNER],
    ),
    (
        {"type": "erspan", "remote": "192.0.2.9", "erspan_type": "II", "session_id": 7},
        [TO / gre(0x88BE, seqnum_present=1, sequence_number=9) / ERSPAN_II(session_id=7, vlan=5, cos=3) / INNER],
        [TO / gre(0x88BE, seqnum_present=1, sequence_number=9) / ERSPAN_II(session_id=6) / INNER],
    ),
    (
        {"type": "erspan", "remote": "192.0.2.9", "erspan_type": "III", "session_id": 7},
        [TO / gre(0x22EB, seqnum_present=1, sequence_number=9) / ERSPAN_III(session_id=7) / INNER],
        [TO / gre(0x88BE, seqnum_present=1, sequence_number=9) / ERSPAN_II(session_id=7) / INNER],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("destination", "copies", "others"), KINDS, ids=[str(kind[0]) for kind in KINDS])
def test_only_what_is_the_tunnels_is_left_out(
    plane: str, destination: dict[str, object], copies: list[Packet], others: list[Packet]
) -> None:
    step = forward(plane, destination=destination)
    assert [own(step, LINK / packet) for packet in copies] == [True] * len(copies)
    assert [own(step, LINK / packet) for packet in others] == [False] * len(others)
    assert own(step, LINK / Dot1Q(vlan=5) / Dot1Q(vlan=6) / copies[0])
    assert not own(step, INNER)


SOURCES = [
    ({"type": "vxlan", "local": "192.0.2.9"},
     [TO / UDP() / VXLAN(vni=1) / INNER, TO / UDP() / VXLAN(vni=2) / INNER], []),
    ({"type": "vxlan", "local": "0.0.0.0", "vni": 2}, [ELSEWHERE / UDP() / VXLAN(vni=2) / INNER],
     [ELSEWHERE / UDP() / VXLAN(vni=1) / INNER, TO6 / UDP() / VXLAN(vni=2) / INNER]),
    ({"type": "gre", "local": "192.0.2.9"}, [TO / gre(0x6558) / INNER, TO / gre(0x6558, key_present=1, key=5) / INNER],
     [TO / gre(0x0800) / IP()]),
    ({"type": "erspan", "local": "192.0.2.9"},
     [TO / gre(0x88BE) / INNER,
      TO / gre(0x22EB, seqnum_present=1, sequence_number=1) / ERSPAN_III(session_id=1) / INNER],
     [TO / gre(0x6558) / INNER]),
    ({"type": "erspan", "local": "192.0.2.9", "session_id": 1},
     [TO / gre(0x88BE, seqnum_present=1, sequence_number=1) / ERSPAN_II(session_id=1) / INNER],
     [TO / gre(0x88BE, seqnum_present=1, sequence_number=1) / ERSPAN_II(session_id=2) / INNER]),
]  # fmt: skip


@pytest.mark.parametrize(("source", "copies", "others"), SOURCES, ids=[str(kind[0]) for kind in SOURCES])
def test_what_a_listener_takes_is_left_out(
    plane: str, source: dict[str, object], copies: list[Packet], others: list[Packet]
) -> None:
    step = forward(plane, source=source)
    assert [own(step, LINK / packet) for packet in copies] == [True] * len(copies)
    assert [own(step, LINK / packet) for packet in others] == [False] * len(others)


def pieces(packet: Packet) -> list[Packet]:
    whole = packet.__class__(bytes(packet))
    if IPv6 in whole:
        there, rest = IPv6(src=whole.src, dst=whole.dst), whole.payload
        return list(fragment6(there / IPv6ExtHdrFragment(id=77) / rest, 600))
    return list(fragment(whole, 600))


@pytest.mark.parametrize("network", [TO, TO6], ids=["IPv4", "IPv6"])
def test_later_fragments_follow_their_first_one(plane: str, network: Packet) -> None:
    step = forward(plane, destination={"type": "vxlan", "remote": network.dst, "vni": 7})
    large = LINK / IP(dst="10.0.0.2") / UDP() / bytes(1600)
    numbered = network.copy()
    if IP in numbered:
        numbered.id = 5
    copy = pieces(numbered / UDP(sport=50000, dport=4789) / VXLAN(vni=7) / large)
    ordinary = pieces(network.copy() / UDP(dport=2049) / bytes(2000))
    assert [own(step, LINK / part) for part in copy[1:]] == [False] * (len(copy) - 1)  # the first was not seen
    assert [own(step, LINK / part) for part in copy] == [True] * len(copy)
    # the same numbers again, of a datagram that is no copy: the last first fragment counts
    assert [own(step, LINK / part) for part in ordinary] == [False] * len(ordinary)


def test_what_was_seen_of_fragments_outlives_another_tunnel(plane: str) -> None:
    known, other = (Guard(ip_address(address), 17, 4789, by_vni(7)) for address in ("192.0.2.9", "192.0.2.8"))
    plan = ForwardPlan(encap.bare())
    python, native = Forward(plan), core.Forward(plan, None)
    forward = python if plane == "python" else native
    first, *later = pieces(TO / UDP(sport=50000, dport=4789) / VXLAN(vni=7) / LINK / IP(dst="10.0.0.2") / bytes(1600))

    def reason(packet: Packet) -> int | None:
        data = bytes(LINK / packet)
        return forward(Frame(data, len(data))).reason

    for told in (Guards([known]), Guards([other, known])):
        python.guards = told
        native.guard(told.packed)
        if len(told.rows) == 1:
            assert reason(first) == Slot.skipped_own_copy
        assert [reason(part) for part in later] == [Slot.skipped_own_copy] * len(later)
    python.guards = NO_GUARDS
    native.guard(NO_GUARDS.packed)
    assert [reason(part) for part in (first, *later)] == [None] * (1 + len(later))


def test_of_many_guards_each_is_found(plane: str) -> None:
    many = Guards(Guard(ip_address(f"192.0.{n >> 8}.{n & 255}"), 17, 4789) for n in range(1000))
    step_of_many = step(ForwardPlan(encap.bare()), plane, guards=many)
    for n in (0, 1, 499, 998, 999):
        to = IP(src="198.51.100.1", dst=f"192.0.{n >> 8}.{n & 255}")
        assert own(step_of_many, LINK / to / UDP(dport=4789) / bytes(20))
    assert not own(step_of_many, LINK / IP(src="198.51.100.1", dst="192.0.3.232") / UDP(dport=4789) / bytes(20))


@given(known=guards(), sent=st.lists(frames().map(lambda data: Frame(data, len(data))) | captured(), max_size=6))
def test_both_planes_take_the_same_for_copies(known: Guards, sent: list[Frame]) -> None:
    plan = ForwardPlan(encap.bare())
    python, native = step(plan, "python", guards=known), step(plan, "native", guards=known)
    for frame in sent:
        assert native(frame) == python(frame), frame
