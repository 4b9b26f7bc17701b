"""What is compared: each subject mirrors while its `with` block runs, and tells of its copies."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.comparison.testbed import NEIGHBOUR, Testbed
from tests.support.daemon import Daemon
from tests.support.metrics import Metrics
from tests.support.ovs import OpenVSwitch
from tests.support.process import Process
from tests.support.wait import wait_for


@dataclass(frozen=True, slots=True)
class Copies:
    """What a running subject has done so far. What only mirrord counts is 0 for the others."""

    made: Callable[[], int]
    lost_percent: Callable[[], float] = lambda: 0.0


Run = Callable[[Testbed, str], AbstractContextManager[Copies]]
VNI = 7


@dataclass(frozen=True, slots=True)
class Subject:
    """`run(bed, sink)` is a context manager that yields what tells of its copies."""

    name: str
    run: Run
    sink: str = "null"
    by_wire: bool = False


@contextmanager
def unmirrored(bed: Testbed, sink: str) -> Iterator[Copies]:
    """Nothing: what the traffic costs by itself."""
    del bed, sink
    yield Copies(lambda: 0)


# --- mirrord ---


def mirrord(
    destination: str = "vxlan",
    nice: int = 0,
    /,
    *,
    dataplane: str = "native",
    device: str = "source",
    preface: str = "",
    **keys: str,
) -> Run:
    """A daemon with one session. `keys` are the session's; `preface` is what the configuration begins with."""

    @contextmanager
    def run(bed: Testbed, sink: str) -> Iterator[Copies]:
        way = {
            "vxlan": f'type = "vxlan", remote = "{bed.remote(sink)}", vni = {VNI}',
            "device": f'type = "device", device = "{sink}"',
        }[destination]
        lines = [f"{key} = {value}" for key, value in keys.items()]
        with daemon(bed, preface + session(device, way, *lines), dataplane=dataplane, nice=nice) as running:
            yield Copies(
                lambda: int(running.metrics().total("mirrord_sent_packets_total")),
                lambda: lost_percent(running.metrics()),
            )

    return run


def lost_percent(metrics: Metrics) -> float:
    """Of the frames that passed the filter, those that were dropped."""
    captured = metrics.total("mirrord_captured_frames_total")
    return 100 * metrics.total("mirrord_dropped_frames_total") / max(captured, 1)


def session(device: str, destination: str, *lines: str, name: str = "one") -> str:
    """A mirror of one session, in TOML."""
    if not any(line.startswith("direction") for line in lines):
        lines = (f'direction = "{"egress" if device == "source" else "ingress"}"', *lines)
    return "\n".join(
        (
            f"[mirrors.{name}]\nenabled = true\n[[mirrors.{name}.sessions]]",
            'name = "only"',
            f'source = {{ type = "device", device = "{device}" }}',
            f"destination = {{ {destination} }}",
            *lines,
            "",
        )
    )


@contextmanager
def daemon(
    bed: Testbed, configuration: str, dataplane: str = "native", nice: int = 0, files: str = "/var/lib/mirrord/captures"
) -> Iterator[Daemon]:
    """`files`: the directory that file destinations may lie in."""
    with tempfile.TemporaryDirectory() as folder:
        running = Daemon(
            bed.host, Path(folder), configuration, dataplane=dataplane, nice=nice, capture_directories=[files]
        )
        try:
            yield running
        finally:
            status, said = running.stop()
            assert status == 0, said


# --- the kernel ---


def tc_mirred(hook: str, device: str, *, tunnel: bool = True) -> Run:
    """act_mirred on clsact; to a vxlan device, or straight to the sink."""

    @contextmanager
    def run(bed: Testbed, sink: str) -> Iterator[Copies]:
        target = sink
        if tunnel:
            target = "vxlan0"
            bed.host.ip(f"link add vxlan0 type vxlan id {VNI} remote {bed.remote(sink)} dstport 4789 nolearning")
            bed.host.ip("link set vxlan0 up")
        bed.host.run("tc", "qdisc", "add", "dev", device, "clsact")
        mirred(bed, device, hook, target)
        try:
            yield Copies(lambda: bed.arrived(sink))
        finally:
            bed.host.run("tc", "qdisc", "delete", "dev", device, "clsact")
            if tunnel:
                bed.host.ip("link delete vxlan0")

    return run


def mirred(bed: Testbed, device: str, hook: str, target: str) -> None:
    """Every frame that passes this hook of the device, copied to the target."""
    every = "protocol all u32 match u32 0 0"
    bed.host.run(*f"tc filter add dev {device} {hook} {every} action mirred egress mirror dev {target}".split())


# --- other programs ---


def program(*command: str) -> Run:
    """A program that copies frames from `source` to the sink, which it is told as {sink}."""

    @contextmanager
    def run(bed: Testbed, sink: str) -> Iterator[Copies]:
        words = [word.format(sink=sink, remote=bed.remote(sink)) for word in command]
        process = bed.host.spawn(*words, directory=bed.folder)
        try:
            wait_until_it_copies(bed, sink, process=process)
            yield Copies(lambda: bed.arrived(sink))
        finally:
            process.close()

    return run


def wait_until_it_copies(bed: Testbed, sink: str, *, process: Process | None = None, by_wire: bool = False) -> None:
    """Send it frames until the first arrives: programs do not tell when they are ready."""
    before = bed.arrived(sink)

    def copied() -> bool:
        assert process is None or process.status() is None, process.output()
        bed.load("--ms", 20, "--rate", 1000, by_wire=by_wire)
        return bed.arrived(sink) > before

    wait_for(copied, "a first copy", 20)


SCAPY = f"""
from scapy.all import Ether, IP, UDP, VXLAN, conf, sniff
out = conf.L2socket(iface="{{sink}}")
head = Ether(src="02:00:00:00:00:01", dst="{NEIGHBOUR}") / IP(dst="{{remote}}", src="10.77.0.1")
head /= UDP(sport=50000, dport=4789) / VXLAN(vni={VNI}, flags="Instance")
sniff(iface="source", prn=lambda frame: out.send(head / frame), store=False)
"""

MIRROR = (
    *("mirrors=@mirror", "--", "--id=@in", "get", "port", "port", "--", "--id=@out", "get", "port", "vx", "--"),
    *("--id=@mirror", "create", "mirror", "name=mirror", "select_src_port=@in", "output_port=@out"),
)
daemonlogger = program("daemonlogger", "-i", "source", "-o", "{sink}")
netsniff_ng = program("netsniff-ng", "--in", "source", "--out", "{sink}", "--silent", "--no-hwtimestamp")
scapy = program(sys.executable, "-c", SCAPY)


@contextmanager
def open_vswitch(bed: Testbed, sink: str) -> Iterator[Copies]:
    """The userspace datapath: all that a port receives is mirrored to a VXLAN port; the frames themselves end there."""
    with tempfile.TemporaryDirectory() as folder:
        switch = OpenVSwitch(bed.host, Path(folder))
        address = f"{bed.remote(sink)[:-1]}3"
        try:
            switch.add_bridge("out", sink, address=f"{address}/24")
            switch.add_bridge("watched", "port")
            switch.add_tunnel("watched", "vx", "vxlan", bed.remote(sink), key=VNI, local_ip=address)
            switch.vsctl("set", "bridge", "watched", *MIRROR)
            switch.appctl("tnl/arp/set", "out", bed.remote(sink), NEIGHBOUR)
            wait_until_it_copies(bed, sink, by_wire=True)
            yield Copies(lambda: bed.arrived(sink))
        finally:
            switch.vsctl("del-br", "watched", "--", "del-br", "out")
            switch.close()
