"""Rates mean what tc takes them for: each is given to a real token bucket, which says what it understood."""

from __future__ import annotations

import json
import subprocess

import pytest

from mirrord.values.quantities import parse_rate, show_rate

# In a namespace of its own, made and gone with the command.
ASK = "tc qdisc replace dev lo root tbf rate $1 burst 100k latency 50ms && tc -j qdisc show dev lo"


def bits_as_tc_reads(rate: str) -> int:
    command = ["unshare", "--net", "sh", "-c", ASK, "sh", rate]
    answer = subprocess.run(command, check=True, capture_output=True, timeout=10)
    return int(json.loads(answer.stdout)[0]["options"]["rate"]) * 8  # tc answers in bytes a second


@pytest.mark.parametrize(
    "rate",
    ["200Mbit", "1gbit", "50mbps", "3KiBps", "16kibit", "1.5mbit", "8000", "800bit", "2tbit", "100bps", "1Gibps"],
)
def test_a_rate_is_what_tc_understands(rate: str) -> None:
    assert parse_rate(rate) == bits_as_tc_reads(rate)


@pytest.mark.parametrize("bits", [8, 8_000, 200_000_000, 1_000_000_000, 10**13, 123_456_784])
def test_tc_reads_what_is_shown(bits: int) -> None:
    assert bits_as_tc_reads(show_rate(bits)) == bits
