"""The token bucket on capture times as several processors stamp them: a little out of order."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mirrord.dataplane.forward import encap
from mirrord.dataplane.forward.step import Forward, ForwardPlan
from mirrord.dataplane.frame.wire import VNET, Frame
from mirrord.dataplane.native import core

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
    return lambda time: native(data, SIZE, False, False, 0, 0, bytes(VNET.size), time)[2] < 0


def test_two_clocks_that_differ_do_not_raise_the_rate(passes: Step) -> None:
    times = [START + n * 100 * MICROSECOND - (n % 2) * 190 * MICROSECOND for n in range(10_000)]  # for a second
    sent = SIZE * sum(map(passes, times))
    assert RATE // 8 <= sent <= RATE // 8 + DEPTH + SIZE


def test_a_clock_that_was_set_back_does_not_stop_the_session(passes: Step) -> None:
    assert any(passes(START + n * 100 * MICROSECOND) for n in range(1000))
    earlier = START - 3600 * SECOND
    sent = SIZE * sum(passes(earlier + n * 100 * MICROSECOND) for n in range(10_000))
    assert 0.99 * RATE / 8 <= sent <= RATE // 8 + DEPTH + SIZE
