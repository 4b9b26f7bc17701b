"""What it costs to leave payload out: long frames cut behind their headers, or with zeros, beside short ones whole.

At the sender's full rate, each between two runs of the same load unmirrored. The bar: frames of 1,400 bytes cut behind
their headers cost at most 1.2 times what frames of 64 bytes do.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.comparison.subjects import Run, mirrord
from bench.comparison.testbed import Testbed
from bench.tables import Table

TITLE = "Payload left out, to VXLAN, the sender's full rate"
SHORT, LONG = 64, 1400
SUBJECTS: Mapping[str, tuple[Run, int]] = {
    "64 bytes, whole": (mirrord(), SHORT),
    "1,400 bytes, whole": (mirrord(), LONG),
    '1,400 bytes, snaplen = "headers"': (mirrord(snaplen='"headers"'), LONG),
    '1,400 bytes, payload = "zero"': (mirrord(payload='"zero"'), LONG),
    '1,400 bytes, payload = "zero", snaplen = "headers"': (mirrord(payload='"zero"', snaplen='"headers"'), LONG),
    '1,400 bytes, payload = "tls" (UDP: zeros)': (mirrord(payload='"tls"'), LONG),
}


class Payloads:
    """`tables` by title."""

    def __init__(self, bed: Testbed, milliseconds: int) -> None:
        self.bed, self.milliseconds = bed, milliseconds
        self.tables: dict[str, Table] = {}

    def payload(self) -> None:
        """Each subject once."""
        for name, (run, length) in SUBJECTS.items():
            load = "--ms", self.milliseconds, "--size", length
            before = self.bed.measure(lambda: 0, *load)
            with run(self.bed, "null") as copies:
                sample = self.bed.measure(copies.made, *load)
            alone = before.mean(self.bed.measure(lambda: 0, *load))
            self.tables.setdefault(TITLE, Table(TITLE)).add(
                name,
                ns_a_copy_on_the_mirroring_core=sample.mirroring,
                extra_ns_a_frame_in_all=sample.total - alone.total,
                senders_extra_ns_a_frame=sample.sender - alone.sender,
                lost_percent=100 * sample.lost / sample.frames,
            )
