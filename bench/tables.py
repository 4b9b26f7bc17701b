"""Samples of quantities, and the Markdown table that shows them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass
class Table:
    """Samples of named quantities for each subject, in order of their first sample."""

    title: str
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, subject: str, **values: float) -> None:
        """Takes one round's values of a subject."""
        row = self.samples.setdefault(subject, {})
        for name, value in values.items():
            row.setdefault(name, []).append(value)

    def markdown(self) -> str:
        """One line for each subject: medians, then the first quantity's least value and spread over the rounds."""
        names = list(next(iter(self.samples.values())))
        repeated = any(len(row[names[0]]) > 1 for row in self.samples.values())
        columns = ["subject", *(name.replace("_", " ") for name in names), *(["least", "spread"] if repeated else [])]
        lines = [f"## {self.title}\n", f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
        for subject, row in self.samples.items():
            cells = [subject, *(number(statistics.median(row[name])) for name in names)]
            if repeated:
                cells += [number(min(row[names[0]])), f"{spread(row[names[0]]):.0%}"]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


def number(value: float) -> str:
    """A value with at most three digits after the point."""
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def spread(samples: list[float]) -> float:
    """Distance between the quartiles as a part of the median."""
    middle = statistics.median(samples)
    if len(samples) < 2 or middle == 0:
        return 0
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return (high - low) / middle
