"""Many sessions on one source: what the mirrored traffic pays where none wants its frames, and where all do.

The sender's time is by the wall, at its full rate; what a copy costs the mirroring core, at a rate that all can take.
Beside them stands what no program that captures by a packet socket can go below: one that takes nothing, alone and in
a fanout group, as mirrord's are that move between plain socket and ring.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from bench.comparison.experiments import PACED
from bench.comparison.subjects import VNI, Copies, Run, daemon, session
from bench.comparison.testbed import Testbed
from bench.tables import Table
from mirrord.dataplane.capture.fanout import Group, steer
from mirrord.dataplane.filter.bpf import attach_reject_all
from mirrord.kernel import SO_TIMESTAMPNS
from mirrord.protocols import ETH_P_ALL

NONE_MATCHING = (1, 10, 50)
ALL_MATCHING = (1, 5, 10)
FIRST_PORT = 1000
NONE_TITLE = "Sessions on one source, filters on as many TCP ports, none matching, the sender's full rate"
ALL_TITLE = "Sessions on one source, each taking every frame, the sender's full rate"
NOTHING_TITLE = "A packet socket on the source that takes nothing, the sender's full rate"


class Sharing:
    def __init__(self, bed: Testbed, milliseconds: int) -> None:
        self.bed, self.milliseconds = bed, milliseconds
        self.tables: dict[str, Table] = {}

    def sharing(self) -> None:
        """Sessions by number, and tc filters beside them; each between two runs of the load unmirrored."""
        for count in NONE_MATCHING:
            self._add(NONE_TITLE, f"mirrord, {count}", sessions(count, matching=False))
            self._add(NONE_TITLE, f"tc u32 + mirred, {count}", tc_u32(count))
        self._add(NOTHING_TITLE, "alone", taking_nothing())
        self._add(NOTHING_TITLE, "in a fanout group", taking_nothing(Group()))
        for count in ALL_MATCHING:
            self._add(ALL_TITLE, f"mirrord, {count}", sessions(count, matching=True))

    def _add(self, title: str, name: str, run: Run) -> None:
        full, paced = ("--ms", self.milliseconds), ("--ms", self.milliseconds, "--rate", PACED)
        before = self.bed.measure(lambda: 0, *full)
        with run(self.bed, "null") as copies:
            fast, slow = self.bed.measure(copies.made, *full), self.bed.measure(copies.made, *paced)
        alone = before.mean(self.bed.measure(lambda: 0, *full))
        self.tables.setdefault(title, Table(title)).add(
            name,
            senders_ns_a_frame=fast.sender,
            unmirrored_ns_a_frame=alone.sender,
            senders_extra_ns_a_frame=fast.sender - alone.sender,
            ns_a_copy_on_the_mirroring_core=slow.mirroring if slow.copies else 0.0,
        )


def sessions(count: int, *, matching: bool) -> Run:
    """A daemon with so many sessions of one mirror, each to a VNI of its own."""

    @contextmanager
    def run(bed: Testbed, sink: str) -> Iterator[Copies]:
        way = f'type = "vxlan", remote = "{bed.remote(sink)}"'
        filters, mirrors = "", ""
        for n in range(count):
            rule = f'{{ priority = 1, action = "accept", protocol = "tcp", destination_ports = "{FIRST_PORT + n}" }}'
            filters += "" if matching else f"[filters.f{n}]\nrules = [{rule}]\n"
            chosen = [] if matching else [f'filter = "f{n}"']
            mirrors += session("source", f"{way}, vni = {VNI + n}", *chosen, name=f"m{n}")
        with daemon(bed, filters + mirrors) as running:
            yield Copies(lambda: int(running.metrics().total("mirrord_sent_packets_total")))

    return run


def tc_u32(count: int) -> Run:
    """As many filters on clsact, whose action nobody comes to."""

    @contextmanager
    def run(bed: Testbed, sink: str) -> Iterator[Copies]:
        bed.host.run("tc", "qdisc", "add", "dev", "source", "clsact")
        each = "filter add dev source egress prio {} protocol ip u32 match ip protocol 6 0xff match ip dport {} 0xffff"
        lines = [f"{each.format(n + 1, FIRST_PORT + n)} action mirred egress mirror dev {sink}" for n in range(count)]
        bed.host.run("tc", "-batch", "-", stdin="\n".join(lines) + "\n")
        try:
            yield Copies(lambda: 0)
        finally:
            bed.host.run("tc", "qdisc", "delete", "dev", "source", "clsact")

    return run


def taking_nothing(group: Group | None = None) -> Run:
    """A packet socket on the source whose filter is one instruction; stamped, as mirrord's are."""

    @contextmanager
    def run(bed: Testbed, sink: str) -> Iterator[Copies]:
        del sink
        with bed.host.open_socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            attach_reject_all(sock)
            sock.bind(("source", ETH_P_ALL))
            if group is not None:
                group.join(sock)
                steer(sock, 0)
            yield Copies(lambda: 0)

    return run
