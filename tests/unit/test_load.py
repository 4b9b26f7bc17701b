"""Which way of capturing fits: a ring for many small frames, a plain socket for few, and for bulk TCP."""

from __future__ import annotations

import pytest

from mirrord.dataplane.capture.load import Load
from mirrord.dataplane.counters import Seen

SMALL_FRAMES, BULK, BULK_AND_ACKNOWLEDGEMENTS = 64, 65226, (65226 + 66) // 2
TICK = 0.01


class Source:
    """Frames at a steady rate, and the mode of capture that is judged fit for them."""

    def __init__(self) -> None:
        self.seen, self.now, self.mode = Seen(), 1000.0, "socket"
        self.load = Load(self.seen, self.now)

    def go_on(self, seconds: float, rate: int, size: int) -> str:
        end = self.now + seconds
        while self.now < end:
            self.now += TICK
            frames = round(rate * TICK)
            self.seen.count_taken(frames, 0)
            self.seen.row[2] += frames
            self.seen.row[3] += frames * size
            mode = self.load.fitting(self.mode, self.now)
            if mode != self.mode:
                self.mode = mode
                self.load.moved(self.now)
        return self.mode


@pytest.mark.parametrize(
    ("rate", "size", "mode"),
    [
        (1_000, SMALL_FRAMES, "socket"),
        (50_000, SMALL_FRAMES, "ring"),
        (50_000, 1514, "ring"),
        (50_000, BULK, "socket"),
        (100_000, BULK_AND_ACKNOWLEDGEMENTS, "socket"),
    ],
)
def test_the_mode_that_fits(rate: int, size: int, mode: str) -> None:
    assert Source().go_on(1, rate, size) == mode


def test_a_flood_is_judged_at_once() -> None:
    assert Source().go_on(TICK, 1_400_000, SMALL_FRAMES) == "ring"


@pytest.mark.parametrize(("rate", "size"), [(1_000, SMALL_FRAMES), (50_000, BULK), (0, 0)])
def test_a_ring_is_left_only_after_seconds_that_need_none(rate: int, size: int) -> None:
    source = Source()
    source.go_on(1, 50_000, SMALL_FRAMES)
    assert source.go_on(3, rate, size) == "ring"
    source.go_on(1.5, 50_000, SMALL_FRAMES)
    assert source.go_on(4, rate, size) == "ring"
    assert source.go_on(4, rate, size) == "socket"


def test_between_the_two_it_stays_where_it_is() -> None:
    between = 15_000
    assert Source().go_on(10, between, SMALL_FRAMES) == "socket"
    source = Source()
    source.go_on(1, 50_000, SMALL_FRAMES)
    assert source.go_on(20, between, SMALL_FRAMES) == "ring"
