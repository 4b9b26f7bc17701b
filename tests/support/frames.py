"""Hypothesis strategies: captured frames with what the kernel tells beside them, sound and unsound, and forward plans.

A super-frame here is built as the kernel would hold it: headers of any stack of tunnels, the vnet header that fits, and
a payload of many segments. Addresses and ports are those of `tests.support.selections`, so that rules do hit.
"""

from __future__ import annotations

import struct
from dataclasses import replace

from hypothesis import strategies as st
from scapy.utils import checksum

from mirrord.dataplane.counters import Slot
from mirrord.dataplane.filter.rules import Selection
from mirrord.dataplane.forward import encap
from mirrord.dataplane.frame.headers import Tag
from mirrord.dataplane.frame.told import Told
from mirrord.dataplane.frame.wire import TRIMMED, Frame, Vnet
from mirrord.plans import FlowLimit, ForwardPlan, Inside, OnMtuExceeded, Payload, Remote
from tests.support.selections import IPV4, IPV6, PORTS, VLANS, frames, selections

MACS = bytes.fromhex("020000000002020000000001")
TCP, UDP = 6, 17
GSO_TYPES = {(TCP, 0x0800): 1, (TCP, 0x86DD): 4, (UDP, 0x0800): 5, (UDP, 0x86DD): 5}  # linux/virtio_net.h
TEMPLATES = [
    encap.bare(),
    encap.bare(),
    encap.vxlan(5),
    encap.geneve(encap.Ids(5, 7, guest=True), metadata_of=9),
    encap.gre(77),
    encap.erspan_ii(9, cos=3, index=5),
    encap.erspan_iii(encap.Ids(9, 1000), sgt=4),
]
TOLD = st.sampled_from([Told(), Told(), Told(1, 1 << 60, device=7), Told(2, 0, 5, 7, 2, truncated=True)])
CSUM_OFFSET = {TCP: 16, UDP: 6}

tags = st.builds(Tag, st.sampled_from([0x8100, 0x88A8, 0x9100]), st.sampled_from([0, 5, 0x1005, 0xE06F]))
halves = st.sampled_from([0, 1, 13, 14, 34, 54, 0x8100, 0xFFFF]) | st.integers(0, 0xFFFF)
payloads = st.builds(
    lambda pattern, length: (pattern * (length // len(pattern) + 1))[:length],
    st.binary(min_size=1, max_size=5),
    st.sampled_from([0, 1, 2, 7, 8, 9, 100, 1001, 3000, 4000, 70000]),
)


def _transport(draw: st.DrawFn, protocol: int, payload: bytes) -> bytes:
    ports = struct.pack("!HH", draw(st.sampled_from(PORTS)), draw(st.sampled_from(PORTS)))
    field = draw(st.sampled_from([0, 0x1234, 0xFFFF]))
    if protocol == UDP:
        return ports + struct.pack("!HH", len(payload) + 8 & 0xFFFF, field) + payload
    options = draw(st.sampled_from([0, 0, 12, 40]))
    sequence = draw(st.sampled_from([0, 1000, 0xFFFFFFF0]))
    flags = (20 + options) // 4 << 12 | draw(st.sampled_from([0x10, 0x18, 0x19, 0x98, 0x1FF, 0xFFF]))
    return ports + struct.pack("!IIHHHH", sequence, 7, flags, 512, field, 0) + b"\1" * options + payload


def _network(draw: st.DrawFn, protocol: int, inner: bytes) -> tuple[int, bytes]:
    """An ethertype, and the packet."""
    if draw(st.booleans()):
        options = draw(st.sampled_from([0, 0, 4, 40]))
        length, number = len(inner) + 20 + options & 0xFFFF, draw(st.sampled_from([0, 7, 0xFFFE]))
        header = struct.pack("!BBHHHBBH", 0x45 + options // 4, 0, length, number, 0x4000, 64, protocol, 0)
        return 0x0800, header + b"".join(draw(st.sampled_from(IPV4)).packed for _ in range(2)) + bytes(options) + inner
    following, extensions = protocol, b""
    if draw(st.sampled_from(range(4))) == 0:
        following, extensions = 60, bytes([protocol, 1]) + b"\1\4" + bytes(12)
    if len(inner) > 65535 or draw(st.sampled_from(range(4))) == 0:  # BIG TCP: a jumbo payload option
        jumbo = struct.pack("!BBBBI", following, 0, 0xC2, 4, len(extensions) + len(inner) + 8)
        following, extensions = 0, jumbo + extensions
    ends = b"".join(draw(st.sampled_from(IPV6)).packed for _ in range(2))
    length = len(extensions) + len(inner)
    return 0x86DD, struct.pack("!IHBB", 6 << 28, length & 0xFFFF, following, 64) + ends + extensions + inner


def _link(draw: st.DrawFn, ethertype: int, inner: bytes) -> bytes:
    data = MACS
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        tpid = draw(st.sampled_from([0x8100, 0x88A8]))
        data += struct.pack("!HH", tpid, draw(st.sampled_from(VLANS)))
    return data + struct.pack("!H", ethertype) + inner


def _tunnel(draw: st.DrawFn, ethertype: int, inner: bytes) -> tuple[int, bytes]:
    """The packet inside of a tunnel's."""
    kind = draw(st.sampled_from(["vxlan", "geneve", "gre", "ip"]))
    if kind == "ip":
        return _network(draw, 4 if ethertype == 0x0800 else 41, inner)
    if kind == "gre":
        flags = draw(st.sampled_from([0, 0x8000, 0x2000, 0xA000, 0xB000]))
        if draw(st.booleans()):
            ethertype, inner = 0x6558, _link(draw, ethertype, inner)
        header = struct.pack("!HH", flags, ethertype) + b"\x55" * (4 * (flags & 0xB000).bit_count())
        return _network(draw, 47, header + inner)
    inner = _link(draw, ethertype, inner)
    if kind == "vxlan":
        header, port = struct.pack("!II", 0x08000000, 5 << 8), 4789
    else:
        units = draw(st.sampled_from([0, 1, 2]))
        header, port = struct.pack("!BBHI", units, 0, 0x6558, 5 << 8) + bytes(4 * units), 6081
    field = draw(st.sampled_from([0, 0, 0x1234]))
    header = struct.pack("!HHHH", 50000, port, len(header) + len(inner) + 8 & 0xFFFF, field) + header
    return _network(draw, UDP, header + inner)


def _frame(draw: st.DrawFn, data: bytes, vnet: Vnet) -> Frame:
    frame = Frame(data, len(data), draw(st.booleans()), draw(st.none() | tags), vnet, 0)
    return frame._replace(told=draw(TOLD))


@st.composite
def super_frames(draw: st.DrawFn) -> Frame:
    """A TCP or UDP super-frame, bare or in tunnels, as sent (checksum left to the device) or as merged (complete)."""
    protocol, payload = draw(st.sampled_from([TCP, UDP])), draw(payloads)
    segment = _transport(draw, protocol, payload)
    ethertype, packet = _network(draw, protocol, segment)
    kind = GSO_TYPES[protocol, ethertype] | (draw(st.sampled_from([0, 0x80])) if protocol == TCP else 0)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2]))):
        ethertype, packet = _tunnel(draw, ethertype, packet)
    data = _link(draw, ethertype, packet)
    at_most = draw(st.sampled_from([5, 40, 300]))  # segments: more than a batch of the native core, sometimes
    size = max(draw(st.sampled_from([1, 3, 8, 100, 1001, 1448, 65535])), len(payload) // at_most)
    if draw(st.booleans()):
        return _frame(draw, data, Vnet(0, kind, 0, size, 0, 0))
    start = len(data) - len(segment)
    return _frame(draw, data, Vnet(1, kind, start + 8, size, start & 0xFFFF, CSUM_OFFSET[protocol]))


@st.composite
def plain_tunnelled(draw: st.DrawFn) -> Frame:
    """A tunnel's packet of ordinary size, perhaps padded, or a first fragment, or with an unfinished checksum."""
    protocol = draw(st.sampled_from([TCP, UDP]))
    segment = _transport(draw, protocol, draw(payloads)[:1400])
    ethertype, packet = _tunnel(draw, *_network(draw, protocol, segment))
    data = bytearray(_link(draw, ethertype, packet))
    start, vnet = len(data) - len(segment), Vnet()
    if draw(st.booleans()):
        vnet = Vnet(1, 0, 0, 0, draw(st.sampled_from([start, 34, 54])), CSUM_OFFSET[protocol])
    if draw(st.sampled_from(range(4))) == 0 and len(data) > 34:
        data[20] |= 0x20  # more fragments, where there is no tag
    return _frame(draw, bytes(data) + bytes(draw(st.sampled_from([0, 0, 6, 46]))), vnet)


def tunnelled() -> st.SearchStrategy[Frame]:
    """What may be a tunnel's packet, sound and unsound."""
    sound = plain_tunnelled() | super_frames()
    return sound | sound | mutated(sound)


@st.composite
def unfinished_frames(draw: st.DrawFn) -> Frame:
    """A frame of ordinary size whose checksum was left to the device."""
    protocol = draw(st.sampled_from([TCP, UDP]))
    segment = _transport(draw, protocol, draw(payloads)[:1400])
    ethertype, packet = _network(draw, protocol, segment)
    for _ in range(draw(st.sampled_from([0, 0, 1]))):
        ethertype, packet = _tunnel(draw, ethertype, packet)
    data = _link(draw, ethertype, packet)
    start, offset = len(data) - len(segment), CSUM_OFFSET[protocol]
    if draw(st.booleans()):
        data = _finished(data, start, offset, draw(st.integers(-1, 1)))
    padding = bytes(draw(st.sampled_from([0, 0, 6])))
    return _frame(draw, data + padding, Vnet(1, 0, 0, 0, start, draw(st.sampled_from([offset] * 3 + [8]))))  # 8: SCTP


def _finished(data: bytes, start: int, offset: int, by: int) -> bytes:
    """With the checksum that is right for the addresses before the transport header, or off by one."""
    ends = data[start - 8 : start] if data[start - 20] == 0x45 else data[start - 32 : start]
    pseudo = ends + struct.pack("!IH", len(data) - start, TCP if offset == CSUM_OFFSET[TCP] else UDP)
    at = start + offset
    value: int = checksum(pseudo + data[start:at] + bytes(2) + data[at + 2 :]) + by
    return data[:at] + (value & 0xFFFF).to_bytes(2, "big") + data[at + 2 :]


@st.composite
def plain_frames(draw: st.DrawFn) -> Frame:
    return _frame(draw, draw(frames()) + draw(payloads)[:1400], Vnet())


@st.composite
def mutated(draw: st.DrawFn, sound: st.SearchStrategy[Frame]) -> Frame:
    """A frame with one to three things wrong."""
    frame = draw(sound)
    for _ in range(draw(st.integers(1, 3))):
        what = draw(st.sampled_from(["cut", "captured in part", "trimmed", "byte", "length", "vnet"]))
        at = draw(st.integers(0, min(len(frame.data), 200)))
        if what == "cut":
            frame = frame._replace(data=frame.data[:at], length=at)
        elif what == "captured in part":
            frame = frame._replace(data=frame.data[:at])
        elif what == "trimmed":
            frame = frame._replace(data=frame.data[:TRIMMED])
        elif what == "byte" and at < len(frame.data):
            value = draw(st.sampled_from([0, 1, 0x45, 0x60, 0x81, 0xFF]) | st.integers(0, 255))
            frame = frame._replace(data=frame.data[:at] + bytes([value]) + frame.data[at + 1 :])
        elif what == "length" and at + 2 <= len(frame.data):
            frame = frame._replace(data=frame.data[:at] + struct.pack("!H", draw(halves)) + frame.data[at + 2 :])
        else:
            fields = draw(st.dictionaries(st.sampled_from(["gso_size", "csum_start", "csum_offset"]), halves))
            kind, flags = draw(st.sampled_from([0, 1, 3, 4, 5, 0x80, 0x81, 0xFF])), draw(st.sampled_from([0, 1, 2, 3]))
            frame = frame._replace(vnet=frame.vnet._replace(flags=flags, gso_type=kind, **fields))
    return frame


def captured() -> st.SearchStrategy[Frame]:
    """Any frame: most are as the kernel would give them."""
    sound = st.one_of(super_frames(), unfinished_frames(), plain_frames())
    return st.one_of(sound, sound, mutated(sound))


def insides() -> st.SearchStrategy[Inside]:
    """Tunnels as `super_frames` makes them, and others; mostly all that is inside is wanted."""
    return st.builds(
        Inside,
        selection=st.just(Selection()) | selections(),
        vxlan_port=st.sampled_from([0, 4789, 4789, 8472]),
        geneve_port=st.sampled_from([0, 6081, 6081]),
        gre=st.booleans(),
        ident=st.sampled_from([5, 5, 0x55555555, 0]),
        any_ident=st.booleans(),
        strip=st.booleans(),
    )


def remotes() -> st.SearchStrategy[tuple[Remote, ...]]:
    """Several collectors, one of which is alive."""
    limits = st.sampled_from([0, 60, 1000, 1514])
    one = st.builds(Remote, st.integers(0, 2**64 - 1), st.booleans(), limits, limits, st.sampled_from([0, 42, 62]))
    return st.lists(one, min_size=2, max_size=16).map(lambda row: (*row[:-1], replace(row[-1], alive=True)))


def plans() -> st.SearchStrategy[ForwardPlan]:
    limits = st.sampled_from([0, 0, 14, 60, 64, 1000, 1514]) | st.integers(14, 1600)
    return st.builds(
        ForwardPlan,
        template=st.sampled_from(TEMPLATES),
        snaplen=limits,
        payload=st.sampled_from([Payload.keep, Payload.keep, Payload.zero, Payload.tls]),
        past_headers=st.sampled_from([None, None, 0, 64]),
        frame_limit=limits,
        longest=st.sampled_from([0, 0, 0, 60, 1000, 1514]),
        on_mtu_exceeded=st.sampled_from(OnMtuExceeded),
        sampling_rate=st.sampled_from([1, 1, 1, 2, 3, (1 << 31) - 1]),
        overload=st.booleans(),
        least_level=st.sampled_from([0, 0, 1, 16]),
        flow_limit=st.none()
        | st.builds(
            FlowLimit, packets=st.sampled_from([1, 3]), headers=st.booleans(), flows=st.sampled_from([0, 1, 9])
        ),
        rate_limit=st.sampled_from([0, 0, 1, 1_000_000, 1_000_000_000, 500_000_000_000, 10**14]),
        packet_limit=st.sampled_from([0, 0, 0, 1, 1000, 10_000_000, (1 << 31) - 1]),
        strip_tag=st.booleans(),
        push_tag=st.sampled_from([0, 0, 111]),
        tpid=st.sampled_from([0, 0, 0x8100, 0x88A8]),
        strip_ethernet=st.sampled_from([False, False, True]),
        overhead=st.sampled_from([0, 42, 40_000]),  # the last empties a bucket with two frames
        remotes=st.just(()) | remotes(),
        spread_all=st.booleans(),
        exact=st.none() | st.none() | selections(),
        inside=st.none() | st.none() | insides(),
        blocked=st.sampled_from([*[None] * 8, Slot.skipped_paused, Slot.dropped_link_down]),
    )
