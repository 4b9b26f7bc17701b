"""When a mirror ends, by clocks that are set, stand still over a reboot, or are wrong after one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mirrord import expiry
from mirrord.control.configuration.expiries import kept
from mirrord.control.planning.in_force import InForce
from mirrord.errors import ConfigError, Refused
from mirrord.expiry import Deadline, Now
from mirrord.model import Config

WALL, UP, HOUR, DAY = 1_800_000_000.0, 5_000.0, 3600.0, 86400.0
NOW = Now(WALL, UP, "this boot")
TWO_HOURS = expiry.begun(timedelta(hours=2), NOW)


def later(seconds: float, *, step: float = 0.0) -> Now:
    """So much later in the same boot; the wall clock was also set by `step`."""
    return Now(WALL + seconds + step, UP + seconds, NOW.boot)


@pytest.mark.parametrize("step", [0.0, DAY, -DAY])
def test_a_deadline_counts_by_the_boot_clock(step: float) -> None:
    at = later(HOUR, step=step)
    assert TWO_HOURS.left(at) == HOUR
    right = TWO_HOURS.put_right(at)
    assert (right is TWO_HOURS) == (step == 0)
    assert right.left(later(2 * HOUR - 1, step=step)) == 1
    assert right.at.timestamp() == WALL + 2 * HOUR + step
    assert right.put_right(at) is right


@pytest.mark.parametrize(
    ("off", "wrong", "remains"),
    [
        (HOUR / 2, 0.0, HOUR / 2),  # an hour before the reboot, half an hour off
        (3 * HOUR, 0.0, -2 * HOUR),
        (HOUR / 2, -10 * DAY, 2 * HOUR),  # a clock that lost its time: never more than the whole
        (HOUR / 2, DAY, HOUR / 2 - DAY),
    ],
)
def test_after_a_reboot_the_wall_clock_tells_once(off: float, wrong: float, remains: float) -> None:
    booted = Now(WALL + HOUR + off + wrong, 20.0, "next boot")
    assert TWO_HOURS.left(booted) == remains
    right = TWO_HOURS.put_right(booted)
    corrected = Now(booted.wall - wrong + 60, booted.boottime + 60, booted.boot)  # as by NTP
    assert right.left(corrected) == remains - 60


def test_what_is_over_is_over_for_good() -> None:
    for value in (TWO_HOURS, datetime.fromtimestamp(WALL, UTC)):
        over = expiry.ended(value, later(3 * HOUR))
        for now in (later(3 * HOUR, step=-DAY), Now(WALL - DAY, 5.0, "next boot")):
            assert expiry.left(over, now) <= 0


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("2027-01-31T18:00:00Z", "2027-01-31T18:00:00Z"),
        ("2027-01-31t18:00:00.25+01:00", "2027-01-31T17:00:00.250000Z"),
        ("2027-01-31 18:00:00-00:00", "2027-01-31T18:00:00Z"),
        (datetime(2027, 1, 31, 18, tzinfo=UTC), "2027-01-31T18:00:00Z"),
        ("90s", "90s"),
        ("120m", "2h"),
        ("14d", "2w"),
        (expiry.kept(TWO_HOURS), "2027-01-15T10:00:00Z"),
    ],
)
def test_what_may_be_written(written: object, shown: str) -> None:
    value = expiry.parse(written)
    assert expiry.show(value) == shown
    assert expiry.show(expiry.parse(shown)) == shown
    if isinstance(written, dict):
        assert value == TWO_HOURS


@pytest.mark.parametrize(
    "written",
    ["", "2h30m", "0s", "9999999999w", "-2h", "2", 2, True, None, [], {}, "20270131T180000Z", "2027-01-31",
     "2027-01-31T18:00:00", "2027-02-30T18:00:00Z", "0001-01-01T00:00:00+01:00", datetime(2027, 1, 31),  # noqa: DTZ001 (that is it)

     {"at": "2h", "boot": "", "boottime": 1, "lasts": 1}, {**expiry.kept(TWO_HOURS), "lasts": float("nan")}],
)  # fmt: skip
def test_what_may_not(written: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        expiry.parse(written)


def test_a_duration_begins_when_its_mirror_is_enabled() -> None:
    def asked(old: Any, new: Any, now: Now = NOW) -> Any:
        return kept("mirrors.x", old, {"name": "x", **new}, now)["expires"]

    assert asked(None, {"enabled": False, "expires": "2h"}) == "2h"
    begun = asked(None, {"expires": "2h"})
    assert expiry.parse(begun) == TWO_HOURS
    old = {"expires": begun}
    assert asked(old, {"expires": begun["at"]}, later(60)) == begun  # what is shown, sent back
    assert asked(old, {"enabled": False, "expires": begun}, later(3 * HOUR)) == begun
    assert expiry.parse(asked(old, {"expires": "2h"}, later(60))).left(later(60)) == 2 * HOUR  # type: ignore[union-attr]
    with pytest.raises(Refused, match="2027-01-15T10:00:00Z: to enable it, set expires anew"):
        asked(old, {"enabled": True, "expires": begun}, later(3 * HOUR))
    with pytest.raises(Refused):
        asked(None, {"expires": "2020-01-01T00:00:00Z"})
    with pytest.raises(ConfigError):  # what only the state database may say
        asked(old, {"expires": {**begun, "boottime": 1e9}})
    assert asked(None, {"expires": "soon"}) == "soon"  # the validation tells


def test_what_is_over_is_left_out_and_nothing_else_is_made_anew() -> None:
    mirrors = {"a": {"expires": "2027-01-15T09:00:00Z"}, "b": {}, "c": {"expires": "2h"}}
    config, in_force = Config.model_validate({"mirrors": mirrors}), InForce()
    assert in_force(config, NOW) == (frozenset(), config)
    ended, wanted = in_force(config, later(HOUR))
    assert ended == frozenset({"a"})
    assert [one.enabled for one in wanted.mirrors.values()] == [False, True, True]
    assert in_force(config, later(2 * HOUR))[1] is wanted
    assert in_force(config, later(HOUR, step=-DAY))[1] is config


def test_a_deadline_is_no_vocabulary() -> None:
    """It is shown as the time of its end, in the form that may be written."""
    shown = Config.model_validate({"mirrors": {"x": {"expires": expiry.kept(TWO_HOURS)}}}).model_dump(mode="json")
    assert shown["mirrors"]["x"]["expires"] == "2027-01-15T10:00:00Z"
    assert Deadline._fields == tuple(expiry.kept(TWO_HOURS))
