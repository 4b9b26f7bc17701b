"""What the daemon held over the hours, as SVG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

MOST = 600  # points of a curve


def thinned(found: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with few enough samples to be kept."""
    step = max(len(found["samples"]) // MOST, 1)
    return {**found, "samples": found["samples"][::step]}


def draw(found: Mapping[str, Any], path: Path) -> None:
    samples = thinned(found)["samples"]
    minutes = [one["seconds"] / 60 for one in samples]
    figure = Figure(figsize=(8, 6), layout="constrained")
    rows = (
        ("memory, MiB", [one["memory_kb"] / 1024 for one in samples]),
        ("descriptors", [one["descriptors"] for one in samples]),
        ("threads", [one["threads"] for one in samples]),
        ("frames captured", [one["captured"] for one in samples]),
    )
    for axes, (name, values) in zip(figure.subplots(len(rows), sharex=True), rows, strict=True):
        axes.plot(minutes, values, linewidth=0.8)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(name)
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("minutes")
    figure.savefig(path, metadata={"Date": None})
