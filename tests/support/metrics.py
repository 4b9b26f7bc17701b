"""One scrape of /metrics, as Prometheus's own parser reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

Key = tuple[str, frozenset[tuple[str, str]]]


class Metrics(dict[Key, float]):
    """Samples by name and labels: `metrics[name, frozenset({("mirror", "core"), ...})]`."""

    @classmethod
    def parse(cls, text: str) -> Self:
        families = text_string_to_metric_families(text)
        return cls(
            ((sample.name, frozenset(sample.labels.items())), sample.value)
            for family in families
            for sample in family.samples
        )

    def total(self, name: str, **labels: str) -> float:
        """The sum of a name's samples that have these labels; KeyError when there is none."""
        chosen = self.select(name, **labels)
        if not chosen:
            raise KeyError(name, labels)
        return sum(chosen.values())

    def select(self, name: str, **labels: str) -> Mapping[Key, float]:
        return {key: value for key, value in self.items() if key[0] == name and labels.items() <= dict(key[1]).items()}

    def unaccounted(self) -> float:
        """Captured - (mirrored + skipped + dropped), over all sessions: 0 at rest."""
        return self.total("mirrord_captured_frames_total") - (
            self.total("mirrord_mirrored_frames_total")
            + self.total("mirrord_skipped_frames_total")
            + self.total("mirrord_dropped_frames_total")
        )
