"""The flight recorder's ring: what is in it is the last packets, whole, whatever their lengths, as scapy reads them."""

from __future__ import annotations

import io
import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.utils import RawPcapNgReader

from mirrord.cli import pcap
from mirrord.control.planning.plan import Key
from mirrord.control.running.recorders import Recorders
from mirrord.dataplane.filter.rules import Selection
from mirrord.dataplane.forward import encap
from mirrord.dataplane.frame.told import EGRESS
from mirrord.dataplane.frame.wire import Frame
from mirrord.dataplane.memory import Memory
from mirrord.dataplane.transmit import pcapng
from mirrord.dataplane.transmit.recorder import EVICTED, HEAD, TAIL, Recorder, Ring
from mirrord.plans import CapturePlan, DevicePlan, ForwardPlan, PipelinePlan
from tests.support.frames import captured, plans
from tests.support.planes import step

SIZE = 65536
EVERYTHING = 1 << 63
HEADER = pcapng.section("", "") + pcapng.interface("nic", 0, "")
BESIDE = 28 + 16  # bytes of a block beside the packet and its padding: draft-ietf-opsawg-pcapng 4.3, with flags

pytestmark = pytest.mark.parametrize("dataplane", ["python", "native"])


def frame(number: int, length: int) -> Frame:
    data = number.to_bytes(6, "big") + bytes(6) + b"\x88\xb5" + bytes([number & 255]) * (length - 14)
    return Frame(data, length, egress=number % 2 == 1, time=1_700_000_000_000_000_000 + number * 1000)


def fill(ring: Ring, dataplane: str, lengths: list[int], plan: ForwardPlan | None = None) -> None:
    forward = step(plan or ForwardPlan(encap.vxlan(1)), dataplane, None, ring)
    for number, length in enumerate(lengths):
        assert forward(frame(number, length)).copies


def packets(blocks: bytes) -> list[tuple[bytes, int, int]]:
    """What another reader of pcapng finds: the packet, its time, its length on the wire."""
    found = []
    with RawPcapNgReader(io.BytesIO(HEADER + blocks)) as reader:
        for data, about in reader:
            found.append((data, (about.tshigh << 32 | about.tslow), about.wirelen))
    return found


def blocks_of(blocks: bytes) -> list[tuple[bytes, bool]]:
    """Each packet, and whether it was sent, by our own reader, which takes any length."""
    return [(one.data, bool(one.egress)) for one in pcap.packets(io.BytesIO(HEADER + blocks))]


def everything(ring: Ring, most: int = EVERYTHING) -> bytes:
    found, position = b"", 0
    while (read := ring.read(position, EVERYTHING, most)).packets:
        found, position = found + read.blocks, read.end
    return found


def went_out(one: Frame) -> bool:
    """Where it was captured first, if a tunnel told."""
    return one.told.direction == EGRESS if one.told.direction else one.egress


def test_the_last_packets_are_there_whole_and_in_order(dataplane: str) -> None:
    lengths = random.Random(1).choices([60, 61, 62, 63, 64, 1514, 9000], k=500)
    sent = [frame(number, length) for number, length in enumerate(lengths)]
    ring = Ring(SIZE, native=dataplane == "native")
    fill(ring, dataplane, lengths)
    found = packets(everything(ring))
    assert found == [(one.data, one.time, one.length) for one in sent[-len(found) :]]
    taken = sum(BESIDE + length + -length % 4 for length in lengths[-len(found) :])
    before = lengths[-len(found) - 1]
    assert taken <= SIZE < taken + BESIDE + before + -before % 4  # the next older one does not fit
    assert ring.row[HEAD] - ring.row[TAIL] == taken
    assert ring.row[EVICTED] == len(sent) - len(found)
    for most in (1, 100, 5000):
        assert packets(everything(ring, most)) == found


def test_what_is_kept_is_what_leaves_without_outer_headers(dataplane: str) -> None:
    ring = Ring(SIZE, native=dataplane == "native")
    plan = ForwardPlan(encap.vxlan(1), snaplen=70, push_tag=7)
    fill(ring, dataplane, [60, 200], plan)
    expected = [step(plan, dataplane)(frame(n, length)).copies[0][8:] for n, length in enumerate([60, 200])]
    assert [(data, length) for data, _, length in packets(everything(ring))] == [(expected[0], 64), (expected[1], 204)]
    assert [len(one) for one in expected] == [64, 74]


@settings(suppress_health_check=list(HealthCheck))
@given(plan=plans(), sent=st.lists(captured(), min_size=1, max_size=4))
def test_whatever_a_plan_makes_of_frames_is_kept_so(dataplane: str, plan: ForwardPlan, sent: list[Frame]) -> None:
    """Cut, without payload, with other tags, split: the copies themselves, if nothing is put in front of them."""
    ring = Ring(1 << 21, native=dataplane == "native")
    forward = step(replace(plan, template=encap.bare()), dataplane, None, ring)
    copies = [(copy, went_out(one)) for one in sent for copy in forward(one._replace(time=1)).copies]
    kept = [(data, egress) for data, egress in blocks_of(everything(ring))]
    assert kept == copies[len(copies) - len(kept) :]
    assert len(kept) == len(copies) or ring.row[EVICTED]


def test_blocks_from_a_moment_on(dataplane: str) -> None:
    ring = Ring(SIZE, native=dataplane == "native")
    fill(ring, dataplane, [60] * 100)
    blocks = everything(ring)
    for first in (0, 1, 57, 99, 100):
        found = packets(pcapng.since(blocks, frame(first, 60).time))
        assert [data for data, _, _ in found] == [frame(n, 60).data for n in range(first, 100)]


def test_a_reader_that_is_overtaken_is_told_how_many_it_missed(dataplane: str) -> None:
    ring = Ring(SIZE, native=dataplane == "native")
    fill(ring, dataplane, [1000] * 10)
    first = ring.read(0, EVERYTHING, 3000)
    assert (first.packets, first.start, first.before) == (2, 0, 0)
    fill(ring, dataplane, [1000] * 200)
    then = ring.read(first.end, EVERYTHING, 1 << 20)
    assert then.start == ring.row[TAIL] > first.end
    assert then.before + then.packets == 210
    assert ring.read(then.end, EVERYTHING, 1 << 20) == (b"", 0, then.end, then.before)
    assert ring.read(0, then.start + 1044, 1 << 20).packets == 1  # no further than asked


def test_a_packet_larger_than_the_ring_is_not_kept(dataplane: str) -> None:
    ring = Ring(4096, native=dataplane == "native")
    fill(ring, dataplane, [60, 4096 - BESIDE + 1, 60])
    assert len(packets(everything(ring))) == 2
    fill(ring, dataplane, [4096 - BESIDE])
    assert [len(data) for data, _, _ in packets(everything(ring))] == [4096 - BESIDE]


def test_a_recorder_of_the_same_size_holds_what_it_has(dataplane: str) -> None:
    recorder = Recorder(native=dataplane == "native")
    assert recorder.hold(0) is None
    ring = recorder.hold(SIZE)
    assert ring is not None
    fill(ring, dataplane, [60])
    assert recorder.hold(SIZE) is ring
    assert recorder.hold(2 * SIZE) is not ring
    assert recorder.hold(1 << 60) is None  # more than any address space
    assert recorder.short
    assert recorder.hold(0) is None
    assert not recorder.short


def plan_of(size: int) -> PipelinePlan:
    capture = CapturePlan("nic", 1, Selection())
    return PipelinePlan(capture, ForwardPlan(encap.bare()), DevicePlan("up", 2), recorder=size)


def test_recorders_stay_while_their_session_is_enabled(dataplane: str) -> None:
    memory = Memory(3 * SIZE)
    recorders = Recorders(native=dataplane == "native", memory=memory)
    old, new, other = Key("m", "s", "tap1"), Key("m", "s", "tap2"), Key("m", "t", "tap1")
    recorders.plan([old, other])
    first = recorders.of(old, plan_of(SIZE))
    kept = first.ring
    assert recorders.of(other, plan_of(0)).ring is None
    assert recorders.find("m", "s") == {"tap1": first}
    assert recorders.find("m", "t") == {}

    renamed = Key("n", "s", "tap1")
    recorders.rename(old, renamed)
    recorders.plan([renamed])
    assert recorders.of(renamed, plan_of(SIZE)).ring is kept is not None

    recorders.plan([Key("n", "s", "tap9")])  # its device has gone: another is planned and does not run yet
    assert recorders.find("n", "s") == {"tap1": first}
    recorders.of(new._replace(mirror="n"), plan_of(SIZE))
    assert list(recorders.find("n", "s")) == ["tap2"]
    assert first.ring is None

    assert recorders.of(old, plan_of(2 * SIZE)).ring is not None
    assert recorders.of(other, plan_of(SIZE)).short  # there is no memory left
    recorders.plan([other])
    assert recorders.of(other, plan_of(SIZE)).ring is not None
