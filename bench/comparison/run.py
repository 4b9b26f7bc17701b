"""Compares mirrord with what else can mirror on a Linux host, and writes the figures to bench/results.

Run as root, on a machine with nothing else to do: `python -m bench.comparison.run [--quick | --rounds N]`. A round runs
every subject once; the tables show medians over the rounds. `goals.py` says what is aimed at. `--only order` measures
what it costs to keep the order of capture, nothing else, and writes that to files of its own; `--only sharing`, many
sessions on one source; `--only sources`, many sources, `--only by_veth`, by a veth; `--only payload`, what it costs to
leave payload out; `--only flows`, limits by flow; `--only collectors`, several collectors; `--only captures`, streams
of packets and files.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from bench.comparison.captures import Captures
from bench.comparison.collectors import Collectors
from bench.comparison.experiments import Experiments
from bench.comparison.flows import Flows
from bench.comparison.goals import goals
from bench.comparison.operation import Operation
from bench.comparison.payloads import Payloads
from bench.comparison.plots import draw
from bench.comparison.sharing import Sharing
from bench.comparison.sources import Sources
from bench.comparison.streams import Streams
from bench.comparison.testbed import Testbed
from bench.machine import machine, stolen
from bench.tables import Table
from tests.support.topology import Topology

RESULTS = Path(__file__).parents[1] / "results"


def measure(bed: Testbed, *, rounds: int, milliseconds: int, only: str = "") -> list[Table]:
    """Every table, after so many rounds. What is slow to set up is measured in the first round alone."""
    experiments, operation = Experiments(bed, milliseconds), Operation(bed, milliseconds)
    streams, sharing = Streams(bed, milliseconds), Sharing(bed, milliseconds)
    many = Sources(bed, milliseconds)
    payloads, flows = Payloads(bed, milliseconds), Flows(bed, milliseconds)
    collectors, captures = Collectors(bed, milliseconds), Captures(bed, milliseconds)
    for number in range(rounds):
        begun = time.monotonic()
        for experiment in (
            experiments.paced,
            experiments.order,
            experiments.full_rate,
            experiments.devices,
            experiments.by_wire,
            streams.run,
            operation.rules,
            sharing.sharing,
            many.sources,
            many.by_veth,
            many.unmirrored,
            payloads.payload,
            flows.flows,
            collectors.collectors,
            captures.captures,
            operation.start,
            *((experiments.scripts, operation.latency, operation.idle) if number == 0 else ()),
        ):
            if only in ("", experiment.__name__):
                experiment()
        print(f"round {number + 1} of {rounds}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return [
        *experiments.tables.values(),
        *streams.tables.values(),
        *operation.tables.values(),
        *sharing.tables.values(),
        *many.tables.values(),
        *payloads.tables.values(),
        *flows.tables.values(),
        *collectors.tables.values(),
        *captures.tables.values(),
    ]


def report(described: dict[str, str], tables: list[Table]) -> str:
    """The whole Markdown page."""
    heading = "# Comparison\n\n" + "".join(f"- {key.replace('_', ' ')}: {value}\n" for key, value in described.items())
    return "\n".join([heading, goals(tables), *(table.markdown() for table in tables)])


def main() -> None:
    """Builds, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="one short round")
    length.add_argument("--rounds", type=int, default=5, help="the more, the less what else runs there tells")
    parser.add_argument(
        "--results", type=Path, default=Path(__file__).parents[1] / "results", help="folder to write to"
    )
    parser.add_argument("--only", default="", metavar="EXPERIMENT", help='measure one, such as "order"')
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("must be root: it makes network namespaces")
    described = machine()
    stolen_before, ticks_before = stolen()
    rounds = 1 if options.quick else options.rounds
    with tempfile.TemporaryDirectory() as folder, Topology() as net:
        bed = Testbed(net, Path(folder))
        milliseconds = 300 if options.quick else 600
        tables = measure(bed, rounds=rounds, milliseconds=milliseconds, only=options.only)
    stolen_after, ticks_after = stolen()
    described["rounds"] = str(rounds)
    described["stolen_by_the_hypervisor"] = f"{(stolen_after - stolen_before) / (ticks_after - ticks_before):.0%}"
    text = report(described, tables)
    options.results.mkdir(parents=True, exist_ok=True)
    name = f"comparison-{options.only}" if options.only else "comparison"
    (options.results / f"{name}.md").write_text(text)
    samples = {"machine": described, "samples": {table.title: table.samples for table in tables}}
    (options.results / f"{name}.json").write_text(json.dumps(samples, indent=1) + "\n")
    draw(tables, options.results)
    print(text)


if __name__ == "__main__":
    main()
