"""Who pauses for daemon.cpu_limit, and for how long."""

from __future__ import annotations

from collections.abc import Mapping

from mirrord.control.planning.plan import Key
from mirrord.control.running.breaker import Verdict
from mirrord.control.running.governor import Governor, Load, joined
from mirrord.dataplane.budget import Budget

A, B, C = (Key("m", name, "nic") for name in "abc")


class Host:
    """Time in seconds, and what has been counted by then."""

    def __init__(self, *, thins: frozenset[Key] = frozenset()) -> None:
        self.budget = Budget(0.5)
        self.governor = Governor(self.budget)
        self.now, self.load = 100.0, Load(0, 0, dict.fromkeys((A, B, C), 0), thins)
        self.governor.look(self.load, self.now)

    def second(self, came: Mapping[Key, int], read: int, used: float) -> dict[Key, Verdict]:
        """A second in which so many frames came for each, so many were read, and the workers took so much."""
        wanted = {key: count + came.get(key, 0) for key, count in self.load.wanted.items()}
        behind = self.load.behind + sum(came.values()) - read
        self.load = Load(self.load.read + read, behind, wanted, self.load.thins)
        self.budget.used += used
        self.budget.rested += 0.4 if used >= 0.5 else 0.0
        self.now += 1
        return self.governor.look(self.load, self.now)

    def busy(self) -> dict[Key, Verdict]:
        return self.second({A: 1000, B: 100, C: 10}, 500, 0.5)

    def idle(self) -> dict[Key, Verdict]:
        return self.second({}, 0, 0.0)

    def seconds_paused(self) -> int:
        """How long A stays paused when there is nothing to do any more."""
        for second in range(200):
            if not self.idle():
                return second
        raise AssertionError("it stays paused")


def test_what_fits_pauses_nobody() -> None:
    host = Host()
    assert not any(host.second({A: 1000}, 1000, 0.45) for _ in range(10))
    assert not host.busy()  # a burst
    assert not host.second({A: 100}, 700, 0.5)  # which was caught up with


def test_only_the_busiest_pauses() -> None:
    host = Host()
    host.busy()
    paused = host.busy()
    assert set(paused) == {A}
    assert paused[A].reason == "the workers would take more than 50% of a core (daemon.cpu_limit)"
    assert paused[A].percent == 50
    assert set(host.second({A: 1000, B: 100, C: 10}, 1110, 0.1)) == {A}


def test_one_that_pauses_again_soon_pauses_for_longer() -> None:
    host, times = Host(), []
    for _ in range(6):
        host.busy(), host.busy()
        times.append(host.seconds_paused())
    assert times == [4, 9, 19, 39, 59, 59]  # and the second before
    for _ in range(100):
        host.idle()
    host.busy(), host.busy()
    assert host.seconds_paused() == 4


def test_without_room_it_stays_paused() -> None:
    host = Host()
    host.busy(), host.busy()
    assert all(set(host.second({A: 1000}, 1000, 0.45)) == {A} for _ in range(20))


def test_conversations_give_way_where_a_session_allows_that() -> None:
    host = Host(thins=frozenset({A}))
    host.busy()
    verdicts = host.busy()
    assert (verdicts[A].paused, verdicts[A].level) == (False, 1)
    assert host.busy()[A].level == 2


def test_a_limit_that_is_taken_away_pauses_nobody() -> None:
    host = Host()
    host.busy(), host.busy()
    assert host.governor.look(None, host.now + 1) == {}
    assert host.governor.look(host.load, host.now + 2) == {}


def test_the_stricter_judge_decides() -> None:
    link, processor = Verdict(reason="no speed"), Verdict(paused=True, reason="limit")
    assert joined({A: link, B: processor}, {A: processor, B: Verdict(level=1)}) == {A: processor, B: processor}


def test_a_worker_rests_until_there_is_something_to_spend() -> None:
    budget = Budget(0.5)
    assert budget.spend(0.04) == 0.0  # after a quiet moment
    rest = budget.spend(0.06)
    assert 0.09 < rest <= 0.104  # 50 ms too many, 2 ms to go on with, at half a core
    assert Budget().spend(1000) == 0.0
