"""What limits by flow and overload by flows cost, and what a limit by flow saves on bulk traffic.

Bulk traffic is one UDP flow at the sender's full rate, of frames of 1,400 bytes: mirrored whole, and its first 20
packets. The bar: that costs at most a fifth. Many flows are 64 in turn.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.comparison.subjects import Run, mirrord
from bench.comparison.testbed import Testbed
from bench.tables import Table

TITLE = "Limits by flow, to VXLAN, the sender's full rate"
BULK, MANY = ("--size", 1400), ("--size", 64, "--flows", 64)
LIMIT = "{ packets = 20 }"
SUBJECTS: Mapping[str, tuple[Run, tuple[object, ...]]] = {
    "bulk, whole": (mirrord(), BULK),
    "bulk, flow_limit = { packets = 20 }": (mirrord(flow_limit=LIMIT), BULK),
    'bulk, the same, then = "headers"': (mirrord(flow_limit='{ packets = 20, then = "headers" }'), BULK),
    "64 flows, whole": (mirrord(), MANY),
    "64 flows, flow_limit that no flow reaches": (mirrord(flow_limit="{ packets = 2000000000 }"), MANY),
    '64 flows, overload = "flows", no limit': (mirrord(overload='"flows"'), MANY),
}


class Flows:
    """`tables` by title."""

    def __init__(self, bed: Testbed, milliseconds: int) -> None:
        self.bed, self.milliseconds = bed, milliseconds
        self.tables: dict[str, Table] = {}

    def flows(self) -> None:
        """Each subject once."""
        for name, (run, load) in SUBJECTS.items():
            paced = "--ms", self.milliseconds, *load
            before = self.bed.measure(lambda: 0, *paced)
            with run(self.bed, "null") as copies:
                sample = self.bed.measure(copies.made, *paced)
            alone = before.mean(self.bed.measure(lambda: 0, *paced))
            self.tables.setdefault(TITLE, Table(TITLE)).add(
                name,
                extra_ns_a_frame_in_all=sample.total - alone.total,
                senders_extra_ns_a_frame=sample.sender - alone.sender,
                copies_of_100_frames=100 * sample.copies / sample.frames,
            )
