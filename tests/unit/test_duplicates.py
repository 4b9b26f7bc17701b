"""Packets that pass several sources: what is the same, when, and for whom; and the two planes against each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

from mirrord.dataplane.counters import Slot
from mirrord.dataplane.forward import encap
from mirrord.dataplane.forward.duplicates import MOST, Duplicates
from mirrord.dataplane.forward.step import Forward
from mirrord.dataplane.frame.headers import Tag
from mirrord.dataplane.frame.wire import Frame, Vnet
from mirrord.dataplane.native import core
from mirrord.plans import ForwardPlan
from tests.support.frames import captured
from tests.unit.test_planes import NOW, THOROUGH, pauses

MILLISECOND = 1_000_000
PLAN = ForwardPlan(encap.bare(), duplicate_window=MILLISECOND)
A, B = "192.0.2.1", "192.0.2.2"
MACS = "02:00:00:00:00:01", "02:00:00:00:00:02"


class Sources:
    """The steps of a mirror's sources to one destination."""

    def __init__(self, dataplane: str, count: int = 3, plan: ForwardPlan = PLAN) -> None:
        duplicates = Duplicates(native=dataplane == "native")
        self._steps: list[Forward | core.Forward] = []
        for n in range(count):
            made = Forward(plan) if dataplane == "python" else core.Forward(plan, None)
            place = duplicates.place(n)
            if isinstance(made, Forward):
                made.watch(duplicates, place)
            else:
                made.watch(duplicates.native, place)
            self._steps.append(made)

    def reason(self, source: int, frame: Frame) -> Slot | None:
        reason = self._steps[source](frame).reason
        return None if reason is None else Slot(reason)

    def copied(self, sightings: Sequence[tuple[int, Frame]]) -> list[bool]:
        """Of each whether it was; what was not is a duplicate."""
        reasons = [self.reason(source, frame) for source, frame in sightings]
        assert set(reasons) <= {None, Slot.skipped_duplicate}
        return [reason is None for reason in reasons]


def frame(packet: Packet, time: int = 0, macs: tuple[str, str] = MACS) -> Frame:
    data = bytes(Ether(src=macs[0], dst=macs[1]) / packet)
    return Frame(data, len(data), time=NOW + time)


def udp(payload: bytes = b"x", **header: object) -> Packet:
    return IP(src=A, dst=B, **header) / UDP(sport=1, dport=2) / payload


def test_a_packet_is_copied_once_whichever_source_shows_it_first(dataplane: str) -> None:
    one, two = frame(udp(b"one")), frame(udp(b"two"))
    sightings = [(0, one), (1, one), (1, two), (2, one), (0, two), (2, two)]
    assert Sources(dataplane).copied(sightings) == [1, 0, 1, 0, 0, 0]


def test_what_a_source_shows_again_is_another_packet(dataplane: str) -> None:
    """Equal acknowledgements, each through three sources; however their sightings are mixed, each is copied once."""
    ack = frame(IP(src=A, dst=B, id=0, flags="DF") / TCP(sport=1, dport=2, flags="A", seq=7, ack=9))
    for order in ([0, 1, 2] * 3, [0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 1, 0, 2, 1, 0, 2, 1, 2], [2, 2, 1, 2, 0, 1, 1, 0, 0]):
        assert sum(Sources(dataplane).copied([(source, ack) for source in order])) == 3
    assert Sources(dataplane).copied([(0, ack)] * 100) == [True] * 100


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        (frame(udp(ttl=64)), frame(udp(ttl=63)), True),
        (frame(udp()), frame(Dot1Q(vlan=5) / udp(), macs=MACS[::-1]), True),
        (frame(udp()), frame(udp())._replace(tag=Tag(0x88A8, 7)), True),
        (frame(Dot1Q(vlan=5) / Dot1Q(vlan=6) / udp()), frame(udp()), True),
        (frame(IPv6(hlim=64) / UDP() / b"x"), frame(IPv6(hlim=63) / UDP() / b"x"), True),
        (frame(ARP(psrc=A, pdst=B)), frame(ARP(psrc=A, pdst=B), macs=MACS[::-1]), True),
        (frame(ARP(psrc=A, pdst=B)), frame(ARP(psrc=B, pdst=A)), False),
        (frame(udp(b"a" * 1400)), frame(udp(b"a" * 1399 + b"b")), False),  # over its whole length
        (frame(udp(id=1)), frame(udp(id=2)), False),
        (frame(udp(tos=0)), frame(udp(tos=1)), False),
        (frame(udp(b"")), frame(udp(b"") / b"\0"), False),
        (frame(IP(src=A, dst=B) / ICMP(seq=1)), frame(IP(src=A, dst=B) / ICMP(seq=2)), False),
        (frame(udp()), frame(udp())._replace(length=2000), False),  # of which a part was not captured
        (frame(udp(), 0), frame(udp(), MILLISECOND), True),
        (frame(udp(), MILLISECOND), frame(udp(), 0), True),  # read later, captured before
        (frame(udp(), 0), frame(udp(), MILLISECOND + 1), False),
        (frame(udp(), MILLISECOND + 1), frame(udp(), 0), False),
    ],
)
def test_what_is_the_same_packet(before: Frame, after: Frame, same: bool, dataplane: str) -> None:
    assert Sources(dataplane).copied([(0, before), (1, after)]) == [True, not same]


def test_a_checksum_that_was_left_to_the_device_is_completed_first(dataplane: str) -> None:
    whole = frame(udp(b"payload"))
    at = 14 + 20
    pseudo = 0xC000 + 2 + 0xC000 + 2 * 2 - 1 + 17 + 15  # of the addresses' halves, protocol and length
    pseudo = (0xC000 + 0x0201 + 0xC000 + 0x0202 + 17 + 15) % 0xFFFF
    data = whole.data[: at + 6] + pseudo.to_bytes(2, "big") + whole.data[at + 8 :]
    partial = whole._replace(data=data, vnet=Vnet(1, 0, 0, 0, at, 6))
    assert data != whole.data
    assert Sources(dataplane).copied([(0, partial), (1, whole)]) == [True, False]


def test_a_super_frame_is_a_duplicate_when_all_its_packets_are(dataplane: str) -> None:
    """VIRTIO_NET_HDR_GSO_TCPV4: ten packets of 100 bytes, that another source shows one by one, or but nine of them."""
    tcp = IP(src=A, dst=B, id=1) / TCP(sport=1, dport=2, flags="A") / (bytes(range(250)) * 4)
    large = frame(tcp)._replace(vnet=Vnet(0, 1, 0, 100, 0, 0))
    parts = Forward(ForwardPlan(encap.bare()))(large).copies
    assert len(parts) == 10
    pieces = [Frame(part.data, len(part.data), time=NOW) for part in parts]
    assert Sources(dataplane).copied([(0, large), *((1, one) for one in pieces), (2, large)]) == [1] + [0] * 11
    for missing in (0, 9):
        fewer = [one for n, one in enumerate(pieces) if n != missing]
        sources = Sources(dataplane)
        assert sources.copied([*((0, one) for one in fewer), (1, large)]) == [True] * 10
        assert sources.copied([(2, one) for one in pieces]) == [False] * 10


def test_of_too_many_copies_the_oldest_is_forgotten_and_nothing_lost(dataplane: str) -> None:
    seen = Duplicates()
    sources = Sources("native", 2)

    def copied(source: int, data: bytes) -> bool:
        if dataplane == "native":
            return sources.copied([(source, Frame(data, len(data), time=NOW))]) == [True]
        return not seen.all_seen([data], 0, source, NOW, MILLISECOND)

    data = frame(udp(b"first")).data
    others = [data[:-4] + n.to_bytes(4, "big") for n in range(MOST)]
    assert copied(0, data)
    assert all(copied(0, one) for one in others[1:])
    assert not copied(1, data)
    assert copied(0, others[0])
    assert not copied(1, others[1])
    assert copied(1, data)


@THOROUGH
@given(
    frames=st.lists(captured(), min_size=1, max_size=3),
    sightings=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), pauses | st.just(300_000)), max_size=40),
)
def test_both_planes_know_the_same_duplicates(frames: list[Frame], sightings: list[tuple[int, int, int]]) -> None:
    python, native = Sources("python"), Sources("native")
    times = accumulate((pause for _, _, pause in sightings), initial=NOW)
    for (source, n, _), time in zip(sightings, times, strict=False):
        one = frames[n % len(frames)]._replace(time=time)
        assert native.reason(source, one) == python.reason(source, one)
