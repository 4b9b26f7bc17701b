"""The real mirrorctl: in this process, which costs less, or as one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner, Result

from mirrord.cli.main import main

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "mirrord.cli"]


def ctl(socket: Path | str, *arguments: str, status: int = 0) -> str:
    """What it prints when it ends with this exit status; with another than 0, on stderr."""
    done = invoke(socket, *arguments)
    assert done.exit_code == status, (done, done.output)
    return done.stdout if status == 0 else done.stderr


def invoke(socket: Path | str, *arguments: str) -> Result:
    """How it ended, and all that it printed."""
    return CliRunner().invoke(main, ["--socket", str(socket), *arguments], prog_name="mirrorctl")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """How a process of it ended, and all that it printed."""
    return subprocess.run(
        [*COMMAND, *arguments], env={**os.environ, **environment},
        capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
    )  # fmt: skip


def complete(line: str, shell: str = "bash") -> list[str]:
    """What the shell is told when the last word of this line is to be completed."""
    words = line.split(" ")
    at = words[-1] if shell == "fish" else str(len(words) - 1)
    lines = run(_MIRRORCTL_COMPLETE=f"{shell}_complete", COMP_WORDS=line, COMP_CWORD=at).stdout.splitlines()
    if shell == "zsh":  # type, word and help on a line each
        return lines[1::3]
    return [line.partition(",")[2].split("\t")[0] for line in lines if line]
