"""The tables' medians as SVG: bars, and lines over a number of sessions or sources."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bench.comparison import sharing, sources
from bench.comparison.goals import ALL, CORE, DEVICE_TITLE, EXTRA, FULL_TITLE, SENDERS, VXLAN_TITLE
from bench.tables import Table

PLOTS = {
    "vxlan": (VXLAN_TITLE, EXTRA, "extra CPU for each mirrored frame, the whole machine, ns"),
    "sender": (FULL_TITLE.format("64 bytes, one flow"), "sender_ns_a_frame", "what a frame takes its sender, ns"),
    "device": (DEVICE_TITLE, CORE, "CPU for each copy on the mirroring core, ns"),
}
LINES = {  # of subjects "NAME, NUMBER"
    "sessions": (sharing.NONE_TITLE, SENDERS, "sessions, or filters", "a frame's extra time for its sender, ns"),
    "sources": (sources.TITLE.format(sources.RATES[0]), ALL, "sources", "CPU a frame, the whole machine, ns"),
}
OURS, OTHERS = "#1f77b4", "#999999"


def draw(tables: Sequence[Table], folder: Path) -> None:
    """Writes comparison-NAME.svg for each plot whose table is there."""
    by_title = {table.title: table.samples for table in tables}
    for name, (title, quantity, axis) in PLOTS.items():
        if title in by_title:
            rows = by_title[title]
            figure = _bars({subject: statistics.median(row[quantity]) for subject, row in rows.items()}, title, axis)
            figure.savefig(folder / f"comparison-{name}.svg", metadata={"Date": None})
    for name, (title, quantity, across, axis) in LINES.items():
        if title in by_title:
            rows = by_title[title]
            figure = _lines({subject: statistics.median(row[quantity]) for subject, row in rows.items()}, across, axis)
            figure.savefig(folder / f"comparison-{name}.svg", metadata={"Date": None})


def _bars(values: Mapping[str, float], title: str, axis: str) -> Figure:
    figure = Figure(figsize=(8, 0.8 + 0.4 * len(values)), layout="constrained")
    axes = figure.subplots()
    colours = [OURS if subject.startswith("mirrord") else OTHERS for subject in values]
    bars = axes.barh(list(values), list(values.values()), color=colours)
    axes.bar_label(bars, fmt="%.0f", padding=3)
    axes.invert_yaxis()
    axes.set_xlabel(axis)
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _lines(values: Mapping[str, float], across: str, axis: str) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    by_name: dict[str, list[tuple[int, float]]] = {}
    for subject, value in values.items():
        name, _, number = subject.rpartition(", ")
        by_name.setdefault(name, []).append((int(number), value))
    for name, points in by_name.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel(across)
    axes.set_ylabel(axis)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
