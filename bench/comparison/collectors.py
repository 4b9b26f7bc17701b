"""What it costs to send to two collectors: each conversation to one of them, or everything to both.

64 conversations in turn, the worst that there is for system calls, at a paced rate. The bars:
to share conversations out costs at most 1.1 times what one collector does; to send everything to both is one capture
and two sends, so that a copy costs no more than with one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bench.comparison.experiments import PACED
from bench.comparison.subjects import VNI, Copies, Run, daemon, lost_percent, session
from bench.comparison.testbed import NEIGHBOUR, Testbed
from bench.tables import Table

CONVERSATIONS = 64
TITLE = f"Collectors, VXLAN, {PACED} frames/s of 64 bytes, {CONVERSATIONS} conversations in turn"
ONE, FLOW, ALL = "one", 'two, spread = "flow"', 'two, spread = "all"'
LOAD = ("--rate", PACED, "--pairs", CONVERSATIONS)


class Collectors:
    """`tables` by title."""

    def __init__(self, bed: Testbed, milliseconds: int) -> None:
        self.bed, self.milliseconds = bed, milliseconds
        self.tables: dict[str, Table] = {}

    def collectors(self) -> None:
        """Each subject once, between two runs of the same load unmirrored."""
        for name, run in {ONE: to(), FLOW: to("flow"), ALL: to("all")}.items():
            load = "--ms", self.milliseconds, *LOAD
            before = self.bed.measure(lambda: 0, *load)
            with run(self.bed, "null") as copies:
                sample = self.bed.measure(copies.made, *load)
                lost = copies.lost_percent()
            alone = before.mean(self.bed.measure(lambda: 0, *load))
            self.tables.setdefault(TITLE, Table(TITLE)).add(
                name,
                ns_a_copy_on_the_mirroring_core=sample.mirroring,
                ns_a_frame_in_all=sample.total,
                unmirrored_ns_a_frame=alone.total,
                extra_ns_a_frame_in_all=sample.total - alone.total,
                lost_percent=lost,
            )


def to(spread: str = "") -> Run:
    """A daemon with one session to one collector, or spread over two behind the same sink."""

    @contextmanager
    def run(bed: Testbed, sink: str) -> Iterator[Copies]:
        first = bed.remote(sink)
        second = f"{first[:-1]}3"
        bed.host.ip(f"neighbour replace {second} lladdr {NEIGHBOUR} dev {sink}")
        remotes = f'["{first}", "{second}"], spread = "{spread}"' if spread else f'"{first}"'
        way = f'type = "vxlan", remote = {remotes}, vni = {VNI}'
        with daemon(bed, session("source", way, 'transmit = "packet"', 'gso = "off"')) as running:
            yield Copies(
                lambda: int(running.metrics().total("mirrord_sent_packets_total")),
                lambda: lost_percent(running.metrics()),
            )

    return run
