"""What mirrord aims at, each figure worked out from the tables.

What else runs on the host of a shared machine only ever adds to the time that something takes, at times as much again.
So the goals about time compare the least of all rounds with the least; beside it stands the median of the rounds, each
by itself. The other goals are judged by that.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from bench.comparison import captures, collectors, flows, payloads, sharing, sources, streams
from bench.comparison.experiments import BY_WIRE, DEVICE, LOADS, PACED, TC, UNMIRRORED
from bench.tables import Table, number, spread

EXTRA, CORE = "extra_ns_a_frame_in_all", "ns_a_copy_on_the_mirroring_core"
SENDERS = "senders_extra_ns_a_frame"
ALL, ALONE = "ns_a_frame_in_all", "unmirrored_ns_a_frame"  # their difference is EXTRA
VXLAN_TITLE = f"VXLAN, {PACED} frames/s of 64 bytes, one flow"
FULL_TITLE = "VXLAN, the sender's full rate, {}"
DEVICE_TITLE = f"To a device, {PACED} frames/s of 64 bytes"
BY_WIRE_TITLE = f"VXLAN, received from a veth pair, {PACED} frames/s of 64 bytes"
RULES_TITLE = f"A filter's rules, the last one matching, {PACED} frames/s"
ON_DEVICE, ON_KERNEL = "mirrord, packet, gso on, device segments", "mirrord, packet, gso on, kernel segments"
OFF = "mirrord, packet, gso off"
TC_NANOSECONDS = 580  # what tc mirred's frame costs where the goals in nanoseconds were set

Samples = Sequence[float]
Look = Callable[[str, str, str], Samples]


@dataclass(frozen=True, slots=True)
class Goal:
    """`figure(look)` gives a value for each round; `limit` is the most, or the least if `least`, that is aimed at.

    `undisturbed`: it is about time, and judged by what was measured where the least came between.
    """

    words: str
    limit: float
    figure: Callable[[Look], Samples]
    least: bool = False
    undisturbed: bool = False

    def row(self, by_round: Look, undisturbed: Look) -> str:
        values = self.figure(by_round)
        median = statistics.median(values)
        (value,) = self.figure(undisturbed) if self.undisturbed else (median,)
        met = value >= self.limit if self.least else value <= self.limit
        sign = ">=" if self.least else "<="
        figures = f"{number(value)} | {number(median)} | {spread(list(values)):.0%}"
        return f"| {self.words} | {sign} {self.limit:g} | {figures} | {'met' if met else '**missed**'} |"


def _ratio(title: str, subject: str, other: str, quantity: str, its: str = "") -> Callable[[Look], Samples]:
    """Of a subject's quantity to the other's; `its`: of another quantity."""
    return lambda look: [
        mine / theirs
        for mine, theirs in zip(look(title, subject, quantity), look(title, other, its or quantity), strict=True)
    ]


def _value(title: str, subject: str, quantity: str, factor: float = 1) -> Callable[[Look], Samples]:
    return lambda look: [factor * value for value in look(title, subject, quantity)]


def _normalised(subject: str) -> Callable[[Look], Samples]:
    """Nanoseconds on the mirroring core, in proportion to what tc mirred's frame cost where the goal was set."""
    mine = _ratio(VXLAN_TITLE, subject, TC, CORE, EXTRA)
    return lambda look: [TC_NANOSECONDS * ratio for ratio in mine(look)]


def _sender(look: Look) -> Samples:
    title = FULL_TITLE.format("64 bytes, one flow")
    alone, tc, mine = (look(title, name, "sender_ns_a_frame") for name in (UNMIRRORED, TC, ON_DEVICE))
    return [(m - a) / (t - a) for a, t, m in zip(alone, tc, mine, strict=True)]


def _best(title: str, subject: str, others: Sequence[str]) -> Callable[[Look], Samples]:
    def ratios(look: Look) -> Samples:
        rounds = zip(*(look(title, other, CORE) for other in others), strict=True)
        return [mine / min(row) for mine, row in zip(look(title, subject, CORE), rounds, strict=True)]

    return ratios


def _vxlan_against_the_best(look: Look) -> Samples:
    """The best of what copies to a device, which encapsulates nothing, and of Open vSwitch."""
    devices = [look(DEVICE_TITLE, name, CORE) for name in DEVICE if name not in ("mirrord", "tc mirred")]
    switch = [look(BY_WIRE_TITLE, name, CORE) for name in BY_WIRE if name.startswith("Open")]
    rounds = zip(*devices, *switch, strict=True)
    return [mine / min(row) for mine, row in zip(look(VXLAN_TITLE, ON_DEVICE, CORE), rounds, strict=True)]


GOALS = (
    *(
        Goal(f"extra CPU a frame over the machine, against {TC}: {subject}", limit,
             _ratio(VXLAN_TITLE, subject, TC, EXTRA), undisturbed=True)
        for subject, limit in ((ON_DEVICE, 0.5), (ON_KERNEL, 0.75), (OFF, 0.85))
    ),
    *(
        Goal(f"the same at the sender's full rate: {subject}", limit,
             _ratio(FULL_TITLE.format("64 bytes, one flow"), subject, TC, EXTRA), undisturbed=True)
        for subject, limit in ((ON_DEVICE, 0.5), (ON_KERNEL, 0.75), (OFF, 0.85))
    ),
    *(
        Goal(f"CPU a copy on the mirroring core, ns, where tc mirred's costs {TC_NANOSECONDS}: {subject}", limit,
             _normalised(subject), undisturbed=True)
        for subject, limit in ((ON_DEVICE, 110), (ON_KERNEL, 240), (OFF, 320))
    ),
    Goal("extra time of a mirrored sender a frame, against that under tc mirred", 0.5, _sender, undisturbed=True),
    *(
        Goal(f"frames lost at the sender's full rate, null sink, gso on: {load}", 0,
             _value(FULL_TITLE.format(load), ON_DEVICE, "lost_frames"))
        for load in LOADS
    ),
    Goal("CPU a copy on the mirroring core, device destination, against the best of daemonlogger and netsniff-ng", 0.8,
         _best(DEVICE_TITLE, "mirrord", ("daemonlogger", "netsniff-ng")), undisturbed=True),
    Goal("the same, VXLAN with gso on, against the best of these and Open vSwitch", 0.25, _vxlan_against_the_best,
         undisturbed=True),
    Goal("iperf3's throughput mirrored both ways, against that under tc mirred", 0.95,
         _ratio(streams.FULL, "mirrord", TC, "gigabits_a_second"), least=True),
    Goal("the same: percent of its frames lost", 0, _value(streams.FULL, "mirrord", "lost_percent")),
    Goal("extra CPU a frame with 1,000 rules, against 10", 2, _ratio(RULES_TITLE, "1000 rules", "10 rules", EXTRA)),
    Goal("500 idle sessions: percent of a core, the process", 1,
         _value("500 idle sessions", "mirrord", "process_percent_of_a_core")),
    Goal("500 idle sessions: resident megabytes", 200, _value("500 idle sessions", "mirrord", "resident_megabytes")),
    *(
        Goal(f"added latency at {rate} frames/s, {words}, ms", limit,
             _value("Added latency", f"{rate} frames/s, capture auto", quantity))
        for rate in (10, 10_000)
        for words, quantity, limit in (("p50", "median_ms", 1), ("p99", "p99_ms", 4))
    ),
    Goal("sender's extra time a frame: 50 sessions on one source, none matching, against 1", 1.5,
         _ratio(sharing.NONE_TITLE, "mirrord, 50", "mirrord, 1", SENDERS)),
    Goal("the same, against 50 tc u32 filters", 0.25,
         _ratio(sharing.NONE_TITLE, "mirrord, 50", "tc u32 + mirred, 50", SENDERS)),
    Goal("sender's extra time a frame: 10 sessions on one source, all matching, against 1", 1.5,
         _ratio(sharing.ALL_TITLE, "mirrord, 10", "mirrord, 1", SENDERS)),
    Goal("CPU a copy on the mirroring core: the same", 0.8,
         _ratio(sharing.ALL_TITLE, "mirrord, 10", "mirrord, 1", CORE)),
    *(
        Goal(f"CPU a frame on the mirroring core at {rate:,} frames/s: 200 sources against 1, {words}", 2,
             _ratio(sources.TITLE.format(rate), f"mirrord, {way}, 200", f"mirrord, {way}, 1", sources.CORE))
        for way, words in (("one session", "by one session"), ("a session each", "by a session each"))
        for rate in sources.RATES
    ),
    *(
        Goal(f"the same at {rate:,} frames/s, by a session each, copies by a veth", 2,
             _ratio(sources.VETH_TITLE.format(rate), "mirrord, a session each, 200", "mirrord, a session each, 1",
                    sources.CORE))
        for rate in sources.RATES
    ),
    Goal('CPU a copy at full rate: 1,400 bytes, snaplen = "headers", against 64 bytes', 1.2,
         _ratio(payloads.TITLE, '1,400 bytes, snaplen = "headers"', "64 bytes, whole", CORE)),
    Goal("extra CPU a frame of bulk traffic: flow_limit against whole", 0.2,
         _ratio(flows.TITLE, "bulk, flow_limit = { packets = 20 }", "bulk, whole", EXTRA)),
    Goal("extra CPU a frame: two collectors that share conversations, against one", 1.1,
         _ratio(collectors.TITLE, collectors.FLOW, collectors.ONE, EXTRA), undisturbed=True),
    Goal("CPU a copy on the mirroring core: two collectors that get everything, against one", 1,
         _ratio(collectors.TITLE, collectors.ALL, collectors.ONE, CORE), undisturbed=True),
    Goal("extra CPU a frame: pcap over TCP on loopback, against tcpdump -w - to nc", 0.7,
         _ratio(captures.TITLE, captures.STREAM, captures.TCPDUMP, EXTRA), undisturbed=True),
    Goal("exec to the first mirrored frame, s", 1, _value("Start", "exec to the first copy", "seconds")),
)  # fmt: skip


def goals(tables: Sequence[Table]) -> str:
    """The table of goals: what was measured, the rounds' median, the distance of their quartiles, and the verdict.

    Goals about what is not in these tables are left out.
    """
    by_title = {table.title: table for table in tables}

    def by_round(title: str, subject: str, quantity: str) -> Samples:
        if title not in by_title:
            raise _NotMeasuredError
        return by_title[title].samples[subject][quantity]

    def undisturbed(title: str, subject: str, quantity: str) -> Samples:
        least = min(by_round(title, subject, ALL if quantity == EXTRA else quantity))
        if quantity != EXTRA:
            return [least]
        return [least - min(value for row in by_title[title].samples.values() for value in row[ALONE])]

    lines = ["## Goals\n", "| figure | goal | measured | median of rounds | spread | |", "| --- " * 6 + "|"]
    for goal in GOALS:
        with suppress(_NotMeasuredError):
            lines.append(goal.row(by_round, undisturbed))
    return "\n".join(lines) + "\n"


class _NotMeasuredError(Exception):
    """A goal's table is not among those that were measured."""
