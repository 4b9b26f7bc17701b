"""Bulk TCP: what a mirrored stream still reaches, what it costs, and whether the mirror is complete meanwhile.

iperf3 runs through the veth pair, whose end `port` is mirrored both ways; everything may run on every core. At full
rate the stream takes what the cores give, so that a mirror that loses much looks quick: read the two columns together.
The paced stream leaves room, so that what it costs can be compared.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

from bench.comparison.experiments import ON, PACKET, TC, UNMIRRORED
from bench.comparison.subjects import Copies, Run, mirred, mirrord, tc_mirred, unmirrored
from bench.comparison.testbed import MIRRORING, Testbed
from bench.tables import Table
from tests.support.wait import wait_for

FULL = "iperf3, one TCP stream, mirrored both ways, full rate"
PACED = "iperf3, one TCP stream, mirrored both ways, 3 Gbit/s"
BITRATES = {FULL: "0", PACED: "3G"}  # 0: as much as it can


@contextmanager
def both_ways(bed: Testbed, sink: str) -> Iterator[Copies]:
    """Kernel mirroring on both hooks of the veth pair's end."""
    with tc_mirred("ingress", "port")(bed, sink) as copies:
        mirred(bed, "port", "egress", "vxlan0")
        yield copies


SUBJECTS: dict[str, tuple[Run, str]] = {
    UNMIRRORED: (unmirrored, "null"),
    TC: (both_ways, "null"),
    "mirrord": (mirrord(device="port", direction='"both"'), "null"),
    "mirrord, packet, gso on, device segments": (mirrord(device="port", direction='"both"', **PACKET, **ON), "offload"),
    "mirrord, nice = 10": (mirrord("vxlan", 10, device="port", direction='"both"'), "null"),
    f"{TC}, device segments no tunnel": (both_ways, "bare"),
    "mirrord, device segments no tunnel": (mirrord(device="port", direction='"both"'), "bare"),
}


class Streams:
    """`tables` by title; `run` is a round."""

    def __init__(self, bed: Testbed, milliseconds: int) -> None:
        self.bed, self.seconds = bed, max(milliseconds // 250, 2)
        self.tables: dict[str, Table] = {}

    def run(self) -> None:
        with every_core():
            server = self.bed.far.spawn("iperf3", "--server", "--interval", "0")
            wait_for(lambda: ":5201 " in self.bed.far.run("ss", "-ltn"), "iperf3 listens")
            for title, bitrate in BITRATES.items():
                table = self.tables.setdefault(title, Table(title))
                for name, (run, sink) in SUBJECTS.items():
                    table.add(name, **self._stream(run, sink, bitrate))
            server.close()

    def _stream(self, run: Run, sink: str, bitrate: str) -> dict[str, float]:
        words = ("iperf3", "--json", "--client", self.bed.far_address, "--time", str(self.seconds))
        with run(self.bed, sink) as copies:
            with self.bed.soak() as busy:
                told = json.loads(self.bed.host.run(*words, "--bitrate", bitrate))["end"]["sum_received"]
                spent = sum(busy())
            return {
                "gigabits_a_second": told["bits_per_second"] / 1e9,
                "ns_of_all_cores_a_kilobyte": spent / (told["bytes"] / 1000),
                "lost_percent": copies.lost_percent(),
            }


@contextmanager
def every_core() -> Iterator[None]:
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        yield
    finally:
        os.sched_setaffinity(0, {MIRRORING})
