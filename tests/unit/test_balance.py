"""Which of a busy worker's sources go to another worker: those that leave both with less to do, or none."""

from __future__ import annotations

import pytest

from mirrord.control.running.balance import worth_moving


@pytest.mark.parametrize(
    ("read", "busy", "other", "expected"),
    [
        pytest.param({"a": 500, "b": 500}, 0.9, 0.0, ["a", "b"], id="half of it"),
        pytest.param({"a": 600, "b": 300, "c": 100}, 0.8, 0.0, ["a", "b"], id="the one that leaves least to both"),
        pytest.param({"a": 1000}, 0.9, 0.0, [], id="all of it"),
        pytest.param({"flood": 980, "b": 10, "c": 10}, 0.95, 0.05, [], id="nearly all: it would come back"),
        pytest.param({"a": 500, "b": 500}, 0.9, 0.5, [], id="more than the other has room for"),
        pytest.param({}, 0.9, 0.0, [], id="nothing was read"),
    ],
)
def test_a_source_moves_where_both_have_less_to_do_then(
    read: dict[str, int], busy: float, other: float, expected: list[str]
) -> None:
    assert worth_moving(read, busy, other) == expected
