"""The two data planes against each other: the same copies, the same reasons and counts, whatever the frames."""

from __future__ import annotations

from array import array
from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mirrord.dataplane.forward import encap
from mirrord.dataplane.forward.own_copies import NO_GUARDS, Guards
from mirrord.dataplane.frame.wire import Frame
from mirrord.dataplane.transmit.recorder import Ring
from mirrord.plans import ForwardPlan, Inside, Payload
from tests.support.frames import captured, insides, mutated, plans, super_frames, tunnelled
from tests.support.planes import step
from tests.support.selections import guards
from tests.support.tls import frame as segment

RING_SIZE = 16384  # less than many copies have together
NOW = 1_700_000_000_000_000_000
THOROUGH = settings(
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],  # explaining takes longer than finding
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")  # BIG TCP has large frames

# Nanoseconds from one frame to the next; a clock may step back.
pauses = st.sampled_from([0, 1, 1000, 1_000_000, 50_000_000, 10_000_000_000, -1_000_000, -10_000_000_000])


def compare(plan: ForwardPlan, sent: list[Frame], guards: Guards = NO_GUARDS) -> None:
    counting = plan.inside.selection if plan.inside is not None else plan.exact
    rules = counting.rules if counting is not None and counting.rules else ()
    counted = {plane: array("Q", bytes(8 * len(rules))) for plane in ("python", "native")}
    rings = [Ring(RING_SIZE, native=plane == "native") for plane in counted]
    python, native = (step(plan, *one, ring, guards) for one, ring in zip(counted.items(), rings, strict=True))
    for n, frame in enumerate(sent):
        assert native(frame) == python(frame), f"frame {n}: {frame}"
    assert counted["native"] == counted["python"]
    assert rings[0].row == rings[1].row
    assert rings[0].memory[:] == rings[1].memory[:]


@THOROUGH
@given(
    plan=plans(),
    known=st.just(NO_GUARDS) | guards(),
    sent=st.lists(st.tuples(captured(), pauses), min_size=1, max_size=6),
)
def test_any_frames_by_any_plan(plan: ForwardPlan, known: Guards, sent: list[tuple[Frame, int]]) -> None:
    times = accumulate((pause for _, pause in sent), initial=NOW)
    compare(plan, [frame._replace(time=time) for (frame, _), time in zip(sent, times, strict=False)], known)


@THOROUGH
@given(inside=insides(), frame=tunnelled())
def test_frames_inside_of_tunnels(inside: Inside, frame: Frame) -> None:
    compare(ForwardPlan(encap.bare(), inside=inside), [frame])


@THOROUGH
@given(frame=super_frames())
def test_sound_super_frames_are_split_alike(frame: Frame) -> None:
    compare(ForwardPlan(encap.bare()), [frame])


@THOROUGH
@given(frame=mutated(super_frames()))
def test_unsound_super_frames_end_alike(frame: Frame) -> None:
    compare(ForwardPlan(encap.bare()), [frame])


@THOROUGH
@given(plan=plans(), frame=captured(), more=st.integers(-5, 5))
def test_limits_about_as_long_as_the_copies(plan: ForwardPlan, frame: Frame, more: int) -> None:
    whole = step(ForwardPlan(encap.bare()), "python")(frame).copies
    limit = max(14, max(map(len, whole), default=0) + more)
    compare(replace(plan, frame_limit=limit, snaplen=0, sampling_rate=1, exact=None, blocked=None), [frame])


@THOROUGH
@given(frame=captured(), times=st.lists(pauses, min_size=4, max_size=12), rate=st.sampled_from([1, 10**6, 10**9]))
def test_a_bucket_that_runs_empty(frame: Frame, times: list[int], rate: int) -> None:
    plan = ForwardPlan(encap.bare(), rate_limit=rate, overhead=40_000)
    compare(plan, [frame._replace(time=time) for time in accumulate(times, initial=NOW)])


@THOROUGH
@given(
    frame=captured(),
    times=st.lists(pauses, min_size=4, max_size=12),
    rate=st.sampled_from([0, 10**6, 10**9]),
    packets=st.sampled_from([1, 1000, 10**6]),
    repeated=st.sampled_from([1, 40]),
)
def test_a_bucket_of_copies_that_runs_empty(
    frame: Frame, times: list[int], rate: int, packets: int, repeated: int
) -> None:
    plan = ForwardPlan(encap.bare(), rate_limit=rate, packet_limit=packets)
    sent = [frame._replace(time=time) for time in accumulate(times, initial=NOW) for _ in range(repeated)]
    compare(plan, sent)


# Parts of records, hellos and what looks like them; so that random streams of them are read in all ways there are.
_PARTS = [b"\x16\x03\x01", b"\x16\x03\x03\x00\x04\x01\x00ab", b"\x16", b"\x03", b"\x00\x02", b"\x01\x00", b"\x02\x00"]
_PARTS += [b"\x17\x03\x03", b"\x14\x03\x03\x00\x01\x01", b"\x48\xff", b"\x00\x00", b"\x15\x03", b"x", b"secret" * 3]
_pieces = st.lists(st.sampled_from(_PARTS), max_size=4).map(b"".join)
_steps = st.sampled_from(
    [0, 0, 0, 0, 0, 0, -1, -3, -9, 1, 5, 1 << 30, -(1 << 30), (1 << 30) + 1, 1 << 31, (1 << 32) - 30]
)
_segments = st.tuples(st.sampled_from([0, 0, 1]), _steps, _pieces, st.sampled_from([False] * 12 + [True]))


@THOROUGH
@given(begins=st.tuples(st.booleans(), st.booleans()), sent=st.lists(_segments, min_size=1, max_size=30))
def test_any_streams_with_application_data_hidden(
    begins: tuple[bool, bool], sent: list[tuple[int, int, bytes, bool]]
) -> None:
    numbers = [0xFFFFFFF0, 5]
    frames = [segment(end, numbers[end] - 1, b"", syn=True) for end in (0, 1) if begins[end]]
    for end, further, data, syn in sent:
        numbers[end] += further
        frames.append(segment(end, numbers[end] - syn, data, syn=syn))
        numbers[end] += len(data)
    compare(ForwardPlan(encap.bare(), payload=Payload.tls), frames)
