"""Fixtures of the tests that need a network: a topology, sniffers and daemons in it, both data planes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import settings

from tests.support.daemon import Daemon, Setting
from tests.support.ovs import OpenVSwitch
from tests.support.prepared import prepared
from tests.support.sniffer import Sniffer
from tests.support.topology import Host, Topology

# No deadline: what a machine that stands still for a moment breaks proves nothing. Each run draws other examples: few
# in each are many in a week. `--hypothesis-profile thorough` is for those who change what the examples are for.
settings.register_profile("mirrord", deadline=None, max_examples=75)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile("mirrord")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with those that are allowed the longest time: where several processes share the tests, none ends alone."""
    items.sort(key=_seconds_allowed, reverse=True)


def _seconds_allowed(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker else float(item.config.getini("timeout"))


class MakeDaemon(Protocol):
    def __call__(self, host: Host, configuration: str, *, up: bool = True, **settings: Setting) -> Daemon: ...


class MakeSniffer(Protocol):
    def __call__(self, host: Host, device: str, expression: str = "", *, snaplen: int = 2048) -> Sniffer: ...


class MakeOpenVSwitch(Protocol):
    def __call__(self, host: Host) -> OpenVSwitch: ...


@pytest.fixture(scope="session", autouse=True)
def prepared_interpreter() -> Iterator[None]:
    with prepared():
        yield


@pytest.fixture
def net() -> Iterator[Topology]:
    """Makes hosts and links: `net.host("a")`, `net.link(a, "eth0", b, "eth0")`, `net.lan({a: "10.0.0.1/24"})`."""
    with Topology() as topology:
        yield topology


@pytest.fixture
def sniff(tmp_path: Path) -> MakeSniffer:
    """Makes a sniffer that listens already: `sniff(host, "eth0", "udp port 4789")`."""

    def make(host: Host, device: str, expression: str = "", *, snaplen: int = 2048) -> Sniffer:
        return Sniffer(host, device, expression, tmp_path / f"{host.label}-{device}.pcap", snaplen=snaplen)

    return make


@pytest.fixture(params=["python", "native"])
def dataplane(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which data plane the daemon runs; a test that asks for a daemon runs once with each.

    The lines are the same but for those of the data plane: the coverage of one is enough, and starting costs it half.
    """
    if request.param == "native":
        monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    return str(request.param)


@pytest.fixture
def daemon(dataplane: str, tmp_path: Path, net: Topology) -> Iterator[MakeDaemon]:  # noqa: ARG001 (it outlives this)
    """Runs mirrord in a host: `daemon(host, toml)`. Those still running at the end are stopped."""
    with ExitStack() as running:

        def make(host: Host, configuration: str, *, up: bool = True, **settings: Setting) -> Daemon:
            directory = tmp_path / f"mirrord-{host.label}"
            directory.mkdir()
            made = Daemon(host, directory, configuration, up=up, under=(), **{"dataplane": dataplane, **settings})
            running.callback(made.stop)
            return made

        yield make


@pytest.fixture
def ovs(tmp_path: Path, net: Topology) -> Iterator[MakeOpenVSwitch]:  # noqa: ARG001 (it outlives this)
    """Runs Open vSwitch in a host: `ovs(host)`. It ends with the test."""
    with ExitStack() as running:

        def make(host: Host) -> OpenVSwitch:
            directory = tmp_path / f"ovs-{host.label}"
            directory.mkdir()
            made = OpenVSwitch(host, directory)
            running.callback(made.close)
            return made

        yield make


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--requests", type=int, default=700, help="how many malformed requests the API is sent")
    parser.addoption("--kills", type=int, default=12, help="how often a daemon is killed at a random moment")
    parser.addoption("--comings", type=int, default=15, help="how often what may leave something behind comes and goes")
    parser.addoption("--retransmissions", type=int, default=500, help="how many a mirror of several sources sees")
    parser.addoption("--taps", type=int, default=30, help="how many times the tap is made that is mirrored")
    parser.addoption("--pictures", type=Path, help="where to put pictures of the console's places")
    parser.addoption("--pristine", type=Path, help="a Debian 12 with nothing added, to install the package into")
    parser.addoption("--booted", type=Path, help="a Debian 12 with systemd, to be booted with the package in it")
