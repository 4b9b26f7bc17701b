"""What mirrorctl does not import before it is needed: whoever asks for help, or presses TAB, would wait for it."""

from __future__ import annotations

import pytest

from tests.support.ctl import COMMAND, run

HEAVY = (
    "pydantic",
    "aiohttp",
    "asyncio",
    "http.client",
    "ssl",
    "rich",
    "mirrord.model",
    "mirrord.control",
)
"""Each takes from 20 to 200 ms."""

ADD = "mirrorctl --socket /nowhere session add m s"


def imported(*words: str, **environment: str) -> set[str]:
    done = run(*words, **environment, PYTHONPROFILEIMPORTTIME="1")
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize(
    "words",
    [("--help",), ("session", "set", "--help"), ("console", "--help"), ("--version",), ("crate",)],
    ids=" ".join,
)
def test_help_needs_little(words: tuple[str, ...]) -> None:
    found = imported(*words)
    assert "click" in found, COMMAND
    assert not found & {*HEAVY}


@pytest.mark.parametrize(
    "line", ["mirrorctl en", f"{ADD} --destination type=vxlan,", f"{ADD} --filter ", f"{ADD} --source type=vm,vm="]
)
def test_a_completion_needs_little(line: str) -> None:
    assert not imported(_MIRRORCTL_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD="0") & {*HEAVY}
