"""`make soak SOAK_MINUTES=120`: hours of mixed traffic and changes; memory, descriptors and threads, and every frame
accounted for at every look.

guest eth0 ---- tap0 [host] up0 ---- up0 collector

One mirror of the configuration file copies all that leaves by `tap0`, while all else is done around it (work.py). Every
second the metrics are read: no session may have accounted for more than was captured. Every minute all rests for a
moment: then nothing may be missing, and what the mirror captured is what was sent. Writes results/soak.md, .json, .svg.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.machine import machine
from bench.soak import plot
from bench.soak.traffic import Traffic
from bench.soak.work import Work
from tests.support.daemon import Daemon
from tests.support.metrics import Metrics
from tests.support.topology import Topology
from tests.support.uplink import CORE, tapped
from tests.support.wait import wait_for

RESULTS = Path(__file__).parents[1] / "results"
MORE = '\n[filters.some]\nrules = [{ priority = 1, action = "accept", protocol = "udp" }]\n'
LOOK_SECONDS, REST_SECONDS = 1.0, 60.0


def excess(metrics: Metrics) -> float:
    """The most frames by which a session accounted for more than it captured: never above 0."""
    by_session: dict[tuple[Any, ...], float] = {}
    for (name, labels), value in metrics.items():
        sign = {"mirrord_captured_frames_total": -1}.get(name, 1 if name.endswith(FATES) else 0)
        if sign:
            key = tuple(sorted((k, v) for k, v in labels if k in ("mirror", "session", "source")))
            by_session[key] = by_session.get(key, 0) + sign * value
    return max(by_session.values())


FATES = ("_mirrored_frames_total", "_skipped_frames_total", "_dropped_frames_total")


def state(pid: int) -> dict[str, int]:
    """What the process holds: kilobytes of memory, descriptors, threads."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        "memory_kb": int(status["VmRSS"].split()[0]),
        "threads": int(status["Threads"]),
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208 (names are not needed)
    }


def at_rest(mirrord: Daemon, work: Work, traffic: Traffic) -> dict[str, float]:
    """What is missing when nothing comes any more: frames of any session, and of what was sent."""
    work.resting.set()
    time.sleep(0.5)
    try:
        metrics = wait_for(lambda: m if (m := mirrord.metrics()).unaccounted() == 0 else None, "all accounted for", 20)
    except AssertionError:
        metrics = mirrord.metrics()
    captured = metrics.total("mirrord_captured_frames_total", mirror="core")
    found = {"unaccounted": metrics.unaccounted(), "captured": captured, "missing": traffic.sent - captured}
    work.resting.clear()
    return found


def run(minutes: float) -> dict[str, Any]:
    """The samples, one a look, and what was done."""
    samples: list[dict[str, float]] = []
    rests: list[dict[str, float]] = []
    with Topology() as net, tempfile.TemporaryDirectory(prefix="mirrord-soak-") as folder:
        host, _ = tapped(net)
        mirrord = Daemon(host, Path(folder), CORE + MORE, capture_directories=[folder])
        traffic = Traffic(host)
        work = Work(host, mirrord, traffic, Path(folder))
        begun = rested = time.monotonic()
        while time.monotonic() - begun < minutes * 60:
            time.sleep(LOOK_SECONDS)
            metrics = mirrord.metrics()
            counts = {"excess": excess(metrics), "captured": metrics.total("mirrord_captured_frames_total")}
            samples.append({"seconds": time.monotonic() - begun, **state(mirrord.pid), **counts})
            if time.monotonic() - rested > REST_SECONDS:
                rests.append(at_rest(mirrord, work, traffic) | {"seconds": time.monotonic() - begun})
                rested = time.monotonic()
                print(
                    f"{rested - begun:.0f} s: {samples[-1]}, at rest {rests[-1]}, {len(work.wrong)} wrong", flush=True
                )
        work.stop()
        rests.append(at_rest(mirrord, work, traffic) | {"seconds": time.monotonic() - begun})
        status, output = mirrord.stop(60)
        done = {**dict(work.done), "frames sent": traffic.sent}
    return {
        "minutes": minutes, "samples": samples, "rests": rests, "done": done, "wrong": work.wrong,
        "exit status": status, "tracebacks": output.count("Traceback"),
    }  # fmt: skip


def report(found: Mapping[str, Any]) -> str:
    samples: Sequence[Mapping[str, float]] = found["samples"]
    tenth = len(samples) // 10
    first, last = _mean(samples[tenth : 2 * tenth]), _mean(samples[-tenth:])
    about = ", ".join(f"{key} {value}" for key, value in machine().items())
    lines = ["# Soak", "", f"`make soak SOAK_MINUTES={found['minutes']:g}`: {about}.", ""]
    lines += ["| | in the second tenth | in the last tenth | most |", "| --- | ---: | ---: | ---: |"]
    for key, what in (("memory_kb", "memory, KiB"), ("descriptors", "descriptors"), ("threads", "threads")):
        most = max(sample[key] for sample in samples)
        lines.append(f"| {what} | {first[key]:.0f} | {last[key]:.0f} | {most:.0f} |")
    rests, over = found["rests"], max(sample["excess"] for sample in samples)
    unaccounted = max(rest["unaccounted"] for rest in rests)
    missing = max(abs(rest["missing"]) for rest in rests)
    lines.append("")
    lines.append(f"{len(samples)} looks: no session had accounted for more than it captured (most: {over:.0f} frames).")
    lines.append(f"{len(rests)} rests: {unaccounted:.0f} frames unaccounted for, {missing:.0f} of those sent missing.")
    lines += ["", "| done | times |", "| --- | ---: |"]
    lines += [f"| {what} | {count} |" for what, count in sorted(found["done"].items())]
    ended = f"Tracebacks: {found['tracebacks']}. Exit status: {found['exit status']}."
    lines += ["", f"Went otherwise than it should: {len(found['wrong'])}. {ended}", ""]
    return "\n".join([*lines, "![Memory, descriptors and threads over time](soak.svg)", ""])


def _mean(samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: sum(one[key] for one in samples) / len(samples) for key in samples[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    found = run(chosen.minutes)
    (chosen.results / "soak.json").write_text(json.dumps(plot.thinned(found)) + "\n")
    (chosen.results / "soak.md").write_text(report(found))
    plot.draw(found, chosen.results / "soak.svg")
    print(report(found))


if __name__ == "__main__":
    main()
