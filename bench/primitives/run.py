"""Measures the ways to capture, to send and to do both, and writes a table of each to bench/results.

Run as root: `python -m bench.primitives.run [--quick]`. Every round runs every subject once, so that what else the
machine does falls on all of them alike. A table shows medians over the rounds, and for its first quantity the least
value (on a busy machine the best estimate: disturbance only adds) and the distance between the quartiles.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.machine import build, machine, stolen
from bench.primitives.network import SINKS, Network, finish, network, wait_until_ready
from bench.tables import Table

HERE = Path(__file__).resolve().parent
SOURCES = {
    "load": ("traffic/load.c",),
    "capture": ("primitives/capture.c", "primitives/capturing.c"),
    "handover": ("primitives/handover.c", "primitives/capturing.c"),
    "idle": ("primitives/idle.c", "primitives/capturing.c"),
    "send": ("primitives/send.c", "primitives/outgoing.c"),
    "mirror": ("primitives/mirror.c", "primitives/capturing.c", "primitives/outgoing.c"),
}
RING, RING_V2, SOCKET = ("--way", 0), ("--way", 1), ("--way", 2)
WAYS_TO_CAPTURE: dict[str, tuple[object, ...]] = {
    "TPACKET_V3 ring": RING,
    "TPACKET_V3 ring, no vnet header": (*RING, "--vnet", 0),
    "TPACKET_V3 ring, no SO_TIMESTAMPNS": (*RING, "--stamps", 0),
    "TPACKET_V3 ring, blocks of 128 KiB": (*RING, "--block", 128 << 10),
    "TPACKET_V3 ring, blocks of 1 MiB": (*RING, "--block", 1 << 20),
    "TPACKET_V3 ring, retire time 1 ms": (*RING, "--retire", 1),
    "TPACKET_V3 ring of 1 MiB, blocks of 64 KiB": (*RING, "--ring", 1 << 20, "--block", 64 << 10),
    "TPACKET_V3 ring of 64 MiB": (*RING, "--ring", 64 << 20),
    "TPACKET_V2 ring, woken at will": RING_V2,
    "TPACKET_V2 ring, every 300 us": (*RING_V2, "--pause", 300),
    "plain socket, recvmmsg of 64": SOCKET,
    "plain socket, recvmmsg of 8": (*SOCKET, "--batch", 8),
}
WAYS_TO_SEND = {
    "UDP, sendmmsg": 0,
    "UDP_SEGMENT, sendmmsg": 1,
    "AF_PACKET, sendmmsg": 2,
    "AF_PACKET with vnet header, sendmmsg": 3,
    "AF_PACKET with vnet header, GSO_UDP_L4": 4,
    "AF_PACKET TX ring": 5,
}
GSO = (1, 4)
CHOICES: dict[str, tuple[object, ...]] = {
    **{f"UDP, sendmmsg of {n}": ("--send", 0, "--batch", n) for n in (1, 8, 16, 32, 64, 256)},
    "UDP, sendmmsg of 64, not connected": ("--send", 0, "--connected", 0),
    "UDP, sendmmsg of 64, without MSG_DONTWAIT": ("--send", 0, "--dontwait", 0),
    **{f"AF_PACKET, sendmmsg of {n}": ("--send", 2, "--batch", n) for n in (1, 8, 16, 32, 64, 256)},
    "AF_PACKET, sendmmsg of 64, without MSG_DONTWAIT": ("--send", 2, "--dontwait", 0),
    "AF_PACKET, sendmmsg of 64, PACKET_QDISC_BYPASS": ("--send", 2, "--bypass", 1),
    **{f"UDP_SEGMENT, {n} copies in a message": ("--send", 1, "--segments", n) for n in (8, 16, 32, 64)},
    "AF_PACKET, copies of 1400 bytes": ("--send", 2, "--size", 1400),
    "UDP_SEGMENT, copies of 1400 bytes": ("--send", 1, "--size", 1400),
}
QUICK_CHOICES = ("UDP, sendmmsg of 1", "UDP, sendmmsg of 64", "UDP, sendmmsg of 64, not connected")


class Bench:
    """The experiments. Each adds one round to its table."""

    def __init__(self, programs: Path, net: Network, *, quick: bool) -> None:
        self.programs = programs
        self.net = net
        self.quick = quick
        self.ms = 100 if quick else 160
        self.reader = 1 if (os.cpu_count() or 1) > 1 else 0
        self.alone = 0.0  # the last load_cost()
        self.tables: dict[str, Table] = {}

    def table(self, title: str) -> Table:
        """The table of this title."""
        return self.tables.setdefault(title, Table(title))

    def start(self, program: str, *arguments: object) -> subprocess.Popen[str]:
        """Starts a program on the reading core, or wherever it is told."""
        return self.net.start(self.programs / program, *arguments, "--cpu", self.reader)

    def load(self, *arguments: object) -> dict[str, Any]:
        """Sends the load from core 0 until it ends."""
        return finish(self.net.start(self.programs / "load", "source", *arguments, "--cpu", 0))

    def load_cost(self) -> float:
        """CPU nanoseconds of one frame for the sender, when nothing captures."""
        alone = self.load("--ms", self.ms)
        cost = float(alone["cpu_ns"] / alone["frames"])
        self.table("The sender alone").add("load", ns_a_frame=cost)
        return cost

    def against_load(self, *command: object) -> tuple[dict[str, Any], float]:
        """A reader's result under full load, and how much dearer a frame was for the sender than before and after."""
        before = self.alone
        reader = self.start(str(command[0]), *command[1:], "--ms", self.ms + 150)
        wait_until_ready(reader)
        mirrored = self.load("--ms", self.ms)
        result = finish(reader)
        self.alone = self.load_cost()
        ratio = (mirrored["cpu_ns"] / mirrored["frames"]) / ((before + self.alone) / 2)
        return result | {"sent": mirrored["frames"]}, ratio

    def control(self) -> None:
        """What a busy neighbour core alone does to the sender: a reader that spins on another device."""
        self.alone = self.load_cost()
        _, ratio = self.against_load("capture", "null", *RING, "--spin", 1)
        self.table("Control: nothing captured, the other core busy").add("load", sender_slowed=ratio)

    def capture(self) -> None:
        """Reading and dropping, under full load."""
        self.alone = self.load_cost()
        for name, way in WAYS_TO_CAPTURE.items():
            result, ratio = self.against_load("capture", "source", *way)
            self.table("Capture: reading and dropping").add(
                name,
                ns_a_frame_read=result["cpu_ns"] / max(result["frames"], 1),
                sender_slowed=ratio,
                lost_percent=100 * result["lost"] / max(result["captured"], 1),
                uncounted=result["sent"] - result["frames"] - result["lost"],
                oldest_waited_us=result["wait_p50_us"],
            )

    def lone_frames(self) -> None:
        """How long a lone frame waits, by retire time, asleep in poll or polling without pause."""
        subjects: dict[str, tuple[object, ...]] = {
            f"ring, retire time {ms} ms": (*RING, "--retire", ms) for ms in ((4,) if self.quick else (1, 2, 4, 8))
        }
        subjects["ring, retire time 4 ms, spinning on poll"] = (*RING, "--retire", 4, "--spin", 1)
        subjects["plain socket"] = SOCKET
        for name, way in subjects.items():
            reader = self.start("capture", "source", *way, "--ms", 800)
            wait_until_ready(reader)
            self.load("--ms", 600, "--rate", 80)
            result = finish(reader)
            self.table("A lone frame: from the kernel's stamp to the reader").add(
                name, median_us=result["wait_p50_us"], longest_us=result["wait_max_us"]
            )

    def idle(self) -> None:
        """What 100 captures cost when nothing arrives."""
        small = ("--ring", 128 << 10, "--block", 64 << 10)
        subjects: dict[str, tuple[object, ...]] = {
            f"100 rings, retire time {ms} ms": (*RING, "--retire", ms) for ms in ((4,) if self.quick else (1, 4, 8))
        }
        subjects["100 plain sockets"] = SOCKET
        for name, way in subjects.items():
            result = finish(self.start("idle", "source", *way, *small, "--count", 100, "--ms", 250))
            self.table("Idle: what interrupts take, summed over the cores").add(
                name,
                percent_of_a_core=result["during"] - (result["before"] + result["after"]) / 2,
                percent_without=(result["before"] + result["after"]) / 2,
            )

    def handover(self) -> None:
        """Plain socket to ring and back, all the time, under a paced load."""
        moves = 6 if self.quick else 20
        for name, rate, stamps in (
            ("100,000 frames/s, one stamp for all", 100_000, 1),
            ("100,000 frames/s, each capture's own stamp", 100_000, 0),
            ("full load, one stamp for all", 0, 1),
        ):
            mover = self.start(
                "handover", "source", "--stamps", stamps, "--moves", moves, "--every", 50, "--tail", 1000
            )
            wait_until_ready(mover)
            sent = self.load("--ms", 50 * moves + 300, "--rate", rate)["frames"]
            result = finish(mover)
            self.table(f"Moving between plain socket and ring, {moves} times").add(
                name,
                frames_sent=sent,
                seen_by_both=result["captured"] - sent,
                doubled=result["doubled"],
                out_of_order=result["disordered"],
                lost_counted=result["lost"],
                lost_uncounted=sent - (result["forwarded"] - result["doubled"]) - result["lost"],
                open_ms=result["open_ms"],
                close_ms=result["close_ms"],
            )

    def send_once(self, sink: str, *arguments: object) -> tuple[float, float]:
        """CPU nanoseconds for each accepted copy, and packets the driver was given for each copy."""
        arrived = self.net.arrived(sink)
        result = finish(self.start("send", sink, *arguments, "--ms", self.ms))
        accepted = max(result["accepted"], 1)
        return result["cpu_ns"] / accepted, (self.net.arrived(sink) - arrived) / accepted

    def send(self) -> None:
        """Each way to send, to each sink."""
        for sink in SINKS:
            self.net.route_to(sink)
            for name, way in WAYS_TO_SEND.items():
                cost, packets = self.send_once(sink, "--send", way)
                where = {"null": "null sink", "offload": "null sink that segments", "pair": "veth"}[sink]
                self.table(f"Send alone: {where}").add(name, ns_a_copy=cost, packets_at_the_driver=packets)

    def choices(self) -> None:
        """Batch sizes, connected or not, flags; to the null sink."""
        self.net.route_to("null")
        for name, arguments in CHOICES.items():
            if self.quick and name not in QUICK_CHOICES:
                continue
            cost, _ = self.send_once("null", *arguments)
            self.table("Choices when sending, null sink").add(name, ns_a_copy=cost)

    def mirror(self) -> None:
        """Ring and send together, under full load."""
        for sink, segmented_by in (("null", "kernel"), ("offload", "device")):
            self.net.route_to(sink)
            self.alone = self.load_cost()
            for name, way in WAYS_TO_SEND.items():
                if sink == "offload" and way not in GSO:
                    continue
                result, ratio = self.against_load("mirror", "source", sink, "--send", way)
                self.table("Mirror: ring and send").add(
                    f"{name}; the {segmented_by} segments" if way in GSO else name,
                    ns_a_copy=result["cpu_ns"] / max(result["accepted"], 1),
                    sender_slowed=ratio,
                    lost_percent=100 * result["lost"] / max(result["captured"], 1),
                    not_sent=result["frames"] - result["accepted"],
                )


def measure(bench: Bench, *, rounds: int, seconds: float) -> int:
    """Runs the rounds, but begins none that would end too late. Returns how many were run."""
    start = time.monotonic()
    bench.load("--ms", 300)  # warm-up
    bench.handover()
    for done in range(rounds):
        begun = time.monotonic()
        for experiment in (bench.control, bench.capture, bench.mirror, bench.send, bench.choices):
            experiment()
        if done % 2 == 0:
            bench.idle()
            bench.lone_frames()
        now = time.monotonic()
        print(f"round {done + 1} of {rounds}: {now - begun:.0f} s", file=sys.stderr)
        if now - start + (now - begun) > seconds:
            return done + 1
    return rounds


def report(described: dict[str, str], tables: list[Table]) -> str:
    """The whole Markdown page."""
    heading = "# Primitives\n\n" + "".join(f"- {key.replace('_', ' ')}: {value}\n" for key, value in described.items())
    return "\n".join([heading, *(table.markdown() for table in tables)])


def main() -> None:
    """Builds, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, about 30 s")
    parser.add_argument("--results", type=Path, default=HERE.parent / "results", help="folder to write to")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("must be root: it makes network namespaces")
    described = machine()
    stolen_before, ticks_before = stolen()
    with tempfile.TemporaryDirectory() as folder, network() as net:
        build(Path(folder), SOURCES)
        bench = Bench(Path(folder), net, quick=options.quick)
        rounds = measure(bench, rounds=1 if options.quick else 5, seconds=150)
    stolen_after, ticks_after = stolen()
    described["rounds"] = str(rounds)
    described["stolen_by_the_hypervisor"] = f"{(stolen_after - stolen_before) / (ticks_after - ticks_before):.0%}"
    tables = sorted(bench.tables.values(), key=lambda table: table.title != "The sender alone")
    text = report(described, tables)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "primitives.md").write_text(text)
    samples = {"machine": described, "samples": {table.title: table.samples for table in tables}}
    (options.results / "primitives.json").write_text(json.dumps(samples, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
