"""What a sender pays for being mirrored, for each frame: while mirrord runs, is stopped, was killed, has a cpu_limit.

`python -m bench.harm`, as root: two minutes. It writes results/harm.md. Goals: after a kill as without any mirror;
stopped, or bounded, no more than while it mirrors. By the least round, since what else runs on the machine only adds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from bench.machine import build, machine
from bench.tables import Table
from tests.support.daemon import Daemon
from tests.support.topology import Host, Topology
from tests.support.uplink import CORE, tapped

RESULTS = Path(__file__).parent / "results" / "harm.md"
ROUNDS, MILLISECONDS = 6, 300
NEAR = 1.1  # times another figure that counts as the same


def main() -> None:
    """Interleaved rounds."""
    table = Table("A 64-byte frame's cost to its sender, ns of its thread")
    with Topology() as net, tempfile.TemporaryDirectory(prefix="mirrord-harm-") as folder:
        host, _ = tapped(net)
        build(Path(folder), {"load": ("traffic/load.c",)})

        def measure(subject: str) -> None:
            table.add(subject, thread=cost(host, Path(folder)))

        for _ in range(ROUNDS):
            measure("never mirrored")
            for limit, subject in (("0", "mirrored"), ("10%", 'mirrored, cpu_limit = "10%"')):
                daemon = Daemon(host, Path(folder), CORE.replace('filter = "all"', 'capture = "ring"'), cpu_limit=limit)
                measure(subject)
                if limit == "0":
                    daemon.freeze()
                    measure("stopped (SIGSTOP) while it mirrored")
                    daemon.thaw()
                    daemon.kill()
                    measure("killed while it mirrored")
                else:
                    daemon.stop(60)
    about = ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in machine().items())
    least = {subject: min(row["thread"]) for subject, row in table.samples.items()}
    wrong = [f"{one} costs more than {other}" for one, other in GOALS if least[one] > NEAR * least[other]]
    met = f"missed: {'; '.join(wrong)}" if wrong else f"met, by the least round and within {NEAR - 1:.0%}"
    goal = "Goals: killed, no more than never mirrored; stopped, or with a bound, no more than mirrored"
    RESULTS.write_text(f"# What a sender pays\n\n{about}\n\n{table.markdown()}\n{goal}: {met}.\n")
    print(RESULTS.read_text())


GOALS = (
    ("killed while it mirrored", "never mirrored"),
    ("stopped (SIGSTOP) while it mirrored", "mirrored"),
    ('mirrored, cpu_limit = "10%"', "mirrored"),
)


def cost(host: Host, folder: Path) -> float:
    """Nanoseconds of the sending thread for each frame, as fast as it can."""
    said = host.run(str(folder / "load"), "tap0", "--ms", str(MILLISECONDS), "--cpu", "0").splitlines()[-1]
    result = json.loads(said)
    return float(result["cpu_ns"]) / float(result["frames"])


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
