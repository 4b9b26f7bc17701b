"""The experiments. Each runs every subject once, one after the other, and adds a row for each to its table.

What the goals compare is taken within one round, so that the drift of the machine's speed falls on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bench.comparison.subjects import (
    Run,
    daemonlogger,
    mirrord,
    netsniff_ng,
    open_vswitch,
    scapy,
    tc_mirred,
    unmirrored,
)
from bench.comparison.testbed import Sample, Testbed
from bench.tables import Table

PACED, SLOW = 200_000, 2_000  # frames a second: below what every subject, or even a script, can take
UNMIRRORED = "unmirrored"
TC = "tc mirred + vxlan"

OFF = {"gso": '"off"'}
ON = {"gso": '"on"'}
PACKET = {"transmit": '"packet"'}
SOCKET = {"transmit": '"socket"'}

VXLAN: Mapping[str, tuple[Run, str]] = {
    TC: (tc_mirred("egress", "source"), "null"),
    "mirrord, packet, gso on, device segments": (mirrord(**PACKET, **ON), "offload"),
    "mirrord, packet, gso on, kernel segments": (mirrord(**PACKET, **ON), "null"),
    "mirrord, packet, gso off": (mirrord(**PACKET, **OFF), "null"),
    "mirrord, socket, gso on, device segments": (mirrord(**SOCKET, **ON), "offload"),
    "mirrord, socket, gso on, kernel segments": (mirrord(**SOCKET, **ON), "null"),
    "mirrord, socket, gso off": (mirrord(**SOCKET, **OFF), "null"),
}
AUTO = {"gso": '"auto"'}
ORDER: Mapping[str, tuple[Run, str]] = {
    "packet, gso auto, device segments": (mirrord(**PACKET, **AUTO), "offload"),
    "packet, gso auto, kernel segments": (mirrord(**PACKET, **AUTO), "null"),
    "packet, gso off": (mirrord(**PACKET, **OFF), "null"),
    "socket, gso auto, device segments": (mirrord(**SOCKET, **AUTO), "offload"),
    "socket, gso auto, kernel segments": (mirrord(**SOCKET, **AUTO), "null"),
    "socket, gso off": (mirrord(**SOCKET, **OFF), "null"),
    "packet, gso on, which overtakes, device segments": (mirrord(**PACKET, **ON), "offload"),
    "packet, gso on, which overtakes, kernel segments": (mirrord(**PACKET, **ON), "null"),
    "socket, gso on, which overtakes, kernel segments": (mirrord(**SOCKET, **ON), "null"),
}
DEVICE: Mapping[str, Run] = {
    "tc mirred": tc_mirred("egress", "source", tunnel=False),
    "mirrord": mirrord("device"),
    "daemonlogger": daemonlogger,
    "netsniff-ng": netsniff_ng,
}
BY_WIRE: Mapping[str, tuple[Run, str]] = {
    TC: (tc_mirred("ingress", "port"), "null"),
    "mirrord, packet, gso on, device segments": (mirrord(device="port", **PACKET, **ON), "offload"),
    "mirrord, packet, gso on, kernel segments": (mirrord(device="port", **PACKET, **ON), "null"),
    "Open vSwitch, userspace datapath": (open_vswitch, "null"),
}
SCRIPTS: Mapping[str, Run] = {
    "mirrord, python": mirrord(dataplane="python", **SOCKET, **OFF),
    "mirrord, native": mirrord(**SOCKET, **OFF),
    "scapy": scapy,
}
FULL: Mapping[str, tuple[Run, str]] = {
    name: VXLAN[name]
    for name in (
        TC,
        "mirrord, packet, gso on, device segments",
        "mirrord, packet, gso on, kernel segments",
        "mirrord, packet, gso off",
    )
}
LOADS: Mapping[str, tuple[object, ...]] = {
    "64 bytes, one flow": (),
    "64 bytes, 64 flows in turn": ("--flows", 64),
    "IMIX, 64 flows in turn": ("--flows", 64, "--imix", 1),
}


class Experiments:
    """`tables` by title. A round of everything is `paced`, `order`, `devices`, `by_wire`, `scripts` and `full_rate`."""

    def __init__(self, bed: Testbed, milliseconds: int) -> None:
        self.bed, self.milliseconds = bed, milliseconds
        self.tables: dict[str, Table] = {}

    def table(self, title: str) -> Table:
        return self.tables.setdefault(title, Table(title))

    def _measure(self, run: Run, sink: str, *load: object, by_wire: bool = False) -> Sample:
        with run(self.bed, sink) as copies:
            return self.bed.measure(copies.made, "--ms", self.milliseconds, *load, by_wire=by_wire)

    def _between(
        self, subjects: Mapping[str, tuple[Run, str]], *load: object, by_wire: bool = False
    ) -> Iterator[tuple[str, Sample, Sample]]:
        """Each subject under this load, between two runs of the same load unmirrored; and these two, as one.

        The machine's speed drifts within seconds: what a mirror adds can be told only from what is beside it.
        """
        before = self._measure(unmirrored, "null", *load, by_wire=by_wire)
        for name, (run, sink) in subjects.items():
            sample = self._measure(run, sink, *load, by_wire=by_wire)
            after = self._measure(unmirrored, "null", *load, by_wire=by_wire)
            yield name, sample, before.mean(after)
            before = after

    def _rows(self, title: str, subjects: Mapping[str, tuple[Run, str]], *load: object, by_wire: bool = False) -> None:
        for name, sample, alone in self._between(subjects, *load, by_wire=by_wire):
            self.table(title).add(
                name,
                ns_a_frame_in_all=sample.total,
                unmirrored_ns_a_frame=alone.total,
                extra_ns_a_frame_in_all=sample.total - alone.total,
                ns_a_copy_on_the_mirroring_core=sample.mirroring if sample.copies else 0,
                extra_ns_on_the_senders_core=sample.busy[0] - alone.busy[0],
                lost_percent=100 * sample.lost / sample.frames if sample.copies else 0,
            )

    def paced(self) -> None:
        """To VXLAN, 64 bytes, one flow."""
        for flows in (1, 64):
            title = f"VXLAN, {PACED} frames/s of 64 bytes, {'one flow' if flows == 1 else f'{flows} flows in turn'}"
            self._rows(title, VXLAN, "--rate", PACED, "--flows", flows)

    def order(self) -> None:
        """What it costs to keep the order of capture: flows that take turns leave little to join."""
        for flows, words in ((1, "one flow"), (64, "64 flows in turn")):
            title = f"Order, {PACED} frames/s of 64 bytes, {words}"
            self._rows(title, ORDER, "--rate", PACED, "--flows", flows)

    def devices(self) -> None:
        """To a device, as they come."""
        subjects = {name: (run, "null") for name, run in DEVICE.items()}
        self._rows(f"To a device, {PACED} frames/s of 64 bytes", subjects, "--rate", PACED)

    def by_wire(self) -> None:
        """What comes in by a veth pair, to VXLAN."""
        title = f"VXLAN, received from a veth pair, {PACED} frames/s of 64 bytes"
        self._rows(title, BY_WIRE, "--rate", PACED, by_wire=True)

    def scripts(self) -> None:
        """The readable ones."""
        subjects = {name: (run, "null") for name, run in SCRIPTS.items()}
        self._rows(f"VXLAN, {SLOW} frames/s of 64 bytes", subjects, "--rate", SLOW)

    def full_rate(self) -> None:
        """As fast as the sender can."""
        for title, load in LOADS.items():
            for name, sample, alone in self._between({UNMIRRORED: (unmirrored, "null"), **FULL}, *load):
                self.table(f"VXLAN, the sender's full rate, {title}").add(
                    name,
                    sender_ns_a_frame=sample.sender,
                    sent_a_second=1e9 / sample.sender,
                    ns_a_frame_in_all=sample.total,
                    unmirrored_ns_a_frame=alone.total,
                    extra_ns_a_frame_in_all=sample.total - alone.total,
                    ns_a_copy_on_the_mirroring_core=sample.mirroring if sample.copies else 0,
                    lost_frames=sample.lost if sample.copies else 0,
                )
