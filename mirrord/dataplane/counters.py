"""The counters of a pipeline, and of a capture: a fixed row of 64-bit slots with one writer, the worker, and any number
of readers.

Both data planes write the same slots; the native core checks at import that it numbers them alike. A slot is aligned
and written whole, so that a reader on another thread sees the old value or the new one, nothing between.
"""

from __future__ import annotations

import enum
import errno
from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirrord.dataplane.filter.rules import Rule


MOST_REMOTES = 16
"""Collectors of one session, at most."""


class Slot(enum.IntEnum):
    """What each slot counts. `captured` = `mirrored` + every `skipped_*` + every `dropped_*`, at rest."""

    captured = 0  # frames that passed the filter, the ones that the ring had no room for included
    read_ingress_frames = 1
    read_ingress_bytes = 2
    read_egress_frames = 3
    read_egress_bytes = 4
    mirrored = 5
    sent_packets = 6
    sent_bytes = 7  # from the outer Ethernet header to the end, without FCS; in a file, of the frame alone
    skipped_sampled_out = 8
    skipped_rate_limited = 9
    skipped_paused = 10
    skipped_unmatched = 11
    skipped_own_copy = 12
    skipped_flow_limit = 13
    skipped_duplicate = 14
    dropped_ring_full = 15
    dropped_send_error = 16
    dropped_mtu_exceeded = 17
    dropped_no_route = 18
    dropped_malformed = 19
    dropped_write_error = 20
    dropped_link_down = 21
    dropped_queue_full = 22
    truncated = 23
    segmented = 24
    fragmented = 25
    unplaced = 26  # later fragments, sampled or counted to a flow by a guess
    flow_table_full = 27  # frames that passed since their flow had no place
    zeroed = 28  # copies with payload overwritten
    unfollowed = 29  # frames of these whose TCP connection was not seen from its SYN on, without a gap
    missing = 30  # packets of a tunnel source that did not come, by the numbers of those that did: not frames captured
    latency_sum = 31  # nanoseconds
    latency_bucket = 32  # the first of len(LATENCY_BOUNDS) + 1 slots; the last is for what took longer


SKIPPED = ("sampled_out", "rate_limited", "paused", "unmatched", "own_copy", "flow_limit", "duplicate")
DROPPED = ("ring_full", "send_error", "mtu_exceeded", "no_route", "malformed", "write_error", "link_down", "queue_full")

LATENCY_BOUNDS = tuple(50_000 << power for power in range(14))
"""Upper bounds of the latency buckets in nanoseconds: 50 us, doubling, to 0.41 s."""

SLOTS = Slot.latency_bucket + len(LATENCY_BOUNDS) + 1

ROW = SLOTS + 2 * MOST_REMOTES
"""Behind the slots stand, for each of the collectors by its place, the copies that were accepted for it, and their
bytes as of `sent_bytes`."""

RemoteCounts = dict[str, tuple[int, int]]
"""Copies and bytes by a collector's address."""


def dropped_by(error: int) -> Slot:
    """The slot for a frame whose copy the kernel refused with this errno."""
    if error in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES):  # the last: a route that prohibits
        return Slot.dropped_no_route
    if error in (errno.ENETDOWN, errno.ENXIO):  # the device is down, or gone
        return Slot.dropped_link_down
    if error == errno.EMSGSIZE:
        return Slot.dropped_mtu_exceeded
    return Slot.dropped_send_error


_ENDS = (
    Slot.mirrored,
    *(Slot[f"skipped_{reason}"] for reason in SKIPPED),
    *(Slot[f"dropped_{reason}"] for reason in DROPPED),
)
"""What becomes of a captured frame, each one thing."""


class Counters:
    """One row of slots. `row` is the memory itself, for the native core to write to."""

    def __init__(self) -> None:
        self.row = array("Q", bytes(8 * ROW))

    def __getitem__(self, slot: int) -> int:
        return self.row[slot]

    def add(self, slot: int, amount: int = 1) -> None:
        self.row[slot] += amount

    def add_sent(self, place: int, copies: int, octets: int) -> None:
        """Count copies that were accepted for the collector at this place."""
        self.add(Slot.sent_packets, copies)
        self.add(Slot.sent_bytes, octets)
        self.add(SLOTS + 2 * place, copies)
        self.add(SLOTS + 2 * place + 1, octets)

    def observe_latency(self, nanoseconds: int) -> None:
        """Count one frame's time from capture to send; what a clock step made negative counts as zero."""
        taken = max(nanoseconds, 0)
        bucket = next((n for n, bound in enumerate(LATENCY_BOUNDS) if taken <= bound), len(LATENCY_BOUNDS))
        self.add(Slot.latency_sum, taken)
        self.add(Slot.latency_bucket + bucket)

    def snapshot(self) -> tuple[int, ...]:
        """The slots now. What is accounted for was captured, whether or not the kernel's count of that is in yet.

        A worker asks for that count after it has counted a batch's frames, and may do so while the slots are read:
        without this they would tell of more frames mirrored than captured. No slot goes backwards, but `mirrored`
        where a stream's connection ends before its queue is empty (transmit/queue.py).
        """
        row = self.slots()
        return (max(row[Slot.captured], sum([row[slot] for slot in _ENDS])), *row[1:])

    def slots(self) -> tuple[int, ...]:
        """The slots as they stand."""
        return tuple(self.row[:SLOTS])

    def sent(self, remotes: Sequence[str]) -> RemoteCounts:
        """What was sent to these collectors, which are in the order of their places."""
        row = self.row[SLOTS:]
        return {remote: (row[2 * n], row[2 * n + 1]) for n, remote in enumerate(remotes)}

    def unaccounted(self) -> int:
        """Frames captured and not yet mirrored, skipped or dropped: 0 at rest, whatever happened."""
        row = self.row
        return row[Slot.captured] - sum([row[slot] for slot in _ENDS])


class Seen:
    """What a source's capture has counted, whoever its frames were for. `row` is the memory itself, as of Counters.

    taken: frames that passed the filter, the lost ones included; lost: those that there was no room for; read: frames
    taken out of the ring or socket, and their bytes, as far as these were captured.
    """

    def __init__(self) -> None:
        self.row = array("Q", bytes(8 * 4))

    @property
    def taken(self) -> int:
        return self.row[0]

    @property
    def lost(self) -> int:
        return self.row[1]

    @property
    def read(self) -> int:
        return self.row[2]

    @property
    def read_bytes(self) -> int:
        return self.row[3]

    @property
    def waiting(self) -> int:
        """Frames that have been taken and can be read, or soon can be."""
        taken, lost, read, _ = self.row
        return max(taken - lost - read, 0)

    def count_taken(self, taken: int, lost: int) -> None:
        self.row[0] += taken
        self.row[1] += lost

    def count_read(self, captured: int) -> None:
        self.row[2] += 1
        self.row[3] += captured


_Counted = tuple[dict[tuple[str, int], int], tuple[tuple[str, int] | None, ...], "array[int]"]
"""What earlier rules counted, the filter and priority of each rule now (None: it rejects), and their counts."""


class RuleCounters:
    """How many captured frames each accept rule of a pipeline's filters was the first to match.

    Counted in the forward step, before sampling, rate limit and whatever else a frame may end by. One writer, the
    worker, and any number of readers.
    """

    def __init__(self) -> None:
        self._now: _Counted = ({}, (), array("Q"))  # changed as one, under the eyes of readers

    @property
    def row(self) -> array[int]:
        """By a rule's place in the selection: the memory itself, for the native core to write to."""
        return self._now[2]

    def begin(self, name: str, rules: tuple[Rule, ...]) -> None:
        """Count the rules of this filter from now on; what was counted before stays. Between two turns only."""
        names = tuple((name, rule.priority) if rule.accept else None for rule in rules)
        self._now = self.snapshot(), names, array("Q", bytes(8 * len(rules)))

    def snapshot(self) -> dict[tuple[str, int], int]:
        """Frames by filter and priority."""
        past, names, row = self._now
        counted = dict(past)
        for name, count in zip(names, row, strict=True):
            if name is not None:
                counted[name] = counted.get(name, 0) + count
        return counted
