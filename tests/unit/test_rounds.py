"""A worker's wait, in Python and in the core: what both tell of descriptors that are not a core's pipeline."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from mirrord.dataplane.native import core
from mirrord.dataplane.rounds import LATENCY_SECONDS, SHORTEST_ROUND_SECONDS, Rounds


@pytest.fixture(params=[Rounds, core.Rounds], ids=["python", "native"])
def rounds(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = request.param(LATENCY_SECONDS)
    yield made
    made.close()


@pytest.fixture
def bell() -> Iterator[int]:
    descriptor = os.eventfd(0, os.EFD_NONBLOCK)
    yield descriptor
    os.close(descriptor)


def test_a_descriptor_is_told_of_while_it_is_ready_and_watched(rounds: Any, bell: int) -> None:
    rounds.register(bell, None)
    assert rounds.wait(0.0, False) == []
    os.eventfd_write(bell, 1)
    for _ in range(2):
        assert [tuple(news) for news in rounds.wait(1.0, False)] == [(bell, select.EPOLLIN, False)]
    os.eventfd_read(bell)
    begun = time.monotonic()
    assert rounds.wait(0.02, False) == []
    assert time.monotonic() - begun >= 0.02
    rounds.unregister(bell)
    os.eventfd_write(bell, 1)
    assert rounds.wait(0.0, False) == []
    with pytest.raises(FileNotFoundError):
        rounds.unregister(bell)


def test_rounds_are_a_little_apart_but_where_something_lags(rounds: Any, bell: int) -> None:
    rounds.register(bell, None)
    os.eventfd_write(bell, 1)

    def times(*, lagging: bool) -> list[float]:
        """Before the first round, and after each: whatever holds this thread up, they are no closer than the rounds."""
        found = [time.monotonic()]
        for _ in range(20):
            assert rounds.wait(1.0, lagging)
            found.append(time.monotonic())
        return found

    apart = times(lagging=False)
    assert apart[-1] - apart[0] > 19 * SHORTEST_ROUND_SECONDS * 0.9
    assert min(after - before for before, after in pairwise(times(lagging=True))) < SHORTEST_ROUND_SECONDS * 0.9


def test_the_core_runs_its_own_pipelines_alone(bell: int) -> None:
    rounds = core.Rounds(LATENCY_SECONDS)
    with pytest.raises(TypeError, match="not a tap"):
        rounds.register(bell, object())  # type: ignore[arg-type]
    rounds.close()
