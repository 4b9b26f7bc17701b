"""Bars of the tables' medians, as SVG."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bench.comparison.goals import CORE, DEVICE_TITLE, EXTRA, FULL_TITLE, VXLAN_TITLE
from bench.tables import Table

PLOTS = {
    "vxlan": (VXLAN_TITLE, EXTRA, "extra CPU for each mirrored frame, the whole machine, ns"),
    "sender": (FULL_TITLE.format("64 bytes, one flow"), "sender_ns_a_frame", "what a frame takes its sender, ns"),
    "device": (DEVICE_TITLE, CORE, "CPU for each copy on the mirroring core, ns"),
}
OURS, OTHERS = "#1f77b4", "#999999"


def draw(tables: Sequence[Table], folder: Path) -> None:
    """Writes comparison-NAME.svg for each plot."""
    by_title = {table.title: table for table in tables}
    for name, (title, quantity, axis) in PLOTS.items():
        rows = by_title[title].samples
        values = [statistics.median(row[quantity]) for row in rows.values()]
        figure = Figure(figsize=(8, 0.8 + 0.4 * len(rows)), layout="constrained")
        axes = figure.subplots()
        bars = axes.barh(
            list(rows), values, color=[OURS if subject.startswith("mirrord") else OTHERS for subject in rows]
        )
        axes.bar_label(bars, fmt="%.0f", padding=3)
        axes.invert_yaxis()
        axes.set_xlabel(axis)
        axes.set_title(title, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(folder / f"comparison-{name}.svg", metadata={"Date": None})
