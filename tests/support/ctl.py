"""The real mirrorctl, as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def ctl(socket: Path | str, *arguments: str, status: int = 0) -> str:
    """What it prints when it ends with this exit status; with another than 0, on stderr."""
    done = run(socket, *arguments)
    assert done.returncode == status, done
    return done.stdout if status == 0 else done.stderr


def run(socket: Path | str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """How it ended, and all that it printed."""
    return subprocess.run(
        [sys.executable, "-m", "mirrord.cli", "--socket", str(socket), *arguments],
        capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
    )  # fmt: skip
