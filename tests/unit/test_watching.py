"""What is shipped for Prometheus and Grafana, as far as it can be checked without traffic."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from config.grafana import dashboards

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "config/prometheus"


@pytest.mark.parametrize(
    "command",
    [
        ["check", "config", PROMETHEUS / "prometheus.yml"],
        ["check", "rules", PROMETHEUS / "mirrord.rules.yml"],
        ["test", "rules", Path(__file__).with_name("alerts.yml")],
    ],
    ids=["config", "rules", "alerts"],
)
def test_promtool_agrees(command: list[str | Path]) -> None:
    done = subprocess.run(["promtool", *command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboards_are_what_their_source_says() -> None:
    for name, text in dashboards.files().items():
        assert (ROOT / "config/grafana" / name).read_text() == text, "run: python config/grafana/dashboards.py"
