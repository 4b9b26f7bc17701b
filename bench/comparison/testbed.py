"""The network of the comparison: what is mirrored, where copies go, and the measuring of one run.

`source` is a null device whose egress is mirrored; `port` is one end of a veth pair, whose ingress is mirrored where a
subject sees nothing else. Copies go to `null` (the kernel segments UDP GSO copies, as for a NIC without that offload),
to `offload` (a null device that says it segments them itself) or to `bare` (where it segments what is in a tunnel too,
which is all that kernel mirroring makes). The mirrored traffic is sent on core 0, every subject runs on
core 1, where the bench itself sleeps meanwhile.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine import build
from tests.support.topology import Topology
from tests.support.wait import wait_for

SENDING, MIRRORING = 0, 1
NEIGHBOUR = "02:00:00:00:00:02"  # no device has it, so nothing answers
SINKS = ("null", "offload", "bare")
VETH = "port"
UDP_SEGMENTATION = ("tx-udp-segmentation", "off")
TUNNEL_SEGMENTATION = ("tx-udp_tnl-segmentation", "off", "tx-udp_tnl-csum-segmentation", "off")
SETTLE_SECONDS = 0.05  # until what waits in a ring has left: several retire times


@dataclass(frozen=True, slots=True)
class Sample:
    """One subject under one load. Times are nanoseconds for each frame sent."""

    frames: int
    copies: int
    sender: float
    busy: tuple[float, ...]  # of each core

    @property
    def total(self) -> float:
        """What the whole machine spent."""
        return sum(self.busy)

    @property
    def mirroring(self) -> float:
        """What the mirroring core spent on each copy made."""
        return self.busy[MIRRORING] * self.frames / max(self.copies, 1)

    @property
    def lost(self) -> int:
        return self.frames - self.copies

    def mean(self, other: Sample) -> Sample:
        """Of two runs of the same load, each of which counts the same."""
        busy = tuple((mine + its) / 2 for mine, its in zip(self.busy, other.busy, strict=True))
        return Sample(self.frames, self.copies, (self.sender + other.sender) / 2, busy)


class Testbed:
    """Namespaces, devices and programs, gone at the end: `with Topology() as net: bed = Testbed(net, folder)`."""

    far_address = "10.78.0.2"  # beyond the veth pair

    def __init__(self, net: Topology, folder: Path) -> None:
        self.folder = folder
        build(folder, {"load": ("traffic/load.c",), "soak": ("traffic/soak.c",)})
        os.sched_setaffinity(0, {MIRRORING})
        self.host, self.far = net.host("mirror"), net.host("far")
        for device in ("source", *SINKS):
            self.host.ip(f"link add {device} mtu 1600 type ifb")
        net.link(self.far, "wire", self.host, "port", (f"{self.far_address}/24", "10.78.0.1/24"))
        for device in ("source", *SINKS):
            self.host.ip(f"link set {device} up")
        self.host.run("ethtool", "-K", "null", *UDP_SEGMENTATION)
        self.host.run("ethtool", "-K", "bare", *UDP_SEGMENTATION, *TUNNEL_SEGMENTATION)
        for number, sink in enumerate(SINKS):
            self.host.ip(f"address add 10.77.{number}.1/24 dev {sink}")
            self.host.ip(f"neighbour add {self.remote(sink)} lladdr {NEIGHBOUR} dev {sink}")
        self.host.ip(f"neighbour add {self.remote(VETH)} lladdr {NEIGHBOUR} dev {VETH}")

    @staticmethod
    def remote(sink: str) -> str:
        """An address that is reached by this sink, or by the veth pair: there the far side drops what comes."""
        return "10.78.0.3" if sink == VETH else f"10.77.{SINKS.index(sink)}.2"

    def arrived(self, sink: str) -> int:
        """Packets that the sink's driver was given. An ifb without redirection counts them as received and dropped."""
        return self.host.counter(sink, "rx", "dropped")

    def load(self, *arguments: object, by_wire: bool = False, device: str = "source") -> dict[str, Any]:
        """Send the mirrored traffic until it ends; by this device, or through the veth pair."""
        host, device = (self.far, "wire") if by_wire else (self.host, device)
        words = map(str, (self.folder / "load", device, *arguments, "--cpu", SENDING))
        result: dict[str, Any] = json.loads(host.run(*words).splitlines()[-1])
        return result

    @contextmanager
    def soak(self) -> Iterator[Callable[[], tuple[int, ...]]]:
        """Watch every core; what is yielded ends that, and gives each core's busy nanoseconds."""
        process = self.host.spawn(str(self.folder / "soak"))
        wait_for(lambda: "ready" in process.output(), "every core is watched")

        def busy() -> tuple[int, ...]:
            process.end_input()
            process.wait(10)
            return tuple(json.loads(process.output().splitlines()[-1])["busy_ns"])

        try:
            yield busy
        finally:
            process.close()

    def measure(
        self, copies: Callable[[], int], *arguments: object, by_wire: bool = False, device: str = "source"
    ) -> Sample:
        """One run of this load. `copies` tells how many the subject has made."""
        self.load("--ms", 50, *arguments[2:], by_wire=by_wire, device=device)  # warm-up
        before = _at_rest(copies)
        with self.soak() as busy:
            result = self.load(*arguments, by_wire=by_wire, device=device)
            time.sleep(SETTLE_SECONDS)
            spent = busy()
        frames = result["frames"]
        made = _at_rest(copies) - before
        return Sample(frames, made, result["wall_ns"] / frames, tuple(core / frames for core in spent))


def _at_rest(copies: Callable[[], int]) -> int:
    """The count, once it has stopped."""
    counts = [-1]

    def rests() -> bool:
        time.sleep(0.1)
        counts.append(copies())
        return counts[-1] == counts[-2]

    wait_for(rests, "no more copies come", 60)
    return counts[-1]
