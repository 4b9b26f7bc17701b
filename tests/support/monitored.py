"""A host that is monitored: mirrord with seven mirrors, three well and four to be given a fault each, and Prometheus.

client well, flooded, lost, gone, disk, stream, road ---- the same [source, with Prometheus]; up0, up1 ---- [collector]
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from tests.support.daemon import ROOT, Daemon
from tests.support.prometheus import Prometheus
from tests.support.send import ENDS, UNANSWERED, flood, send, udp_frame
from tests.support.topology import Host, Topology, acquaint, receive_vxlan
from tests.support.wait import wait_for

RULES = ROOT / "config/prometheus/mirrord.rules.yml"
FILTER = '[filters.udp]\nrules = [{ priority = 1, action = "accept", protocol = "udp" }]\n'
ENDS_ONCE = '[mirrors.well]\nexpires = "2999-12-31T00:00:00Z"\n'
ROAD = """
[[mirrors.road.sessions]]
name = "s"
source = { type = "gre", local = "10.99.0.1" }
destination = { type = "vxlan", remote = "10.99.0.2", vni = 5 }
"""
SAMPLED = 'sampling_rate = 2\nfilter = "udp"\ncount_rules = true\nflow_limit = { packets = 2_000_000_000 }'
MIRRORS = ("well", "flooded", "lost", "gone", "disk", "stream", "road")
FRAMES = [udp_frame(("02:00:00:00:00:01", f"10.1.0.{n}", 1000), ENDS[1], length=1000) for n in range(10, 26)]


def configuration(captures: Path) -> str:
    return (
        FILTER
        + ENDS_ONCE
        + ROAD
        + "".join(
            f"""
[[mirrors.{mirror}.sessions]]
name = "s"
direction = "{"egress" if mirror == "flooded" else "ingress"}"
source = "{mirror}"
destination = {destination}
capture = "{"ring" if mirror == "flooded" else "auto"}"
ring_size = "{"1MiB" if mirror == "flooded" else "8MiB"}"
{SAMPLED if mirror == "well" else ""}
"""
            for mirror, destination in {
                "well": '{ type = "vxlan", remote = "10.99.0.2", vni = 1 }',
                "flooded": '{ type = "vxlan", remote = "10.99.0.2", vni = 2 }',
                "lost": '{ type = "vxlan", remote = "10.98.0.2", vni = 3 }',
                "gone": '{ type = "vxlan", remote = "10.99.0.2", vni = 4 }',
                "disk": f'{{ type = "file", path = "{captures}/c.pcapng" }}',
                "stream": '{ type = "pcap", listen = "127.0.0.1:9900" }',
            }.items()
        )
    )


class Monitored:
    """Made: frames are mirrored and Prometheus knows, and no alert fires. It is a context manager."""

    def __init__(self, directory: Path) -> None:
        self._stack, self._directory = ExitStack(), directory
        self.captures = directory / "captures"
        with ExitStack() as stack:
            self._set_up(stack)
            self._stack = stack.pop_all()

    def _set_up(self, stack: ExitStack) -> None:
        self.captures.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(self.captures)], check=True)
        stack.callback(subprocess.run, ["umount", "-l", str(self.captures)], check=True)
        net = self._net = stack.enter_context(Topology())
        self._client, self.source, collector = net.host("client"), net.host("source"), net.host("collector")
        for mirror in MIRRORS:
            net.link(self._client, mirror, self.source, mirror)
        for n, network in enumerate(("10.99.0", "10.98.0")):
            net.link(self.source, f"up{n}", collector, f"up{n}", (f"{network}.1/24", f"{network}.2/24"), mtu=1600)
            acquaint(self.source, f"up{n}", f"{network}.1", collector, f"up{n}", f"{network}.2")
        receive_vxlan(collector)
        toml = configuration(self.captures)
        self.daemon = Daemon(self.source, self._directory, toml, up=False, capture_directories=[str(self.captures)])
        stack.callback(self.daemon.stop)
        self.source.spawn("sh", "-c", "nc -d 127.0.0.1 9900 > /dev/null")
        self.daemon.wait_up()
        self.prometheus = Prometheus(self.source, self._directory, RULES)
        stack.callback(_beside(lambda: _send(self._client)))
        seen = "mirrord_mirrored_frames_total > 0"
        wait_for(lambda: self.prometheus.query(seen), "frames, as Prometheus sees them", 20)
        assert self.prometheus.firing() == set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def spoil(self) -> None:
        """Give the four mirrors their faults: a full ring, no route, no device, no room on the disk."""
        self.source.ip("link delete gone")
        self.source.ip("route delete 10.98.0.0/24")
        with suppress(OSError), (self.captures / "full").open("wb", buffering=0) as full:
            while full.write(bytes(64 << 10)):
                pass
        self._calm = _beside(lambda: _flood(self.daemon, self.source, self._directory))
        self._stack.callback(self._calm)

    def mend(self) -> None:
        """Take the faults away."""
        self._calm()
        self._net.link(self._client, "gone", self.source, "gone")
        self.source.ip("route add 10.98.0.0/24 dev up1")
        for file in self.captures.iterdir():
            file.unlink()


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
    """Sixteen conversations on each device that is there, so that sampling leaves some of them in, and some out."""
    for mirror in MIRRORS:
        for frame in FRAMES:
            try:
                send(client, mirror, frame)
            except OSError:
                assert mirror == "gone"  # or comes again


def _flood(daemon: Daemon, source: Host, directory: Path) -> None:
    """A burst that the ring has no room for, since the daemon stands still."""
    daemon.freeze()
    try:
        flood(source, "flooded", UNANSWERED, 20_000, directory)
    finally:
        daemon.thaw()
    time.sleep(2)
