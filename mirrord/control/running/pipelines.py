"""The pipelines that run, the workers that run them, and what each session counted since the daemon's start.

`apply` brings what runs to what is planned; what did not change is not touched. A pipeline that could not be opened, or
that failed, is tried again with every plan. A session's totals outlive its pipelines: they never go backwards when a
device is re-created or a session changes.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from mirrord.control.host.device_rate import Place, busy
from mirrord.control.host.reserve import Reservations
from mirrord.control.logs import logger
from mirrord.control.planning.plan import Add, Entry, Key, Limit, Remove, Rename, Replace, diff
from mirrord.control.reporting.metrics import Row
from mirrord.control.reporting.report import Counted
from mirrord.control.running.breaker import Verdict
from mirrord.control.running.live import Live
from mirrord.dataplane.capture.listener import Listener
from mirrord.dataplane.capture.packet_socket import CapturePlan
from mirrord.dataplane.counters import SLOTS, Slot
from mirrord.dataplane.forward.step import Numbering
from mirrord.dataplane.pipeline import Pipeline, PipelinePlan, open_pipelines
from mirrord.dataplane.transmit.sockets import DevicePlan, TunnelPlan
from mirrord.dataplane.worker import Worker
from mirrord.errors import Refused

log = logger("pipelines")

GONE = {errno.ENODEV, errno.ENXIO, errno.ENETDOWN}
"""What it takes to open a device that went since the host was looked at: there is news of it already."""

OPENERS = 8

REMEMBERED = 1000
"""Of how many devices that a pattern brought in and that are gone the totals are kept, should they come again."""
_TOTALS = [
    (int(slot), slot.name, not slot.name.startswith(("skipped_", "dropped_")))
    for slot in Slot
    if slot < Slot.latency_sum
]
"""What the log tells of a session at its end: the slot, its name, and whether also when it is zero."""

NOTHING = (0,) * SLOTS
_MIRRORED, _SENT_BYTES, _TOO_LARGE = int(Slot.mirrored), int(Slot.sent_bytes), int(Slot.dropped_mtu_exceeded)

RuleCounts = dict[tuple[str, int], int]
"""Frames by a rule's filter and priority."""


class Pipelines:
    """`apply` and `stop` block, up to a second for each pipeline that ends; the rest answers at once, on any thread."""

    def __init__(self, *, native: bool, nice: int = 0) -> None:
        self._native, self._nice = native, nice
        self._reservations = Reservations()
        self._workers: list[Worker] = []
        self._loads: Counter[Worker] = Counter()  # how many pipelines each has
        self._lock = threading.Lock()  # of all below: a total moves from a pipeline to the past in one step
        self._entries: dict[Key, Entry] = {}
        self._running: dict[Key, tuple[Pipeline, Worker]] = {}
        self._beside: dict[Key, list[tuple[Pipeline, Worker]]] = {}  # that divide a source with the one that runs
        self._plans: dict[Key, PipelinePlan] = {}  # as made, for the next difference
        self._verdicts: dict[Key, Verdict] = {}  # of the circuit breaker
        self._numberings: dict[tuple[str, str], Numbering] = {}  # by mirror and session: all its sources' copies
        self._past: dict[Key, tuple[int, ...]] = {}
        self._past_rules: dict[Key, RuleCounts] = {}
        self._forgotten_rules: RuleCounts = {}  # of sessions whose names are not remembered any more
        self._errors: dict[Key, tuple[str, str]] = {}  # of what should run and does not: its state, and why
        self._troubles: dict[Key, str] = {}  # of transmits, as logged; they mend themselves
        self._sent: tuple[dict[Pipeline, int], dict[Pipeline, int]] = {}, {}  # copies, when `told` was last asked
        self._refused: set[Key] = set()  # as logged: what the kernel refused GSO to

    def clean_up(self) -> None:
        """Take away what a daemon that was killed left on the host's devices."""
        try:
            for device in self._reservations.take_away_leftovers():
                log.warning("a killed daemon had left a device reserved: given back", index=device)
        except OSError as error:
            log.warning("cannot look for devices that a killed daemon left reserved", reason=error.strerror)

    def apply(self, entries: Mapping[Key, Entry]) -> None:
        """Make what runs equal to this plan."""
        self._end_failed()
        wanted = {key: entry.pipeline for key, entry in entries.items() if entry.pipeline is not None}
        with self._lock:
            self._log_changes(entries)
            self._entries |= entries  # what ends is shown until it has
            self._errors = {key: error for key, error in self._errors.items() if key in wanted}
        actions = diff(dict(self._plans), wanted)
        self._remove_all({action.key: "" for action in actions if isinstance(action, Remove)})
        for action in actions:
            match action:
                case Replace(key, plan):
                    for pipeline, worker in self._of(key):
                        worker.replace(pipeline, self._paused(key, plan))
                    self._plans[key] = plan
                    log.info("session changed", **_names(key), frame_limit=plan.forward.frame_limit)
                case Rename(old, new):
                    self._rename(old, new)
        self._add_all([action for action in actions if isinstance(action, Add)])
        self._keep_reserved()
        with self._lock:
            self._entries = dict(entries)
            self._forget()
        sessions = {key[:2] for key in entries}
        self._numberings = {name: one for name, one in self._numberings.items() if name in sessions}

    def judge(self, verdicts: Mapping[Key, Verdict]) -> None:
        """Pause what the circuit breaker says, and have go on what it says no more. Not while plans are applied."""
        with self._lock:
            before, self._verdicts = self._verdicts, dict(verdicts)
        for key in self._running.keys() & (before.keys() | verdicts.keys()):
            was, now = before.get(key, Verdict()), verdicts.get(key, Verdict())
            if was.reason != now.reason:
                log.warning(
                    now.reason or "the link has room again", **_names(key), paused=now.paused, percent=now.percent
                )
            if was.paused != now.paused:
                for pipeline, worker in self._of(key):
                    worker.replace(pipeline, self._paused(key, self._plans[key]))

    def limits(self) -> dict[Key, Limit]:
        """The circuit breaker's limits of what runs."""
        with self._lock:
            return {key: entry.limit for key, entry in self._entries.items() if entry.limit and key in self._running}

    def _paused(self, key: Key, plan: PipelinePlan) -> PipelinePlan:
        paused = key in self._verdicts and self._verdicts[key].paused
        return replace(plan, forward=replace(plan.forward, paused=True)) if paused else plan

    def rows(self, *of: str) -> list[Row]:
        """Every planned session and source, in the plan's order; those of a mirror, or of one of its sessions."""
        with self._lock:
            entries = [entry for entry in self._entries.values() if entry.key[: len(of)] == of]
            rows = [(self._row(entry), self._rules(entry)) for entry in entries]
            return [replace(row, rules=rules) if rules else row for row, rules in rows]

    def counted(self) -> dict[Key, Counted]:
        """What every planned session and source has counted, of what is looked at every second."""
        with self._lock:
            return {key: self._counted(key) for key in self._entries}

    def _counted(self, key: Key) -> Counted:
        rows = [pipeline.counters.row for pipeline, _ in self._of(key)] if key in self._running else []
        row: Sequence[int] = rows[0] if rows else NOTHING
        if len(rows) > 1 or key in self._past:
            row = tuple(map(sum, zip(*rows, self._past.get(key, NOTHING), strict=True)))
        return Counted(row[_MIRRORED], row[_SENT_BYTES], row[_TOO_LARGE])

    def rule_counts(self) -> RuleCounts:
        """The frames that each counted rule matched, of every session there is or was: a sum that only grows."""
        with self._lock:
            total = self._forgotten_rules
            for key in self._past_rules.keys() | self._running.keys():
                total = _sum(total, self._rule_counts(key))
            return total

    def live(self, key: Key) -> Live:
        """A live look at what this session mirrors. MirrordError when it does not run; OSError. Blocks."""
        with self._lock:
            plan = self._plans.get(key)
        if plan is None:
            raise Refused(f"session {key.session} does not run on {key.source}")
        return Live(key, plan, native=self._native)

    def failing(self) -> bool:
        """Whether something that should run does not."""
        with self._lock:
            return bool(self._errors) or any(self._failure(key) for key in self._running)

    def log_troubles(self) -> None:
        """Log which sessions began, or ceased, to have nowhere to put their copies."""
        with self._lock:
            now = {key: self._trouble(key) for key in self._running}
            running = [(key, pipeline) for key in self._running for pipeline, _ in self._of(key)]
            refused = {key for key, pipeline in running if pipeline.gso_refused()}
        for key in refused - self._refused:
            log.warning("the kernel refuses UDP GSO: copies leave one by one", **_names(key))
        self._refused = refused
        for key, trouble in now.items():
            if trouble and trouble != self._troubles.get(key):
                log.error("session failed", **_names(key), reason=trouble)
            elif not trouble and self._troubles.get(key):
                log.info("session up", **_names(key))
        self._troubles = now

    def told(self) -> bool:
        """Whether a router has had something to say about copies since this was last asked."""
        with self._lock:
            pipelines = [pipeline for key in self._running for pipeline, _ in self._of(key)]
        sent = {pipeline: pipeline.counters[Slot.sent_packets] for pipeline in pipelines}
        last, before_last = self._sent
        self._sent = sent, last
        told = [
            one.transmit.told() for one in pipelines if not sent[one] == last.get(one) == before_last.get(one)
        ]  # asked, each of those that have sent: what it is about may come a while later
        return any(told)

    def stalled(self, seconds: float) -> list[str]:
        """The workers that made no progress for so long."""
        now = time.monotonic()
        return [_worker_name(n) for n, worker in enumerate(self._workers) if now - worker.progress > seconds]

    def stop(self) -> None:
        """End every pipeline, nothing lost on the way out, log the totals and stop the workers."""
        self._remove_all(dict.fromkeys(self._running, ""))
        self._reservations.close()
        for row in self.rows():
            log.info("total", **_names(row.entry.key), **_totals(row.counters))
        for worker in self._workers:
            worker.stop()
        self._workers.clear()

    def _add_all(self, adds: Sequence[Add]) -> None:
        """Open several at a time: it is waiting for the kernel, mostly."""
        if not adds:
            return
        for add in adds:
            self._numberings.setdefault(add.key[:2], Numbering())
        sources = [capture for add in adds if isinstance(capture := add.pipeline.capture, CapturePlan)]
        places = busy(sources)
        with ThreadPoolExecutor(min(len(adds), OPENERS), thread_name_prefix="opener") as openers:
            for add, opened in zip(adds, openers.map(lambda add: self._open(add, places), adds), strict=True):
                if isinstance(opened, OSError):
                    self._note(add.key, opened, add.pipeline.transmit)
                else:
                    self._add(add.key, add.pipeline, opened)

    def _open(self, add: Add, busy_places: Collection[Place]) -> list[Pipeline] | OSError:
        way, source = add.pipeline.transmit, add.pipeline.capture
        rings = isinstance(source, CapturePlan) and (source.netns, source.device) in busy_places
        try:
            if isinstance(way, DevicePlan) and way.reserved:
                self._reservations.hold(way.index, way.mark)
            numbering = self._numberings[add.key[:2]]
            return open_pipelines(self._paused(add.key, add.pipeline), numbering, native=self._native, busy=rings)
        except OSError as error:
            return error

    def _note(self, key: Key, error: OSError, way: object) -> None:
        state, reason = "waiting" if error.errno in GONE else "failed", error.strerror or str(error)
        if isinstance(way, TunnelPlan):
            state, reason = _in_words(error.errno, way) or (state, reason)
        if self._errors.get(key) != (state, reason):
            say = log.error if state == "failed" else log.info
            say(f"session {state}", **_names(key), reason=reason)
        with self._lock:
            self._errors[key] = state, reason

    def _add(self, key: Key, plan: PipelinePlan, pipelines: Sequence[Pipeline]) -> None:
        workers: list[Worker] = []
        for _ in pipelines:
            workers.append(self._least_busy(workers))
        self._loads.update(workers)
        with self._lock:
            self._running[key], *self._beside[key] = zip(pipelines, workers, strict=True)
            self._plans[key] = plan
            self._errors.pop(key, None)
        for pipeline, worker in self._of(key):
            worker.add(pipeline)
        log.info("session up", **_names(key), worker=", ".join(_worker_name(self._workers.index(w)) for w in workers))

    def _remove_all(self, reasons: Mapping[Key, str]) -> None:
        """End these, each for its reason, "" for none: all at once, since each has to wait for the kernel."""
        ending = [(pipeline, worker.begin_to_remove(pipeline)) for key in reasons for pipeline, worker in self._of(key)]
        self._loads.subtract(worker for key in reasons for _, worker in self._of(key))
        for pipeline, wait in ending:
            wait()
            _count_left(pipeline)
        for key, reason in reasons.items():
            with self._lock:
                self._past_rules[key], total = self._rule_counts(key), self._total(key)
                del self._running[key], self._beside[key], self._plans[key]
                self._past.pop(key, None)  # to the end of those remembered
                self._past[key] = total
            log.info("session down", **_names(key), **({"reason": reason} if reason else {}))

    def _rename(self, old: Key, new: Key) -> None:
        """What was counted goes along."""
        with self._lock:
            self._running[new], self._beside[new] = self._running.pop(old), self._beside.pop(old)
            self._plans[new] = self._plans.pop(old)
            if verdict := self._verdicts.pop(old, None):
                self._verdicts[new] = verdict
            counted = [total for key in (old, new) if (total := self._past.pop(key, None))]
            if counted:
                self._past[new] = tuple(map(sum, zip(*counted, strict=True)))
            self._past_rules[new] = _sum(self._past_rules.get(new, {}), self._past_rules.pop(old, {}))
            self._entries.pop(old, None)
        if numbering := self._numberings.pop(old[:2], None):
            self._numberings[new[:2]] = numbering
        log.info("session renamed", **_names(new), before=f"{old.mirror}/{old.session}")

    def _forget(self) -> None:
        """Names that never come again, as of containers' devices, would fill the memory."""
        gone = [key for key in self._past if key not in self._entries]
        for key in gone[:-REMEMBERED]:
            del self._past[key]
            self._forgotten_rules = _sum(self._forgotten_rules, self._past_rules.pop(key, {}))

    def _end_failed(self) -> None:
        failed = {key: failure for key in self._running if (failure := self._failure(key))}
        self._remove_all(failed)
        with self._lock:
            self._errors |= {key: ("failed", failure) for key, failure in failed.items()}

    def _keep_reserved(self) -> None:
        """Give back the devices that no running session reserves."""
        ways = [plan.transmit for plan in self._plans.values()]
        self._reservations.keep({way.index for way in ways if isinstance(way, DevicePlan) and way.reserved})

    def _of(self, key: Key) -> list[tuple[Pipeline, Worker]]:
        return [self._running[key], *self._beside[key]]

    def _failure(self, key: Key) -> str:
        for pipeline, _ in self._of(key):
            if pipeline.failure:
                return pipeline.failure
        return ""

    def _trouble(self, key: Key) -> str:
        """Of the way out; "" for none."""
        for pipeline, _ in self._of(key):
            if failure := pipeline.transmit.failure:
                return failure
        return ""

    def _least_busy(self, apart: Sequence[Worker] = ()) -> Worker:
        """An idle worker, a new one while there are processors for it, or else the one with the fewest pipelines.

        None of those in `apart`: another one is made if need be.
        """
        loads = [(self._loads[worker], worker) for worker in self._workers if worker not in apart]
        load, worker = min(loads, key=lambda pair: pair[0], default=(1, None))
        if worker is not None and (load == 0 or len(self._workers) >= len(os.sched_getaffinity(0))):
            return worker
        worker = Worker(_worker_name(len(self._workers)), self._nice)
        worker.start()
        self._workers.append(worker)
        return worker

    def _row(self, entry: Entry) -> Row:
        key = entry.key
        counters = self._past.get(key, NOTHING)
        if key not in self._running:
            if error := self._errors.get(key):
                return Row(entry, *error, counters)
            if entry.pipeline is not None:
                return Row(entry, "waiting", "about to start or to end", counters)
            return Row(entry, entry.state, entry.reason, counters)
        pipeline = self._running[key][0]
        failure = self._failure(key) or self._trouble(key)
        verdict = self._verdicts.get(key, Verdict())
        counters = self._total(key)
        state = "failed" if failure else "paused" if verdict.paused else "up"
        filled = [fill for pipeline, _ in self._of(key) if (fill := pipeline.ring_fill) is not None]
        return Row(
            entry, state, failure or verdict.reason, counters,
            capture=pipeline.captures_by, ring_fill=max(filled, default=None),
        )  # fmt: skip

    def _rules(self, entry: Entry) -> dict[int, int]:
        """What the rules of the session's filter matched, by priority; none where they are not counted."""
        counted = entry.pipeline.count_rules_of if entry.pipeline is not None else dict(entry.about).get("filter")
        if not counted:
            return {}
        return {rule: count for (name, rule), count in self._rule_counts(entry.key).items() if name == counted}

    def _rule_counts(self, key: Key) -> RuleCounts:
        total = self._past_rules.get(key, {})
        for pipeline, _ in self._of(key) if key in self._running else ():
            total = _sum(total, pipeline.rule_counters.snapshot())
        return total

    def _total(self, key: Key) -> tuple[int, ...]:
        """What was counted so far, of a pipeline that runs."""
        if key not in self._past and not self._beside[key]:
            return self._running[key][0].counters.snapshot()
        counted = [pipeline.counters.snapshot() for pipeline, _ in self._of(key)]
        if key in self._past:
            counted.append(self._past[key])
        return counted[0] if len(counted) == 1 else tuple(map(sum, zip(*counted, strict=True)))

    def _log_changes(self, entries: Mapping[Key, Entry]) -> None:
        for key, entry in entries.items():
            before = self._entries.get(key)
            for warning in entry.warnings:
                if before is None or warning not in before.warnings:
                    log.warning(warning, **_names(key))
            if entry.pipeline is None and (before is None or before.reason != entry.reason):
                say = log.error if entry.state == "failed" else log.info
                say(f"session {entry.state}", **_names(key), reason=entry.reason)


def _sum(counts: RuleCounts, more: RuleCounts) -> RuleCounts:
    return counts | {rule: counts.get(rule, 0) + count for rule, count in more.items()}


def _count_left(pipeline: Pipeline) -> None:
    """Count as lost what a pipeline that has ended had captured and not got to. Its worker is done with it."""
    if isinstance(pipeline.capture, Listener):
        pipeline.counters.add(Slot.captured, pipeline.capture.unread)
    pipeline.counters.add(Slot.dropped_ring_full, max(pipeline.counters.unaccounted(), 0))


def _worker_name(n: int) -> str:
    return f"worker-{n}"


def _in_words(error: int | None, way: TunnelPlan) -> tuple[str, str] | None:
    """The state of a session that the kernel let not send to its remote, and why; None where it is something else."""
    match error:
        case errno.ENETUNREACH | errno.EHOSTUNREACH:
            return "waiting", f"no route to {way.remote}"
        case errno.EADDRNOTAVAIL if way.local:
            return "waiting", f"{way.local} is not an address of this host: no copies can be sent from it"
        case errno.EADDRNOTAVAIL:
            return "waiting", f"this host has no address to send to {way.remote} from"
        case errno.EACCES:
            return "failed", f"{way.remote} is a broadcast address, or a route prohibits sending there"
        case _:
            return None


def _names(key: Key) -> dict[str, str]:
    return key._asdict()


def _totals(counters: Sequence[int]) -> dict[str, int]:
    """The counters up to the latency's by name; reasons that counted nothing are left out."""
    return {name: counters[slot] for slot, name, always in _TOTALS if always or counters[slot]}
