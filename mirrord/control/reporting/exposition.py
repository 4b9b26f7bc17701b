"""Metrics as text, in either of the forms that Prometheus reads.

prometheus-client takes a second for the series of 500 sessions, and holds up the workers with it. Here a sample is one
formatted line, and what a scrape costs is joining them.

No `_created` series: what counts here began with the daemon, and `process_start_time_seconds` says when that was.
A scrape in one form has the same series as in the other.

https://prometheus.io/docs/instrumenting/exposition_formats/, https://prometheus.io/docs/specs/om/open_metrics_spec/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from prometheus_client.core import Metric

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_SUFFIX = {"counter": "_total", "info": "_info"}  # in OpenMetrics the samples', not the family's


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: its name without the suffix of its samples, its type as OpenMetrics names it, and its samples."""

    name: str
    kind: str
    text: str
    lines: list[str]

    @classmethod
    def of(cls, metric: Metric) -> Self:
        """What prometheus-client's own collectors tell."""
        lines = [f"{one.name}{labels(one.labels)} {one.value!r}" for one in metric.samples]
        return cls(metric.name, metric.type, metric.documentation, lines)


def labels(values: Mapping[str, str]) -> str:
    """Labels as they stand between a name and a value; "" for none."""
    return (
        "{" + ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in values.items()) + "}"
        if values
        else ""
    )


def accepted(accept: str) -> str:
    """The content type for who sent this Accept header: OpenMetrics if asked for, in a version that is known here."""
    for kind, parameters in _offers(accept):
        if kind == "application/openmetrics-text" and parameters.get("version", "1.0.0") == "1.0.0":
            return OPENMETRICS
    return TEXT


def compressed(accept_encoding: str) -> bool:
    """Whether who sent this Accept-Encoding header takes gzip."""
    return any(coding in ("gzip", "x-gzip") for coding, _ in _offers(accept_encoding))


def _offers(header: str) -> Iterator[tuple[str, dict[str, str]]]:
    """What a client takes, with its parameters; without what it refuses by a weight of 0 (RFC 9110, section 12.4.2)."""
    for offer in header.split(","):
        kind, *rest = (part.strip().lower() for part in offer.split(";"))
        parameters = {name: value.strip('"') for name, _, value in (one.partition("=") for one in rest)}
        if parameters.get("q", "1").strip("0") not in ("", "."):
            yield kind, parameters


def render(families: Iterable[Family], content_type: str) -> str:
    """All of a scrape."""
    openmetrics = content_type == OPENMETRICS
    parts: list[str] = []
    for family in families:
        suffix = _SUFFIX.get(family.kind, "")
        name = family.name if openmetrics else family.name + suffix
        kind = "gauge" if family.kind == "info" and not openmetrics else family.kind
        parts += f"# HELP {name} {family.text}", f"# TYPE {name} {kind}", *family.lines
    if openmetrics:
        parts.append("# EOF")
    return "\n".join(parts) + "\n"
