"""What a copy's price does not tell: rules, idle sessions, latency, start."""

from __future__ import annotations

import os
import statistics
import struct
import tempfile
import time
from pathlib import Path

from scapy.utils import RawPcapReader

from bench.comparison.experiments import OFF, PACED
from bench.comparison.subjects import Run, daemon, mirrord, session
from bench.comparison.testbed import Testbed
from bench.tables import Table
from tests.support.sniffer import Recording, Sniffer

SESSIONS = 500
NUMBER = struct.Struct("=IIQ")  # traffic/common.c: magic, stream, sequence
MAGIC = struct.pack("=I", 0x6D697272)
IDLE_SECONDS = 5.0


class Operation:
    def __init__(self, bed: Testbed, milliseconds: int) -> None:
        self.bed, self.milliseconds = bed, milliseconds
        self.tables: dict[str, Table] = {}

    def table(self, title: str) -> Table:
        return self.tables.setdefault(title, Table(title))

    def rules(self) -> None:
        """A filter whose last rule takes every frame."""
        load = ("--ms", self.milliseconds, "--rate", PACED)
        alone = self.bed.measure(lambda: 0, *load)
        for count in (1, 10, 100, 1000):
            with filtered(count)(self.bed, "null") as copies:
                sample = self.bed.measure(copies.made, *load)
            self.table(f"A filter's rules, the last one matching, {PACED} frames/s").add(
                f"{count} rules",
                extra_ns_a_frame_in_all=sample.total - alone.total,
                ns_a_copy_on_the_mirroring_core=sample.mirroring,
                lost_percent=100 * sample.lost / sample.frames,
            )

    def idle(self) -> None:
        """Many sessions, each on a device of its own, and no traffic."""
        devices = [f"idle{n}" for n in range(SESSIONS)]
        batch = "\n".join(f"link add {device} type ifb\nlink set {device} up" for device in devices)
        self.bed.host.run("ip", "-batch", "-", stdin=batch, seconds=120)
        way = f'type = "vxlan", remote = "{self.bed.remote("null")}"'
        mirrors = "\n".join(session(device, f"{way}, vni = {n}", name=device) for n, device in enumerate(devices, 1))
        try:
            with daemon(self.bed, mirrors) as running:
                time.sleep(IDLE_SECONDS)  # what follows the start is over
                with self.bed.soak() as busy:
                    before = processor_seconds(running.pid)
                    time.sleep(IDLE_SECONDS)
                    spent = processor_seconds(running.pid) - before
                    every = sum(busy()) / 1e9
                self.table(f"{SESSIONS} idle sessions").add(
                    "mirrord",
                    process_percent_of_a_core=100 * spent / IDLE_SECONDS,
                    machine_percent_of_a_core=100 * every / IDLE_SECONDS,
                    resident_megabytes=resident_bytes(running.pid) / 1e6,
                    open_descriptors=len(list(Path(f"/proc/{running.pid}/fd").iterdir())),
                )
        finally:
            self.bed.host.run("ip", "-batch", "-", stdin="\n".join(f"link delete {d}" for d in devices), seconds=120)

    def latency(self) -> None:
        """From a frame's passing the source's tap to its copy's passing the sink's."""
        for rate in (10, 10_000):
            for name, keys in {"capture auto": {}, "capture ring": {"capture": '"ring"'}}.items():
                with mirrord(**OFF, **keys)(self.bed, "null"):
                    waits = sorted(self._waits(rate))
                self.table("Added latency").add(
                    f"{rate} frames/s, {name}",
                    median_ms=statistics.median(waits) / 1e6,
                    p99_ms=waits[int(len(waits) * 0.99)] / 1e6,
                    longest_ms=waits[-1] / 1e6,
                )

    def _waits(self, rate: int) -> list[int]:
        with tempfile.TemporaryDirectory() as folder:
            taps = [Sniffer(self.bed.host, device, "udp", Path(folder, device)) for device in ("source", "null")]
            self.bed.load("--ms", 4000 if rate < 1000 else 1000, "--rate", rate)
            time.sleep(0.1)
            frames, copies = (stamps(tap.stop()) for tap in taps)
        return [copies[number] - stamp for number, stamp in frames.items() if number in copies]

    def start(self) -> None:
        """From exec to the first copy, under traffic."""
        with tempfile.TemporaryDirectory() as folder:
            tap = Sniffer(self.bed.host, "null", "udp port 4789", Path(folder, "null"))
            traffic = self.bed.host.spawn(
                str(self.bed.folder / "load"), "source", "--ms", "4000", "--rate", "1000", "--cpu", "0"
            )
            begun = time.time_ns()
            with mirrord()(self.bed, "null"):
                traffic.wait(10)
            first = min(stamps(tap.stop()).values())
        self.table("Start").add("exec to the first copy", seconds=(first - begun) / 1e9)


def filtered(count: int) -> Run:
    """A daemon with a filter of so many rules; only the last takes the load's frames."""
    rules = [
        f'{{ priority = {n}, action = "accept", protocol = "tcp", source = "10.{n // 256}.{n % 256}.0/24",'
        f' destination_ports = "{1000 + n}" }}'
        for n in range(1, count)
    ]
    rules.append(f'{{ priority = {count}, action = "accept", protocol = "udp", destination_ports = "2000" }}')
    return mirrord(filter='"many"', preface="[filters.many]\nrules = [\n" + ",\n".join(rules) + "\n]\n")


def stamps(captured: Recording) -> dict[int, int]:
    """When each numbered frame passed, in nanoseconds, by its number."""
    found = {}
    for data, meta in RawPcapReader(str(captured.file)):
        at = data.rfind(MAGIC)
        if at >= 0 and at + NUMBER.size <= len(data):
            found[NUMBER.unpack_from(data, at)[2]] = meta.sec * 10**9 + meta.usec
    return found


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
