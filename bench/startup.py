"""How long a person waits for mirrorctl to begin: --help and what TAB offers, beside Python itself and lldpcli.

`python -m bench.startup`, as root: under a minute. It writes results/startup.md. Goal: less than 150 ms of each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.machine import machine
from bench.tables import Table
from tests.support.daemon import Daemon
from tests.support.topology import Topology

RESULTS = Path(__file__).parent / "results" / "startup.md"
GOAL_MS = 150
ROUNDS = 25
MIRRORCTL = Path(sys.executable).with_name("mirrorctl")
CONFIG = "".join(f"[mirrors.m{n}]\n" for n in range(50))


def completion(line: str) -> dict[str, str]:
    return {"_MIRRORCTL_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": "0"}


def measured(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Milliseconds until it has ended, and of a processor."""
    before, begun = os.times(), time.perf_counter()
    subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, check=True)
    ended, after = time.perf_counter(), os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return (ended - begun) * 1000, spent * 1000


def main() -> None:
    """Interleaved rounds, so that what else runs on the machine is shared by all."""
    subjects: dict[str, tuple[Sequence[str], Mapping[str, str]]] = {
        "`python3 -c pass`": ([sys.executable, "-c", "pass"], {}),
        "`lldpcli -h`": (["sh", "-c", "lldpcli -h 2>&1; true"], {}),  # it says 1
    }
    table = Table("Milliseconds until it has ended; medians of interleaved rounds")
    with Topology() as net, tempfile.TemporaryDirectory() as directory:
        daemon = Daemon(net.host("host"), Path(directory), CONFIG, up=False)
        socket = f"--socket {daemon.socket}"
        add = f"mirrorctl {socket} session add m1 s"
        subjects |= {
            "`mirrorctl --help`": ([str(MIRRORCTL), "--help"], {}),
            "`mirrorctl session set --help`": ([str(MIRRORCTL), "session", "set", "--help"], {}),
            "TAB: a command": ([str(MIRRORCTL)], completion(f"mirrorctl {socket} en")),
            "TAB: a key of a destination": ([str(MIRRORCTL)], completion(f"{add} --destination type=vxlan,")),
            "TAB: one of 50 mirrors, by the daemon": ([str(MIRRORCTL)], completion(f"mirrorctl {socket} show ")),
            "`mirrorctl list`, 50 mirrors": ([str(MIRRORCTL), *socket.split(), "list"], {}),
        }
        try:
            for _ in range(ROUNDS):
                for subject, (command, environment) in subjects.items():
                    wall, processor = measured(command, environment)
                    table.add(subject, milliseconds=wall, of_a_processor=processor)
        finally:
            daemon.stop()
    about = ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in machine().items())
    missed = [
        subject
        for subject, row in table.samples.items()
        if ("--help" in subject or subject.startswith("TAB")) and min(row["milliseconds"]) >= GOAL_MS
    ]
    goal = f"Goal: each --help and TAB in less than {GOAL_MS} ms, by the least round, since what else runs only adds"
    met = f"missed by {', '.join(missed)}" if missed else "met"
    RESULTS.write_text(f"# How long mirrorctl takes to begin\n\n{about}\n\n{table.markdown()}\n{goal}: {met}.\n")
    print(RESULTS.read_text())


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
