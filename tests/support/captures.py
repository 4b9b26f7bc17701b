"""Capture files as capinfos and tshark tell them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path


def count(*files: Path) -> int:
    """How many packets capinfos finds in all; it fails for a file that is not sound to its end."""
    done = _run(["capinfos", "-cMT", *map(str, files)])
    assert not done.stderr, done.stderr
    return sum(int(line.split("\t")[1]) for line in done.stdout.splitlines()[1:])


def about(file: Path) -> str:
    """All that capinfos says of a file."""
    return _run(["capinfos", str(file)]).stdout


def fields(file: Path, *names: str) -> list[list[str]]:
    """Fields by tshark, a row a packet."""
    chosen = [part for name in names for part in ("-e", name)]
    done = _run(["tshark", "-n", "-r", str(file), "-T", "fields", *chosen])
    return [line.split("\t") for line in done.stdout.splitlines()]


def count_cut_short(file: Path) -> int:
    """How many packets tshark reads from a file that may end in the middle of its last one, and nowhere else."""
    done = subprocess.run(
        ["tshark", "-n", "-r", str(file), "-T", "fields", "-e", "frame.number"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0 or re.search("cut short in the middle of a packet", done.stderr), done.stderr
    return len(done.stdout.splitlines())


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
