"""What watches mirrord, against a real Prometheus: the alerts, the dashboards' queries and those of the documents."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import ROOT
from tests.support.monitored import MIRRORS, Monitored
from tests.support.prometheus import filled, hastened
from tests.support.wait import wait_for

pytestmark = pytest.mark.alone

DASHBOARDS = [ROOT / "config/grafana" / name for name in ("mirrord.json", "mirrord-session.json")]  # the daemon's
WATCHING = ROOT / "docs/watching.md"

Alerts = set[tuple[str, str, str]]  # name, mirror and reason of each
REFUSED, DOWN = ("MirrordReloadFailed", "", ""), ("MirrordDown", "", "")


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    with Monitored(tmp_path_factory.mktemp("monitored")) as made:
        made.spoil()
        yield made


@pytest.fixture
def faults(monitored: Monitored) -> Alerts:
    """The alerts that there have to be; they fire."""
    expected = {
        ("MirrordIncomplete", "flooded", "ring_full"),
        ("MirrordNoRoute", "lost", "no_route"),
        ("MirrordSessionDown", "gone", "no such device: gone"),
        ("MirrordCaptureNotWritten", "disk", f"{monitored.captures}/c.pcapng: No space left on device"),
    }
    wait_for(lambda: monitored.prometheus.firing() >= expected, "each fault's alert", 40)
    return expected


def test_each_fault_fires_its_alert_and_no_other(monitored: Monitored, faults: Alerts) -> None:
    prometheus = monitored.prometheus
    until = time.monotonic() + 3
    while time.monotonic() < until:  # the rules are evaluated every second
        assert prometheus.firing() == faults
        time.sleep(0.5)
    for alert, mirror, _ in faults:
        annotations = prometheus.annotations(alert)
        assert set(annotations) == {"summary", "description", "action"}
        assert mirror in annotations["summary"] + annotations["description"]
        assert "no value" not in str(annotations)


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
@pytest.mark.usefixtures("faults")
def test_every_query_of_the_dashboards_finds_data(monitored: Monitored, file: Path) -> None:
    prometheus = monitored.prometheus
    told = json.loads(file.read_text())
    for variable in told["templating"]["list"]:
        if variable["type"] == "query":
            match, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
            expected = {"instance": {"127.0.0.1:9817"}, "mirror": set(MIRRORS), "session": {"s"}}[label]
            assert prometheus.label_values(label, filled(match)) == expected
    for panel in told["panels"]:
        for target in panel["targets"]:
            found = prometheus.query(filled(target["expr"]))
            assert [one for one in found if one["value"][1] != "NaN"], (panel["title"], target["expr"])
            named = re.findall(r"{{(\w+)}}", target["legendFormat"])
            assert all(set(named) <= set(one["metric"]) for one in found), panel["title"]


@pytest.mark.usefixtures("faults")
def test_the_documents_queries_tell_the_complete_mirror_from_the_others(monitored: Monitored) -> None:
    prometheus = monitored.prometheus
    queries = re.findall(r"```promql\n(.*?)```", WATCHING.read_text(), re.DOTALL)
    assert len(queries) > 3
    for query in queries:
        assert prometheus.query(hastened(query)), query

    def told() -> bool:
        complete = {one["metric"]["mirror"]: float(one["value"][1]) for one in prometheus.query(hastened(queries[0]))}
        return (complete["well"], complete["lost"]) == (1, 0) and 0 < complete["flooded"] < 1

    wait_for(told, "the window past what was before the faults")


def test_what_is_mended_is_silent_and_the_daemons_own_alerts_come_alone(monitored: Monitored) -> None:
    prometheus, daemon = monitored.prometheus, monitored.daemon
    monitored.mend()
    wait_for(lambda: prometheus.firing() == set(), "silence", 40)
    daemon.file.write_text("nonsense")
    daemon.reload()
    wait_for(lambda: prometheus.firing() == {REFUSED}, "the alert of a refused reload", 20)
    daemon.kill()
    wait_for(lambda: prometheus.firing() == {DOWN}, "the alert of a daemon that is gone", 20)
