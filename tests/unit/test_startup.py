"""What is not imported before it is needed: whoever asks mirrorctl for help, or presses TAB, would wait for it. What an
agent imports is in the memory of each host.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.ctl import COMMAND, ROOT, run

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


def test_an_output_that_takes_nothing_is_told() -> None:
    """One that is closed is nobody's concern."""
    for output in (">/dev/full", ">&-"):
        shell = f"{' '.join(COMMAND)} --help {output}"
        done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
        assert "Traceback" not in done.stderr
        told = (1, "mirrorctl: what is printed cannot be written: No space left on device\n")
        assert (done.returncode, done.stderr) == (told if "full" in output else (0, ""))


def test_an_agent_has_nothing_of_a_daemon_s_in_memory() -> None:
    """Each takes from 0.4 to 2.3 MB."""
    code = "import sys, mirrord.cluster.main; print(*sys.modules)"
    measured = ("COV", "COVERAGE")  # what measures these tests imports sqlite3 itself
    environment = {name: value for name, value in os.environ.items() if not name.startswith(measured)}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    others = {"sqlite3", "uvloop", "mirrord.control.http.openapi", "mirrord.control.configuration.config"}
    assert "mirrord.cluster.agent" in found
    assert not {*found} & others
    assert not [one for one in found if one.startswith(("mirrord.control.planning", "mirrord.dataplane"))]
