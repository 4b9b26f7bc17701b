"""What watches mirrord, against a real Prometheus: the alerts, the dashboards' queries and those of the documents.

client well, flooded, lost, gone, disk ---- the same [source], which also has Prometheus; up0, up1 ---- [collector]

Each mirror has one device and one fault; all run at once.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.daemon import ROOT, Daemon
from tests.support.prometheus import RATE_WINDOW, WINDOW, Prometheus, hastened
from tests.support.send import flood, send, udp_frame
from tests.support.topology import Host, Topology, acquaint, receive_vxlan
from tests.support.wait import wait_for

pytestmark = pytest.mark.alone

RULES = ROOT / "config/prometheus/mirrord.rules.yml"
DASHBOARDS = sorted((ROOT / "config/grafana").glob("*.json"))
WATCHING = ROOT / "docs/watching.md"
MIRRORS = ("well", "flooded", "lost", "gone", "disk")
FRAME = udp_frame(("02:00:00:00:00:01", "10.1.0.1", 1000), ("02:00:00:00:00:02", "10.1.0.2", 2000), length=1000)
SHORT = bytes.fromhex("020000000002 020000000001 88b6").ljust(64, b"\0")  # see test_loops

FAULTS = {
    ("MirrordIncomplete", "flooded", "ring_full"),
    ("MirrordNoRoute", "lost", "no_route"),
    ("MirrordSessionDown", "gone", "no such device: gone"),
}
REFUSED, DOWN = ("MirrordReloadFailed", "", ""), ("MirrordDown", "", "")


def configuration(captures: Path) -> str:
    return "".join(
        f"""
[[mirrors.{mirror}.sessions]]
name = "s"
direction = "{"egress" if mirror == "flooded" else "ingress"}"
source = "{mirror}"
destination = {destination}
ring_size = "{"1MiB" if mirror == "flooded" else "8MiB"}"
{"sampling_rate = 2" if mirror == "well" else ""}
"""
        for mirror, destination in {
            "well": '{ type = "vxlan", remote = "10.99.0.2", vni = 1 }',
            "flooded": '{ type = "vxlan", remote = "10.99.0.2", vni = 2 }',
            "lost": '{ type = "vxlan", remote = "10.98.0.2", vni = 3 }',
            "gone": '{ type = "vxlan", remote = "10.99.0.2", vni = 4 }',
            "disk": f'{{ type = "file", path = "{captures}/c.pcapng" }}',
        }.items()
    )


@dataclass
class Watched:
    source: Host
    daemon: Daemon
    prometheus: Prometheus
    faults: set[tuple[str, str, str]]
    mend: Callable[[], None]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A daemon with one healthy mirror and four with a fault, frames for all of them, and Prometheus, which knows."""
    directory = tmp_path_factory.mktemp("watched")
    captures = directory / "captures"
    captures.mkdir()
    with ExitStack() as stack:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(captures)], check=True)
        stack.callback(subprocess.run, ["umount", "-l", str(captures)], check=True)
        net = stack.enter_context(Topology())
        client, source, collector = net.host("client"), net.host("source"), net.host("collector")
        for mirror in MIRRORS:
            net.link(client, mirror, source, mirror)
        for n, network in enumerate(("10.99.0", "10.98.0")):
            net.link(source, f"up{n}", collector, f"up{n}", (f"{network}.1/24", f"{network}.2/24"), mtu=1600)
            acquaint(source, f"up{n}", f"{network}.1", collector, f"up{n}", f"{network}.2")
        receive_vxlan(collector)
        daemon = Daemon(source, directory, configuration(captures), capture_directories=[str(captures)])
        stack.callback(daemon.stop)
        prometheus = Prometheus(source, directory, RULES)
        stack.callback(_beside(lambda: _send(client)))
        wait_for(lambda: prometheus.query("mirrord_mirrored_frames_total > 0"), "frames, as Prometheus sees them", 20)
        assert prometheus.firing() == set()

        source.ip("link delete gone")
        source.ip("route delete 10.98.0.0/24")
        (captures / "full").write_bytes(bytes(900 << 10))
        calm = _beside(lambda: _flood(daemon, source, directory))
        stack.callback(calm)

        def mend() -> None:
            calm()
            net.link(client, "gone", source, "gone")
            source.ip("route add 10.98.0.0/24 dev up1")
            (captures / "full").unlink()
            (captures / "c.pcapng").unlink()

        full = ("MirrordCaptureNotWritten", "disk", f"{captures}/c.pcapng: No space left on device")
        yield Watched(source, daemon, prometheus, {*FAULTS, full}, mend)


def _beside(work: Callable[[], None]) -> Callable[[], None]:
    """Does this again and again in a thread; what ends that."""
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            work()
            ended.wait(0.1)

    thread = threading.Thread(target=run)
    thread.start()

    def end() -> None:
        ended.set()
        thread.join()

    return end


def _send(client: Host) -> None:
    """Sixteen flows on each device that is there, so that sampling leaves some of them in."""
    for mirror in MIRRORS:
        for port in range(16):
            try:
                send(client, mirror, FRAME[:34] + bytes([4, port]) + FRAME[36:])
            except OSError:
                assert mirror == "gone"  # or comes again


def _flood(daemon: Daemon, source: Host, directory: Path) -> None:
    """A burst that the ring has no room for, since the daemon stands still."""
    daemon.freeze()
    try:
        flood(source, "flooded", SHORT, 20_000, directory)
    finally:
        daemon.thaw()
    time.sleep(2)


def test_each_fault_fires_its_alert_and_no_other(watched: Watched) -> None:
    prometheus = watched.prometheus
    wait_for(lambda: prometheus.firing() == watched.faults, "each fault's alert", 40)
    until = time.monotonic() + 3
    while time.monotonic() < until:  # the rules are evaluated every second
        assert prometheus.firing() == watched.faults
        time.sleep(0.5)
    for alert, mirror, _ in watched.faults:
        annotations = prometheus.annotations(alert)
        assert set(annotations) == {"summary", "description", "action"}
        assert mirror in annotations["summary"] + annotations["description"]
        assert "no value" not in str(annotations)


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_every_query_of_the_dashboards_finds_data(watched: Watched, file: Path) -> None:
    prometheus = watched.prometheus
    wait_for(lambda: prometheus.firing() == watched.faults, "each fault's alert", 40)
    told = json.loads(file.read_text())
    for variable in told["templating"]["list"]:
        if variable["type"] == "query":
            match, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
            expected = {"instance": {"127.0.0.1:9817"}, "mirror": set(MIRRORS), "session": {"s"}}[label]
            assert prometheus.label_values(label, _filled(match)) == expected
    for panel in told["panels"]:
        for target in panel["targets"]:
            found = prometheus.query(_filled(target["expr"]))
            assert [one for one in found if one["value"][1] != "NaN"], (panel["title"], target["expr"])
            named = re.findall(r"{{(\w+)}}", target["legendFormat"])
            assert all(set(named) <= set(one["metric"]) for one in found), panel["title"]


def _filled(expression: str) -> str:
    """As Grafana would send it, with All chosen for each variable."""
    expression = expression.replace("$__rate_interval", RATE_WINDOW).replace("$__range", WINDOW)
    return re.sub(r"\$(instance|mirror|session)", ".*", expression)


def test_the_documents_queries_tell_the_complete_mirror_from_the_others(watched: Watched) -> None:
    prometheus = watched.prometheus
    wait_for(lambda: prometheus.firing() == watched.faults, "each fault's alert", 40)
    queries = re.findall(r"```promql\n(.*?)```", WATCHING.read_text(), re.DOTALL)
    assert len(queries) > 3
    for query in queries:
        assert prometheus.query(hastened(query)), query
    complete = {one["metric"]["mirror"]: float(one["value"][1]) for one in prometheus.query(hastened(queries[0]))}
    assert complete["well"] == 1
    assert complete["lost"] == 0
    assert 0 < complete["flooded"] < 1


def test_what_is_mended_is_silent_and_the_daemons_own_alerts_come_alone(watched: Watched) -> None:
    prometheus, daemon = watched.prometheus, watched.daemon
    watched.mend()
    wait_for(lambda: prometheus.firing() == set(), "silence", 40)
    daemon.file.write_text("nonsense")
    daemon.reload()
    wait_for(lambda: prometheus.firing() == {REFUSED}, "the alert of a refused reload", 20)
    daemon.kill()
    wait_for(lambda: prometheus.firing() == {DOWN}, "the alert of a daemon that is gone", 20)
