"""What it costs to hand frames on as a stream of packets over TCP: mirrord, and `tcpdump -w - | nc`; and into a file.

All at a paced rate, the receiver an nc on the same host, whose work counts for both. The bar: a frame costs mirrord's
stream at most 0.7 of what it costs tcpdump's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.comparison.experiments import PACED
from bench.comparison.subjects import Copies, daemon, lost_percent, session
from bench.comparison.testbed import Testbed
from bench.tables import Table
from tests.support.wait import wait_for

TITLE = f"Captures, {PACED} frames/s of 64 bytes"
TCPDUMP, STREAM, FILE = "tcpdump -w - to nc", "mirrord, pcap over TCP", "mirrord, file"
PORT = 57012


class Captures:
    """`tables` by title."""

    def __init__(self, bed: Testbed, milliseconds: int) -> None:
        self.bed, self.milliseconds = bed, milliseconds
        self.tables: dict[str, Table] = {}

    def captures(self) -> None:
        """Each subject once, between two runs of the same load unmirrored."""
        load = "--ms", self.milliseconds, "--rate", PACED
        for name, run in {TCPDUMP: tcpdump, STREAM: stream, FILE: file}.items():
            before = self.bed.measure(lambda: 0, *load)
            with run(self.bed) as copies:
                sample = self.bed.measure(copies.made, *load)
                lost = copies.lost_percent()
            alone = before.mean(self.bed.measure(lambda: 0, *load))
            self.tables.setdefault(TITLE, Table(TITLE)).add(
                name,
                ns_a_frame_in_all=sample.total,
                unmirrored_ns_a_frame=alone.total,
                extra_ns_a_frame_in_all=sample.total - alone.total,
                lost_percent=lost,
            )


@contextmanager
def receiving(bed: Testbed) -> Iterator[Path]:
    """An nc that takes one connection; what it got."""
    got = bed.folder / "got"
    process = bed.host.spawn("sh", "-c", f"exec nc -l 127.0.0.1 {PORT} >{got}")
    try:
        wait_for(lambda: f":{PORT} " in bed.host.run("ss", "-ltn"), "nc listens")
        yield got
    finally:
        process.close()
        got.unlink()


@contextmanager
def tcpdump(bed: Testbed) -> Iterator[Copies]:
    """Through a named pipe, so that each of the two is a process of ours."""
    pipe = bed.folder / "pipe"
    os.mkfifo(pipe)
    with ExitStack() as running:
        running.callback(pipe.unlink)
        got = running.enter_context(receiving(bed))
        for command in (f"nc 127.0.0.1 {PORT} <{pipe}", f"tcpdump -i source -n -Z root -w {pipe} ether proto 0x0800"):
            running.callback(bed.host.spawn("sh", "-c", f"exec {command}").close)

        def comes() -> bool:
            bed.load("--ms", 20, "--rate", 10_000)
            return got.stat().st_size > 0

        wait_for(comes, "a first packet", 20)
        yield Copies(lambda: got.stat().st_size)


@contextmanager
def stream(bed: Testbed) -> Iterator[Copies]:
    """To the same receiver."""
    with receiving(bed), ours(bed, f'type = "pcap", remote = "127.0.0.1", port = {PORT}, format = "pcap"') as copies:
        yield copies


@contextmanager
def file(bed: Testbed) -> Iterator[Copies]:
    """Into a file of the same file system."""
    with ours(bed, f'type = "file", path = "{bed.folder}/file.pcapng"') as copies:
        yield copies


@contextmanager
def ours(bed: Testbed, destination: str) -> Iterator[Copies]:
    """A daemon with one session."""
    with daemon(bed, session("source", destination), files=str(bed.folder)) as running:
        yield Copies(
            lambda: int(running.metrics().total("mirrord_sent_packets_total")),
            lambda: lost_percent(running.metrics()),
        )
