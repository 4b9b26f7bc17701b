"""Bytes that a fuzzer chose, read as what a target wants: numbers, choices, rules, plans, frames."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from ipaddress import ip_network
from typing import TypeVar

from mirrord.dataplane.counters import Slot
from mirrord.dataplane.filter.rules import Direction, Rule, Selection
from mirrord.dataplane.forward import encap
from mirrord.dataplane.frame.headers import Tag
from mirrord.dataplane.frame.wire import Frame, Vnet
from mirrord.plans import FlowLimit, ForwardPlan, Inside, OnMtuExceeded, Payload

T = TypeVar("T")
PLAN_SIZE = 96
"""Bytes that a plan is read from; zeros are the plan that changes nothing."""

NOW = 1_700_000_000_000_000_000
PAUSES = (0, 1, 1_000_000, 10_000_000_000, -1_000_000)
HEAD = struct.Struct("<HBHBBBBHHHH")
"""Before each frame's bytes: its length, flags (egress, a tag, more than was captured), the tag's TCI and kind, the
pause before it, and the vnet header.
"""

TPIDS = (0x8100, 0x88A8, 0x9100)
ADDRESSES = ("10.0.0.1", "10.0.1.2", "192.168.0.161", "10.0.0.0/8", "10.0.0.0/31", "0.0.0.0/0")
ADDRESSES6 = ("2001:db8::1", "2001:db8:0:1::2", "ff02::1", "2001:db8::/32", "2001:db8::/63", "::/0")
TEMPLATES = (
    encap.bare(),
    encap.vxlan(5),
    encap.gre(77),
    encap.erspan_ii(9, cos=3, index=5),
    encap.erspan_iii(9, sgt=4),
)


class Words:
    """What is left of the bytes; where nothing is, all is 0."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def number(self) -> int:
        return self.byte() << 8 | self.byte()

    def one_of(self, choices: Sequence[T]) -> T:
        return choices[self.byte() % len(choices)]

    def taken(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]

    @property
    def ended(self) -> bool:
        return self.at >= len(self.data)


def rule(words: Words, priority: int) -> Rule:
    """A rule that asks for some of what rules can ask for: as planning would make it, nothing contradicts."""
    family = words.one_of((None, 4, 6))
    networks = {4: ADDRESSES, 6: ADDRESSES6, None: ADDRESSES}[family]
    asked = words.number()
    protocol = words.one_of((6, 17, 132, 1, 58, 47, 0)) if asked & 1 else None
    with_ports = asked & 2 and protocol in (6, 17, 132)
    low = words.number()
    ports = ((low, min(low + words.byte(), 65535)),) if with_ports else ()
    return Rule(
        priority,
        accept=bool(asked & 4),
        direction=words.one_of((Direction.BOTH, Direction.INGRESS, Direction.EGRESS)),
        family=family if not asked & 24 else family or 4,
        protocol=protocol,
        sources=(ip_network(words.one_of(networks)),) if asked & 8 else (),
        destinations=(ip_network(words.one_of(networks)), ip_network(words.one_of(networks))) if asked & 16 else (),
        source_ports=ports if asked & 32 else (),
        destination_ports=() if asked & 32 else ports,
        vlan=words.one_of((0, 1, 5, 111, 4095)) if asked & 64 else None,
        ethertype=words.one_of((0x0800, 0x86DD, 0x0806, 0x6558)) if asked & 128 and family is None else None,
        source_macs=(b"\2\0\0\0\0\1",) if asked & 4096 else (),
        lengths=((words.number() % 1600, 1600),) if asked & 256 else (),
        dscps=(words.byte() & 63,) if asked & 512 and family else (),
        tcp_flags=((0x12, words.byte() & 0x12),) if asked & 1024 and protocol == 6 else (),
        icmp_types=(words.byte(),) if asked & 2048 and protocol in (1, 58) else (),
    )


def selection(words: Words) -> Selection:
    """A source's, with up to eight rules."""
    count = words.byte() % 9
    return Selection(
        direction=words.one_of((Direction.BOTH, Direction.INGRESS, Direction.EGRESS)),
        rules=tuple(rule(words, n + 1) for n in range(count)) or None,
        vlans=words.one_of((None, None, frozenset((5,)), frozenset((0, 1, 111)))),
        mark_mask=0,
    )


def plan(data: bytes) -> ForwardPlan:
    """A forward plan; zeros are one that changes nothing."""
    words = Words(data)
    limits = (0, 14, 60, 64, 1000, 1514)
    return ForwardPlan(
        template=words.one_of(TEMPLATES),
        snaplen=words.one_of(limits),
        payload=words.one_of((Payload.keep, Payload.zero, Payload.tls)),
        past_headers=words.one_of((None, 0, 64)),
        frame_limit=words.one_of(limits),
        longest=words.one_of((0, 60, 1000, 1514)),
        on_mtu_exceeded=words.one_of(tuple(OnMtuExceeded)),
        sampling_rate=words.one_of((1, 2, 3)),
        overload=words.one_of((False, True)),
        least_level=words.one_of((0, 1, 16)),
        flow_limit=words.one_of((None, FlowLimit(1, flows=9), FlowLimit(3, headers=True, flows=1), FlowLimit(flows=0))),
        rate_limit=words.one_of((0, 1, 1_000_000, 10**9, 10**14)),
        packet_limit=words.one_of((0, 1, 1000, (1 << 31) - 1)),
        strip_tag=words.one_of((False, True)),
        push_tag=words.one_of((0, 111)),
        strip_ethernet=words.one_of((False, True)),
        overhead=words.one_of((0, 42, 40_000)),
        inside=words.one_of((None, Inside(Selection(), 4789, 6081, gre=True), Inside(Selection(), 4789, strip=True))),
        blocked=words.one_of((None, None, None, Slot.skipped_paused)),
        exact=selection(words) if words.byte() & 1 else None,
    )


def frames(data: bytes) -> list[Frame]:
    """Up to eight frames, as a capture would give them."""
    words, time = Words(data), NOW
    found: list[Frame] = []
    while not words.ended and len(found) < 8:
        head = words.taken(HEAD.size).ljust(HEAD.size, b"\0")
        size, flags, tci, kind, pause, *vnet = HEAD.unpack(head)
        octets = words.taken(size)
        time += PAUSES[pause % len(PAUSES)]
        tag = Tag(TPIDS[kind % len(TPIDS)], tci) if flags & 2 else None
        more = 9000 if flags & 4 else 0
        found.append(Frame(octets, len(octets) + more, bool(flags & 1), tag, Vnet._make(vnet), time))
    return found


def packed(frame: Frame) -> bytes:
    """A frame as `frames` reads it."""
    flags = int(frame.egress) | (2 if frame.tag else 0) | (4 if frame.length > len(frame.data) else 0)
    kind = TPIDS.index(frame.tag.tpid) if frame.tag and frame.tag.tpid in TPIDS else 0
    tci = frame.tag.tci if frame.tag else 0
    return HEAD.pack(len(frame.data), flags, tci, kind, 0, *frame.vnet) + frame.data
