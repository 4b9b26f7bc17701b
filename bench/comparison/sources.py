"""The same traffic spread over ever more sources: what a copy costs, and what the devices pay that nobody mirrors.

One session has them all by a pattern, with one destination; beside it as many sessions, each with a source and a VNI of
its own; and tc u32 + mirred, which has no core of its own, so that its figure is the whole machine's extra time. And a
session each whose copies leave by a veth, where none are joined.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bench.comparison.subjects import VNI, Copies, Run, daemon, session
from bench.comparison.testbed import VETH, Testbed
from bench.tables import Table

COUNTS = (1, 20, 200)
RATES = (100_000, 20_000)
PREFIX = "tap"
TITLE = "{:,} frames/s in all, spread over sources"
VETH_TITLE = "{:,} frames/s in all, spread over sources, copies by a veth"
CORE = "ns_a_frame_on_the_mirroring_core"
APART_TITLE = "The sender's full rate by a device that nobody mirrors"


class Sources:
    def __init__(self, bed: Testbed, milliseconds: int) -> None:
        self.bed, self.milliseconds = bed, milliseconds
        self.tables: dict[str, Table] = {}

    def sources(self) -> None:
        """Sources by number, each way of having them, and the rates."""
        for count in COUNTS:
            with devices(self.bed, count):
                for name, run in (
                    ("mirrord, one session", one_session(count)),
                    ("mirrord, a session each", a_session_each(count)),
                    ("tc u32 + mirred", tc_u32(count)),
                ):
                    with run(self.bed, "null") as copies:
                        for rate in RATES:
                            self._add(TITLE, f"{name}, {count}", count, rate, copies)

    def by_veth(self) -> None:
        """One source and many, by a device that would not cut what is joined."""
        for count in (COUNTS[0], COUNTS[-1]):
            with devices(self.bed, count), a_session_each(count)(self.bed, VETH) as copies:
                for rate in RATES:
                    self._add(VETH_TITLE, f"mirrord, a session each, {count}", count, rate, copies)

    def _add(self, title: str, name: str, count: int, rate: int, copies: Copies) -> None:
        load = ("--ms", 2 * self.milliseconds, "--rate", rate, "--devices", count)
        sample = self.bed.measure(copies.made, *load, device=PREFIX)
        title = title.format(rate)
        self.tables.setdefault(title, Table(title)).add(
            name,
            ns_a_frame_on_the_mirroring_core=sample.mirroring if sample.copies else 0.0,
            ns_a_frame_in_all=sample.total,
            frames_lost=sample.lost if sample.copies else 0,
        )

    def unmirrored(self) -> None:
        """What the full rate by another device costs, each between two runs without anything."""
        table = self.tables.setdefault(APART_TITLE, Table(APART_TITLE))
        full = ("--ms", self.milliseconds)
        with devices(self.bed, 20):
            for name, run in (("one session of 20 devices", one_session(20)), ("a session each", a_session_each(20))):
                before = self.bed.measure(lambda: 0, *full)
                with run(self.bed, "null"):
                    beside = self.bed.measure(lambda: 0, *full)
                alone = before.mean(self.bed.measure(lambda: 0, *full))
                table.add(name, ns_a_frame=beside.sender, extra_ns_a_frame=beside.sender - alone.sender)


@contextmanager
def devices(bed: Testbed, count: int) -> Iterator[None]:
    """As many null devices, numbered from 0 on; where it is one, without a number."""
    names = [f"{PREFIX}{n}" for n in range(count)] if count > 1 else [PREFIX]
    batch = [f"link add {name} mtu 1600 type ifb\nlink set {name} up" for name in names]
    bed.host.run("ip", "-batch", "-", stdin="\n".join(batch), seconds=120)
    try:
        yield
    finally:
        bed.host.run("ip", "-batch", "-", stdin="\n".join(f"link delete {name}" for name in names), seconds=120)


def one_session(count: int) -> Run:
    """All devices by a pattern, or the one by its name."""

    @contextmanager
    def run(bed: Testbed, sink: str) -> Iterator[Copies]:
        way = f'type = "vxlan", remote = "{bed.remote(sink)}", vni = {VNI}'
        source = f"{PREFIX}*" if count > 1 else PREFIX
        with daemon(bed, session(source, way, 'direction = "egress"')) as running:
            yield Copies(lambda: int(running.metrics().total("mirrord_sent_packets_total")))

    return run


def a_session_each(count: int) -> Run:
    """As many sessions of one device, each to a VNI of its own."""

    @contextmanager
    def run(bed: Testbed, sink: str) -> Iterator[Copies]:
        mirrors = ""
        for n in range(count):
            way = f'type = "vxlan", remote = "{bed.remote(sink)}", vni = {VNI + n}'
            source = f"{PREFIX}{n}" if count > 1 else PREFIX
            mirrors += session(source, way, 'direction = "egress"', name=f"m{n}")
        with daemon(bed, mirrors) as running:
            yield Copies(lambda: int(running.metrics().total("mirrord_sent_packets_total")))

    return run


def tc_u32(count: int) -> Run:
    """A filter on each device that takes every frame."""

    @contextmanager
    def run(bed: Testbed, sink: str) -> Iterator[Copies]:
        names = [f"{PREFIX}{n}" for n in range(count)] if count > 1 else [PREFIX]
        each = "filter add dev {} egress protocol ip u32 match u32 0 0 action mirred egress mirror dev {}"
        lines = [f"qdisc add dev {name} clsact\n{each.format(name, sink)}" for name in names]
        bed.host.run("tc", "-batch", "-", stdin="\n".join(lines) + "\n", seconds=120)
        yield Copies(lambda: bed.arrived(sink))

    return run
