"""Draws docs/dashboard.png: panels of the dashboard, with data of a real Prometheus and a real daemon.

As root: `.venv/bin/pip install matplotlib`, then `.venv/bin/python -m tests.picture`. It takes a minute: twenty seconds
without a fault, twenty with four of them, twenty to recover.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm

from tests.support.daemon import ROOT
from tests.support.monitored import Monitored
from tests.support.prometheus import Prometheus, filled

PANELS = (
    "Complete, by mirror",
    "What becomes of frames",
    "Lost, by cause",
    "Skipped on purpose, by cause",
    "Sent, by mirror",
    "Latency",
)
PHASE_SECONDS = 20
PICTURE = ROOT / "docs/dashboard.png"


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="mirrord-picture-") as directory, Monitored(Path(directory)) as monitored:
        start = time.time()
        time.sleep(PHASE_SECONDS)
        monitored.spoil()
        time.sleep(PHASE_SECONDS)
        monitored.mend()
        time.sleep(PHASE_SECONDS)
        draw(monitored.prometheus, start, time.time())


def draw(prometheus: Prometheus, start: float, end: float) -> None:
    panels = {one["title"]: one for one in json.loads((ROOT / "config/grafana/mirrord.json").read_text())["panels"]}
    plt.style.use("dark_background")
    figure, axes = plt.subplots(3, 2, figsize=(11, 8), layout="constrained")
    for axis, title in zip(axes.flat, PANELS, strict=True):
        panel = panels[title]
        axis.set_title(title, loc="left", fontsize=10)
        unit = panel["fieldConfig"]["defaults"]["unit"]
        axis.set_ylabel({"pps": "frames/s", "bps": "bit/s", "s": "seconds", "percentunit": "share"}[unit], fontsize=8)
        axis.tick_params(labelsize=8)
        if panel["type"] == "heatmap":
            heat_map(axis, prometheus.query_range(filled(panel["targets"][0]["expr"]), start, end), start)
            continue
        for target in panel["targets"]:
            for series in prometheus.query_range(filled(target["expr"]), start, end):
                legend = re.sub(r"{{(\w+)}}", lambda found: series["metric"][found[1]], target["legendFormat"])  # noqa: B023
                points = [(at - start, float(value)) for at, value in series["values"]]
                axis.plot(*zip(*points, strict=True), label=legend, linewidth=1.2)
        axis.legend(fontsize=7, ncols=2, loc="upper right", framealpha=0.6)
        axis.grid(alpha=0.2)
    figure.savefig(PICTURE, dpi=90)


def heat_map(axis: Any, found: list[dict[str, Any]], start: float) -> None:
    buckets = sorted(found, key=lambda series: float(series["metric"]["le"]))[:-1]  # but the one without an end
    times = [at - start for at, _ in buckets[0]["values"]]
    below = np.array([[float(value) for _, value in series["values"]] for series in buckets])
    counts = np.diff(below, axis=0, prepend=0)
    bounds = [float(series["metric"]["le"]) for series in buckets]
    axis.pcolormesh(
        times, bounds, np.where(counts >= 1, counts, np.nan), norm=LogNorm(), cmap="inferno", shading="nearest"
    )
    axis.set_yscale("log")


if __name__ == "__main__":
    main()
