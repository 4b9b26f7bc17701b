"""The token buckets: on capture times as several processors stamp them, a little out of order; and both together."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from mirrord.dataplane.forward import encap
from mirrord.dataplane.forward.step import Forward
from mirrord.dataplane.frame.wire import Frame, Vnet
from mirrord.dataplane.native import core
from mirrord.plans import ForwardPlan
from tests.support.planes import step

RATE = 8_000_000  # a byte each microsecond
SIZE = 1000
MICROSECOND, SECOND = 1_000, 1_000_000_000
START = 1_700_000_000 * SECOND
DEPTH = 65536

Step = Callable[[int], bool]


@pytest.fixture(params=["python", "native"])
def passes(request: pytest.FixtureRequest) -> Step:
    """Whether a frame with this capture time passes the limit."""
    plan, data = ForwardPlan(encap.bare(), rate_limit=RATE), bytes(SIZE)
    if request.param == "python":
        python = Forward(plan)
        return lambda time: python(Frame(data, SIZE, time=time)).reason is None
    native = core.Forward(plan, None)
    return lambda time: native(Frame(data, SIZE, time=time)).reason is None


def test_two_clocks_that_differ_do_not_raise_the_rate(passes: Step) -> None:
    times = [START + n * 100 * MICROSECOND - (n % 2) * 190 * MICROSECOND for n in range(10_000)]  # for a second
    sent = SIZE * sum(map(passes, times))
    assert RATE // 8 <= sent <= RATE // 8 + DEPTH + SIZE


def test_a_clock_that_was_set_back_does_not_stop_the_session(passes: Step) -> None:
    assert any(passes(START + n * 100 * MICROSECOND) for n in range(1000))
    earlier = START - 3600 * SECOND
    sent = SIZE * sum(passes(earlier + n * 100 * MICROSECOND) for n in range(10_000))
    assert 0.99 * RATE / 8 <= sent <= RATE // 8 + DEPTH + SIZE


@pytest.mark.parametrize("plane", ["python", "native"])
def test_a_super_frame_costs_its_packets_and_passes_whole(plane: str) -> None:
    """64 copies at once: seven frames of ten; the debt of six copies is paid after 60 ms at 100 a second."""
    forward = step(ForwardPlan(encap.bare(), packet_limit=100), plane)
    headers = bytes(Ether() / IP() / TCP())
    data = headers + bytes(10 * 100)
    frame = Frame(data, len(data), vnet=Vnet(0, 1, 0, 100, 0, 0))  # VIRTIO_NET_HDR_GSO_TCPV4
    copies = [len(forward(frame._replace(time=START)).copies) for _ in range(10)]
    assert copies == [10] * 7 + [0] * 3
    assert not forward(frame._replace(time=START + 60_000 * MICROSECOND)).copies
    assert len(forward(frame._replace(time=START + 61_000 * MICROSECOND)).copies) == 10


@pytest.mark.parametrize("plane", ["python", "native"])
def test_what_one_limit_refuses_costs_the_other_one_nothing(plane: str) -> None:
    """A second refills 1 bit and 1000 copies: what is left of 64 KiB after 64 frames is enough for two more."""
    forward = step(ForwardPlan(encap.bare(), rate_limit=1, packet_limit=1000), plane)
    frames = [Frame(bytes(SIZE), SIZE, time=START)] * 1000
    assert [bool(forward(frame).copies) for frame in frames] == [True] * 64 + [False] * 936
    later = [frame._replace(time=START + 10_000 * MICROSECOND) for frame in frames]
    assert [bool(forward(frame).copies) for frame in later] == [True] * 2 + [False] * 998
