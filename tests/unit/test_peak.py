"""The highest of what was seen lately: it lasts for 15 to 30 seconds, however often it is looked at."""

from __future__ import annotations

from mirrord.dataplane.peak import Peak


def test_a_peak_is_told_until_its_window_and_the_next_are_over() -> None:
    peak = Peak()
    assert peak.last(100.0) == 0

    peak.see(0.5, 91.0)  # in the window from 90 to 105
    peak.see(0.25, 92.0)
    assert [peak.last(now) for now in (92.0, 92.0, 119.9, 120.0, 1000.0)] == [0.5, 0.5, 0.5, 0, 0]

    peak.see(0.25, 110.0)
    assert [peak.last(now) for now in (110.0, 119.9, 120.0, 134.9, 135.0)] == [0.5, 0.5, 0.25, 0.25, 0]

    peak.see(0.125, 1000.0)
    assert peak.last(1000.0) == 0.125
