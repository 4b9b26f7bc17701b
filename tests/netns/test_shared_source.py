"""Sessions that share a source: it is captured once, and each gets what it would get alone.

client eth0 ---- nic [source] uplink ---- eth0 [collector]
"""

from __future__ import annotations

import fcntl
import io
import os
import socket
import struct
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.utils import RawPcapNgReader

from mirrord.dataplane import clock
from mirrord.dataplane.capture import load
from mirrord.dataplane.capture.packet_socket import Capture
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.filter.rules import Direction, Rule, Selection, accepts
from mirrord.dataplane.forward import encap
from mirrord.dataplane.frame.headers import parse
from mirrord.dataplane.netns import find
from mirrord.dataplane.pipeline import Pipeline
from mirrord.dataplane.tap import Tap
from mirrord.dataplane.worker import Worker
from mirrord.plans import CapturePlan, DevicePlan, ForwardPlan, PipelinePlan, StreamPlan
from tests.conftest import MakeDaemon
from tests.support.planes import step
from tests.support.receiver import Receiver
from tests.support.selections import frames, selections
from tests.support.send import send, udp_frame
from tests.support.source import linked
from tests.support.topology import Host, Topology
from tests.support.wait import wait_for

MARK = 0x10000000
CLIENT, SERVER = ("02:00:00:00:00:01", "10.0.0.1"), ("02:00:00:00:00:02", "10.0.0.2")
TURNS = 200


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host, Host]:
    return linked(net)


def taps(host: Host) -> int:
    """How many packet sockets of the host take frames of `nic`, by the kernel's own table."""
    rows = [line.split() for line in host.run("cat", "/proc/net/packet").splitlines()[1:]]
    return sum(row[3] == "0003" and int(row[4]) == host.index("nic") for row in rows)


VXLAN = '{ type = "vxlan", remote = "10.99.0.2", vni = 1, shared_vni = true }'
CONFIGURATION = """
[filters.web]
rules = [ { priority = 1, action = "accept", protocol = "udp", destination_ports = "80" } ]
[filters.not_web]
rules = [ { priority = 1, action = "reject", protocol = "udp", destination_ports = "80" },
          { priority = 2, action = "accept", protocol = "udp" } ]

""" + "".join(
    f"""
[[mirrors.m.sessions]]
name = "{name}"
source = "nic"
destination = {VXLAN}
{more}
"""
    for name, more in {
        "all": "",
        "web": 'filter = "web"\ncount_rules = true',
        "rest": 'filter = "not_web"\ndirection = "ingress"',
        "sent": 'direction = "egress"',
        "apart": 'ring_size = "1MiB"',
    }.items()
)  # fmt: skip


def test_a_source_is_captured_once_and_every_session_gets_its_own(
    hosts: tuple[Host, Host, Host], daemon: MakeDaemon
) -> None:
    client, source, _ = hosts
    mirrord = daemon(source, CONFIGURATION)
    assert taps(source) == 2  # one for those that agree on ring_size, and one for "apart"
    sent = {80: 3, 53: 5}
    for port, count in sent.items():
        send(client, "eth0", udp_frame((*CLIENT, 9), (*SERVER, port)), count)
    send(source, "nic", udp_frame((*SERVER, 9), (*CLIENT, 80)), 7)
    metrics = mirrord.settle(captured=15 + 10 + 5 + 7 + 15)
    expected = {"all": 15, "web": 10, "rest": 5, "sent": 7, "apart": 15}
    for name, count in expected.items():
        for series in ("captured", "mirrored"):
            assert metrics.total(f"mirrord_{series}_frames_total", session=name) == count, (name, series)
    assert metrics.total("mirrord_read_frames_total", session="all", direction="egress") == 7
    assert metrics.total("mirrord_rule_matched_frames_total", filter="web", rule="1") == 10
    assert metrics.total("mirrord_skipped_frames_total") == metrics.total("mirrord_dropped_frames_total") == 0


# --- any set of sessions ---


@dataclass
class Wanted:
    """A session's part of a tap, and what it wrote."""

    pipeline: Pipeline
    descriptor: int

    def copies(self) -> list[bytes]:
        """What was written, as another reader of pcapng sees it."""
        data = os.read(self.descriptor, 1 << 20)
        return [packet for packet, _ in RawPcapNgReader(io.BytesIO(data))]

    def all_copies(self) -> list[bytes]:
        """What was written until the pipeline was closed."""
        with os.fdopen(self.descriptor, "rb") as stream:
            return [packet for packet, _ in RawPcapNgReader(stream)]


def wanted(plan: CapturePlan, selection: Selection, forward: ForwardPlan, dataplane: str) -> Wanted:
    descriptor, end = os.pipe()
    fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 1 << 20)
    pipeline = PipelinePlan(replace(plan, selection=selection), forward, StreamPlan(end, "nic"))
    return Wanted(Pipeline(pipeline, native=dataplane == "native"), descriptor)


def out_by(host: Host, device: str) -> socket.socket:
    """What is sent by it leaves by the device."""
    way = host.open_socket(socket.AF_PACKET, socket.SOCK_RAW)
    way.bind((device, 0))
    return way


shapings = st.builds(
    ForwardPlan,
    template=st.just(encap.packet_block()),
    overhead=st.just(-len(encap.packet_block().header)),
    snaplen=st.sampled_from([0, 0, 64]),
    sampling_rate=st.sampled_from([1, 1, 2]),
    rate_limit=st.sampled_from([0, 0, 1]),
    strip_tag=st.booleans(),
    push_tag=st.sampled_from([0, 0, 7]),
)
THOROUGH = settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)


@pytest.mark.parametrize("together", [False, True], ids=["one device", "several devices"])
@THOROUGH
@given(
    sessions=st.lists(st.tuples(selections(), shapings, st.booleans()), min_size=2, max_size=6),
    sent=st.lists(
        st.tuples(frames().filter(lambda data: 14 < len(data) < 1500), st.booleans(), st.booleans()),
        min_size=4,
        max_size=20,
    ),
)
def test_each_gets_what_it_would_get_alone(
    hosts: tuple[Host, Host, Host],
    dataplane: str,
    sessions: list[tuple[Selection, ForwardPlan, bool]],
    sent: list[tuple[bytes, bool, bool]],
    *,
    together: bool,
) -> None:
    """Of one device, or each of one of two that are captured by one socket."""
    client, source, collector = hosts
    plans = [
        CapturePlan(name, source.index(name), Selection(), "socket", netns=find(source.name), together=together)
        for name in ("nic", "uplink")
    ]
    chosen = [
        (plans[together and other], replace(one, mark=MARK, mark_mask=MARK), forward)
        for one, forward, other in sessions
    ]
    members = [wanted(*session, dataplane) for session in chosen]
    witnesses = [Capture(plan) for plan in plans]
    tap = Tap([member.pipeline for member in members], native=dataplane == "native")
    ways = {
        (egress, other): out_by(host, device)
        for egress, other, host, device in (
            (False, False, client, "eth0"),
            (True, False, source, "nic"),
            (False, True, collector, "eth0"),
            (True, True, source, "uplink"),
        )
    }
    for data, egress, other in sent:
        ways[egress, together and other].send(data)
    for way in ways.values():
        way.close()
    seen = [frame for witness in witnesses for _ in range(2) for frame in witness.read()]
    while tap.run() or not tap.drained():
        pass
    for member, (plan, selection, forward) in zip(members, chosen, strict=True):
        mine = [
            one
            for one in seen
            if one.device == plan.index and accepts(selection, parse(one.data, one.tag), egress=one.egress)
        ]
        alone = step(forward, "python")
        outcomes = [alone(one) for one in mine]
        reasons = Counter(Slot.mirrored if one.reason is None else one.reason for one in outcomes)
        counters = member.pipeline.counters
        assert counters[Slot.captured] == len(mine)
        assert {slot: counters[slot] for slot in reasons} == reasons
        assert counters.unaccounted() == 0
        header = len(forward.template.header)
        assert member.copies() == [copy[header:] for one in outcomes for copy in one.copies]
        member.pipeline.close()
        os.close(member.descriptor)
    tap.close()
    for witness in witnesses:
        witness.close()


# --- sessions that come and go ---


class Stream(threading.Thread):
    """Numbered datagrams of two flows, to ports 80 and 81, at a pace, until it is told to stop."""

    def __init__(self, host: Host, device: str, pace: float) -> None:
        super().__init__()
        self.count = 0
        self._pace, self._stopped = pace, threading.Event()
        self._frames = [udp_frame((*CLIENT, 9), (*SERVER, port), bytes(4))[:-4] for port in (80, 81)]
        self._socket = host.open_socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.bind((device, 0))

    def run(self) -> None:
        began = time.monotonic()
        while not self._stopped.wait(0.001):
            while self.count < (time.monotonic() - began) * self._pace:
                for frame in self._frames:
                    self._socket.send(frame + struct.pack("!I", self.count))
                self.count += 1

    def stop(self) -> None:
        self._stopped.set()
        self.join()
        self._socket.close()


def on_port(*ports: int) -> Selection:
    rule = Rule(1, accept=True, protocol=17, destination_ports=tuple((port, port) for port in ports))
    return Selection(rules=(rule,), mark=MARK, mark_mask=MARK)


COMING_AND_GOING = (
    on_port(80),
    on_port(81),
    on_port(9999),
    Selection(mark=MARK, mark_mask=MARK),
    Selection(direction=Direction.EGRESS, mark=MARK, mark_mask=MARK),
    replace(on_port(80, 81), before=(on_port(80),)),
)


@pytest.mark.alone
@pytest.mark.parametrize("together", [False, True], ids=["one device", "several devices"])
def test_those_that_stay_get_every_frame_while_others_come_and_go(
    net: Topology, hosts: tuple[Host, Host, Host], dataplane: str, monkeypatch: pytest.MonkeyPatch, *, together: bool
) -> None:
    """Also while the capture moves between a plain socket and a ring."""
    client, source, collector = hosts
    for name, value in {"BUSY": 1500, "QUIET": 1, "QUIET_SECONDS": 0.1}.items():
        monkeypatch.setattr(load, name, value)
    netns, native = find(source.name), dataplane == "native"
    plan = CapturePlan("nic", source.index("nic"), Selection(), mode="auto", ring_size=64 << 20, netns=netns)
    plan = replace(plan, together=together)

    def make(selection: Selection, device: str) -> Pipeline:
        way = DevicePlan(device, source.index(device), MARK, netns)
        capture = replace(plan, selection=selection)
        return Pipeline(PipelinePlan(capture, ForwardPlan(encap.bare()), way), native=native)

    staying = {"out0": on_port(80), "out1": on_port(81), "out2": Selection(mark=MARK, mark_mask=MARK)}
    with ExitStack() as stack:
        receivers = []
        for device in staying:
            net.link(source, device, collector, device)
            receivers.append(stack.enter_context(Receiver(collector, device)))
        stay = [make(selection, device) for device, selection in staying.items()]
        tap, worker = Tap(stay, native=native), Worker("worker")
        worker.start()
        worker.add(tap)
        stream = Stream(client, "eth0", {"python": 400, "native": 2000}[dataplane])
        stream.start()
        gone = [make(COMING_AND_GOING[turn % len(COMING_AND_GOING)], "uplink") for turn in range(TURNS)]
        for turn, guest in enumerate(gone):
            worker.join(tap, [guest])
            if turn % 3 == 0:
                changed = replace(plan, selection=COMING_AND_GOING[turn % 5])
                worker.replace({guest: replace(guest.plan, capture=changed)})
            worker.remove(guest)
        stream.stop()
        worker.remove(*stay)
        worker.stop()
        arrived = [
            [struct.unpack("!H4xI", frame[36:46]) for frame in receiver.frames(0x0800)] for receiver in receivers
        ]

    numbers = range(stream.count)
    assert arrived[0] == [(80, number) for number in numbers]
    assert arrived[1] == [(81, number) for number in numbers]
    assert arrived[2] == [(port, number) for number in numbers for port in (80, 81)]
    for pipeline, count in zip(stay, (1, 1, 2), strict=True):
        assert pipeline.counters[Slot.captured] == pipeline.counters[Slot.mirrored] == count * stream.count
    assert {guest.failure for guest in gone} == {""}
    assert {guest.counters.unaccounted() for guest in gone} == {0}
    assert tap.seen.lost == 0


# --- sessions of very unequal rates ---


@pytest.mark.parametrize("capture", ["auto", "ring", "socket", "together"])
def test_a_flooded_session_parts_from_the_others_and_then_costs_them_nothing(
    hosts: tuple[Host, Host, Host], dataplane: str, monkeypatch: pytest.MonkeyPatch, capture: str
) -> None:
    client, source, _ = hosts
    monkeypatch.setattr(load, "BUSY", 1000)
    netns, native = find(source.name), dataplane == "native"
    plan = CapturePlan("nic", source.index("nic"), Selection(), mode=capture, ring_size=64 << 20, netns=netns)
    if capture == "together":
        plan = replace(plan, mode="auto", together=True)
    flooded, quiet = (wanted(plan, on_port(port), ForwardPlan(encap.packet_block()), dataplane) for port in (80, 81))
    tap, worker = Tap([flooded.pipeline, quiet.pipeline], native=native), Worker("worker")
    worker.start()
    worker.add(tap)
    sent = {80: 0, 81: 0}

    def feed(port: int, count: int) -> None:
        frame = udp_frame((*CLIENT, 9), (*SERVER, port), bytes(4))[:-4]
        with client.open_socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
            out.bind(("eth0", 0))
            for _ in range(count):
                out.send(frame + struct.pack("!I", sent[port]))
                sent[port] += 1

    def parted() -> bool:
        feed(80, 100)
        feed(81, 1)
        return len(worker.taps) == 2

    written: dict[int, list[bytes]] = {}
    readers = [
        threading.Thread(target=lambda one=one, port=port: written.update({port: one.all_copies()}))
        for port, one in ((80, flooded), (81, quiet))
    ]
    for reader in readers:
        reader.start()
    wait_for(parted, "a capture of its own for the busy one")
    wait_for(lambda: not any(one.changing for one in worker.taps), "all that was taken together is read")
    assert tap.pipelines == [quiet.pipeline]
    wait_for(lambda: quiet.pipeline.counters[Slot.captured] == sent[81], "the quiet one's frames")
    before = tap.seen.read
    feed(81, 10)
    feed(80, 2000)
    worker.remove(flooded.pipeline, quiet.pipeline)
    worker.stop()
    for reader in readers:
        reader.join()
    assert tap.seen.read == before + 10  # the flood is not even looked at
    for port, one in ((80, flooded), (81, quiet)):
        counters = one.pipeline.counters
        numbers = [struct.unpack("!I", frame[42:46])[0] for frame in written[port]]
        assert counters[Slot.captured] == sent[port]
        assert counters[Slot.mirrored] == len(numbers) == sent[port] - counters[Slot.dropped_ring_full]
        assert numbers == sorted(set(numbers))
    assert quiet.pipeline.counters[Slot.dropped_ring_full] == 0


class WallClock:
    """The machine's, but an hour ahead until it is set: to the frames' stamps it is as if they were set back."""

    monotonic_ns = staticmethod(time.monotonic_ns)

    def __init__(self) -> None:
        self.ahead = 3600 * 10**9

    def time_ns(self) -> int:
        return time.time_ns() + self.ahead


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_clock_that_is_set_back_while_a_source_parts(
    hosts: tuple[Host, Host, Host], dataplane: str, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Before the time is set from which on it gets frames by its own socket: nothing happens. After it: what is lost is
    counted.
    """
    client, source, collector = hosts
    netns, native, wall = find(source.name), dataplane == "native", WallClock()
    monkeypatch.setattr(clock, "time", wall)
    steps = {"before": "open_aside", "after": "part"}
    step_of_parting = getattr(Tap, steps[moment])

    def and_set_back(tap: Tap, what: object) -> object:
        outcome = step_of_parting(tap, what)
        wall.ahead = 0
        return outcome

    monkeypatch.setattr(Tap, steps[moment], and_set_back)
    plan = CapturePlan("nic", source.index("nic"), on_port(80, 81), netns=netns, together=True)
    way = DevicePlan("uplink", source.index("uplink"), MARK, netns)
    pipeline = Pipeline(PipelinePlan(plan, ForwardPlan(encap.bare()), way), native=native)
    tap, worker = Tap([pipeline], native=native), Worker("worker")
    worker.start()
    worker.add(tap)
    stream = Stream(client, "eth0", {"python": 400, "native": 2000}[dataplane])
    with Receiver(collector, "eth0") as receiver:
        stream.start()
        wait_for(lambda: pipeline.counters[Slot.mirrored] > 100, "copies")
        tap.spreads = True
        wait_for(lambda: not any(one.everywhere or one.changing for one in worker.taps), "a socket of its own")
        mirrored = pipeline.counters[Slot.mirrored]
        wait_for(lambda: pipeline.counters[Slot.mirrored] > mirrored + 100, "copies from there")
        stream.stop()
        worker.remove(pipeline)
        worker.stop()
        arrived = [struct.unpack("!H4xI", frame[36:46]) for frame in receiver.frames(0x0800)]

    assert wall.ahead == 0
    sent = [(port, number) for number in range(stream.count) for port in (80, 81)]
    missing = set(sent) - set(arrived)
    assert arrived == [one for one in sent if one not in missing]
    counters = pipeline.counters
    assert counters[Slot.mirrored] == len(arrived)
    assert counters.unaccounted() == 0
    assert len(missing) <= counters[Slot.dropped_ring_full]
    assert bool(missing) == bool(counters[Slot.dropped_ring_full]) == (moment == "after")
