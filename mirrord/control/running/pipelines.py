"""The pipelines that run, the workers that run them, and what each session counted since the daemon's start.

`apply` brings what runs to what is planned; what did not change is not touched. A pipeline that could not be opened, or
that failed, is tried again with every plan. A session's totals outlive its pipelines: they never go backwards when a
device is re-created or a session changes.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from mirrord.control.host.device_rate import busy
from mirrord.control.host.isolate import Isolations
from mirrord.control.host.reserve import Reservations
from mirrord.control.limits import started
from mirrord.control.logs import logger
from mirrord.control.planning.plan import Add, Entry, Key, Limit, Remove, Rename, Replace, diff
from mirrord.control.reporting.metrics import Row
from mirrord.control.reporting.report import Counted
from mirrord.control.running.breaker import Verdict
from mirrord.control.running.live import Live
from mirrord.control.running.patience import Patience
from mirrord.control.running.restarts import Restarts
from mirrord.control.running.taps import Taps
from mirrord.control.running.workers import Workers, stall, what
from mirrord.dataplane.counters import SLOTS, Slot
from mirrord.dataplane.forward.step import Numbering
from mirrord.dataplane.memory import Memory
from mirrord.dataplane.pipeline import Pipeline, open_pipelines
from mirrord.dataplane.rounds import LATENCY_SECONDS
from mirrord.dataplane.worker import Failure, Worker
from mirrord.errors import Refused
from mirrord.errors import reason as reason_of
from mirrord.plans import CapturePlan, DevicePlan, FilePlan, PipelinePlan, TunnelPlan

log = logger("pipelines")

GONE = {errno.ENODEV, errno.ENXIO, errno.ENETDOWN}
"""What it takes to open a device that went since the host was looked at: there is news of it already."""

OPENERS = 8

OPEN_SECONDS = 1.5
"""How long the disk may take to give a session its file; the session is tried again later."""

REMEMBERED = 1000
"""Of how many devices that a pattern brought in and that are gone the totals are kept, should they come again."""
_TOTALS = [
    (int(slot), slot.name, not slot.name.startswith(("skipped_", "dropped_")))
    for slot in Slot
    if slot < Slot.latency_sum
]
"""What the log tells of a session at its end: the slot, its name, and whether also when it is zero."""

NO_TABLE = "no memory for its table of flows (daemon.memory_limit): every flow is mirrored whole"

NOTHING = (0,) * SLOTS
_MIRRORED, _SENT_BYTES, _TOO_LARGE = int(Slot.mirrored), int(Slot.sent_bytes), int(Slot.dropped_mtu_exceeded)

RuleCounts = dict[tuple[str, int], int]
"""Frames by a rule's filter and priority."""


class Pipelines:
    """`apply` and `stop` block, up to a second for each pipeline that ends; the rest answers at once, on any thread."""

    def __init__(
        self, *, native: bool, nice: int = 0, latency: float = LATENCY_SECONDS, memory: Memory | None = None
    ) -> None:
        self._native, self._memory = native, memory or Memory()
        self._openers = started(OPENERS, "opener")
        self._workers = Workers(nice, latency)
        self._restarts = Restarts()
        self._patience = Patience()
        self._worker_failures = 0
        self._reservations = Reservations()
        self._taps = Taps(self._workers, self._openers, native=native)
        self._isolations = Isolations()
        self._not_isolated: dict[int, str] = {}  # by index, as logged: what became a bridge's port and stays one
        self._lock = threading.Lock()  # of all below: a total moves from a pipeline to the past in one step
        self._entries: dict[Key, Entry] = {}
        self._by_name: dict[tuple[str, ...], list[Key]] = {}  # by mirror; by mirror and session
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
        self._short_rings: dict[Key, str] = {}  # as logged
        self._short_tables: set[Key] = set()  # the same
        self._sent: tuple[dict[Pipeline, int], dict[Pipeline, int]] = {}, {}  # copies, when `told` was last asked
        self._refused: set[Key] = set()  # as logged: what the kernel refused GSO to

    def clean_up(self) -> None:
        """Take away what a daemon that was killed left on the host's devices."""
        try:
            for device in self._reservations.take_away_leftovers():
                log.warning("a killed daemon had left a device reserved: given back", index=device)
        except OSError as error:
            log.warning("cannot look for devices that a killed daemon left reserved", reason=error.strerror)
        try:
            for told in self._isolations.take_back_leftovers():
                log.warning(told)
        except OSError as error:
            log.warning("cannot look for devices that a killed daemon took off bridges", reason=error.strerror)

    def apply(self, entries: Mapping[Key, Entry]) -> None:
        """Make what runs equal to this plan."""
        self._end_failed()
        wanted = {key: entry.pipeline for key, entry in entries.items() if entry.pipeline is not None}
        with self._lock:
            self._log_changes(entries)
            self._show({**self._entries, **entries})  # what ends is shown until it has
            self._errors = {key: error for key, error in self._errors.items() if key in wanted}
        actions = diff(dict(self._plans), wanted)
        self._remove_all({action.key: "" for action in actions if isinstance(action, Remove)})
        for action in actions:
            match action:
                case Replace(key, plan):
                    for pipeline, worker in self._of(key):
                        worker.replace(pipeline, self._paused(key, plan))
                    if _beside_guards(self._plans[key], plan) != plan:
                        log.info("session changed", **_names(key), frame_limit=plan.forward.frame_limit)
                    self._plans[key] = plan
                case Rename(old, new):
                    self._rename(old, new)
        self._add_all([action for action in actions if isinstance(action, Add) and self._restarts.due(action.key)])
        self._restarts.forget(set(wanted))
        self._keep_reserved()
        with self._lock:
            self._show(entries)
            self._forget()
        sessions = {key[:2] for key in entries}
        self._numberings = {name: one for name, one in self._numberings.items() if name in sessions}

    def _show(self, entries: Mapping[Key, Entry]) -> None:
        """Have these be what is told of."""
        self._entries, self._by_name = dict(entries), {}
        for key in entries:
            for names in (key[:1], key[:2]):
                self._by_name.setdefault(names, []).append(key)

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
        if not paused or plan.forward.blocked is not None:  # copies that cannot leave are lost, paused or not
            return plan
        return replace(plan, forward=replace(plan.forward, blocked=Slot.skipped_paused))

    def rows(self, *names: str) -> list[Row]:
        """Every planned session and source, in the plan's order; those of a mirror, or of a mirror's session."""
        with self._lock:
            keys = self._by_name.get(names, ()) if names else self._entries
            entries = [self._entries[key] for key in keys if key in self._entries]
            rows = [(self._row(entry), self._rules(entry)) for entry in entries]
            return [replace(row, rules=rules) if rules else row for row, rules in rows]

    def mirrors(self) -> list[str]:
        """The names of the planned sessions' mirrors."""
        with self._lock:
            return list(dict.fromkeys(key.mirror for key in self._entries))

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
        return Live(key, plan, native=self._native, memory=self._memory)

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
            rings = {
                key: source.short_ring for key, row in self._running.items() if (source := row[0].source) is not None
            }
            short = {key for key, pipeline in running if pipeline.tables.short}
        for key in short - self._short_tables:
            log.warning(NO_TABLE, **_names(key))
        self._short_tables = short
        for key in refused - self._refused:
            log.warning("the kernel refuses UDP GSO: copies leave one by one", **_names(key))
        self._refused = refused
        for key, ring in rings.items():
            if ring and ring != self._short_rings.get(key):
                log.warning("there is no memory for the ring, a smaller one runs", **_names(key), ring=ring)
        self._short_rings = rings
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

    def stands_still(self, seconds: float) -> bool:
        """Whether a worker that sessions share made no progress for so long."""
        return self._workers.stands_still(seconds)

    def stalled(self) -> list[str]:
        """The workers that make no progress, by name."""
        return self._workers.stalled()

    def worker_failures(self) -> int:
        """How many errors have ended a session's work, or a worker, since the daemon's start."""
        return self._worker_failures

    def tend_workers(self) -> bool:
        """Log what went wrong with workers since this was last asked; whether there are sessions to begin anew."""
        self._workers.log_stalled()
        failures = self._workers.failures()
        for worker, failure in failures:
            self._note_failure(worker, failure)
        return bool(failures)

    def _note_failure(self, worker: Worker, failure: Failure) -> None:
        self._worker_failures += 1
        reason = what(failure.error)
        with self._lock:
            running = [(key, pipeline) for key in self._running for pipeline, on in self._of(key) if on is worker]
        hit = [(key, pipeline) for key, pipeline in running if failure.pipeline in (None, pipeline)]
        for key, pipeline in hit:
            self._restarts.note(key, worker)
            if failure.pipeline is None:
                pipeline.failure = f"its worker ended: {reason}"
        event = "an error ended a session's work" if failure.pipeline else "an error ended a worker"
        sessions = [f"{key.mirror}/{key.session} on {key.source}" for key, _ in hit]
        log.error(event, worker=worker.name, sessions=sessions, reason=reason, exc_info=failure.error)

    def lost(self) -> dict[str, int]:
        """Frames that sources' rings had no room for, by source: each once, whoever it was for."""
        return self._taps.lost()

    def stop(self) -> None:
        """End every pipeline, nothing lost on the way out, log the totals and stop the workers."""
        self._remove_all(dict.fromkeys(self._running, ""))
        self._reservations.close()
        for told in self._isolations.close():
            log.warning(told)
        for row in self.rows():
            log.info("total", **_names(row.entry.key), **_totals(row.counters))
        self._workers.stop()
        self._openers.shutdown()

    def _add_all(self, adds: Sequence[Add]) -> None:
        """Open several at a time: it is waiting for the kernel, mostly."""
        if not adds:
            return
        for add in adds:
            self._numberings.setdefault(add.key[:2], Numbering())
        sources = [capture for add in adds if isinstance(capture := add.pipeline.capture, CapturePlan)]
        places = busy(sources)
        made = dict(zip((add.key for add in adds), self._openers.map(self._open, adds), strict=True))
        opened = {key: pipelines for key, pipelines in made.items() if not isinstance(pipelines, OSError)}
        apart = {key: self._restarts.apart(key) for key in opened}
        workers = self._taps.place(opened, places, apart)
        for add in adds:
            pipelines = made[add.key]
            placed: OSError | list[Worker] = pipelines if isinstance(pipelines, OSError) else workers[add.key]
            if isinstance(placed, OSError):
                _close([] if isinstance(pipelines, OSError) else pipelines)
                self._note(add.key, placed, add.pipeline.transmit)
            elif not isinstance(pipelines, OSError):
                self._add(add.key, add.pipeline, list(zip(pipelines, placed, strict=True)))

    def _open(self, add: Add) -> list[Pipeline] | OSError:
        way = add.pipeline.transmit
        try:
            if isinstance(way, DevicePlan) and way.reserved:
                self._reservations.hold(way.index, way.mark)
            if isinstance(way, DevicePlan) and way.isolated:
                self._isolations.hold(way.index)
            numbering = self._numberings[add.key[:2]]
            plan = self._paused(add.key, add.pipeline)
            opening = partial(open_pipelines, plan, numbering, native=self._native, memory=self._memory)
            if not isinstance(way, FilePlan):
                return opening()
            try:
                return self._patience.within(OPEN_SECONDS, add.key, opening, _close)
            except TimeoutError:
                return OSError(errno.ETIMEDOUT, f"{way.path}: the disk does not answer")
        except OSError as error:
            return error
        except RuntimeError as error:
            return OSError(errno.EAGAIN, f"no thread for it: {error}")

    def _note(self, key: Key, error: OSError, way: object) -> None:
        state, reason = "waiting" if error.errno in GONE else "failed", reason_of(error)
        if isinstance(way, TunnelPlan):
            state, reason = _in_words(error.errno, way) or (state, reason)
            if error.errno in (errno.EACCES, errno.EINVAL):  # what routes answer that lead nowhere
                reason = self._entries[key].trouble or reason
        if self._errors.get(key) != (state, reason):
            say = log.error if state == "failed" else log.info
            say(f"session {state}", **_names(key), reason=reason)
        with self._lock:
            self._errors[key] = state, reason

    def _add(self, key: Key, plan: PipelinePlan, pipelines: Sequence[tuple[Pipeline, Worker]]) -> None:
        with self._lock:
            self._running[key], *self._beside[key] = pipelines
            self._plans[key] = plan
            self._errors.pop(key, None)
        log.info("session up", **_names(key), worker=", ".join(worker.name for _, worker in pipelines))

    def _remove_all(self, reasons: Mapping[Key, str]) -> None:
        """End these, each for its reason, "" for none: all at once, since each has to wait for the kernel."""
        self._taps.remove({key: self._of(key) for key in reasons})
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
        """Give back the devices that no running session reserves or isolates, and isolate what became a port since."""
        ways = [plan.transmit for plan in self._plans.values() if isinstance(plan.transmit, DevicePlan)]
        self._reservations.keep({way.index for way in ways if way.reserved})
        isolated = {way.index: way.device for way in ways if way.isolated}
        for told in self._isolations.keep(isolated):
            log.warning(told)
        before, self._not_isolated = self._not_isolated, {}
        for index, device in isolated.items():
            try:
                self._isolations.hold(index)
            except OSError as error:
                reason = error.strerror or str(error)
                self._not_isolated[index] = reason
                if error.errno not in GONE and before.get(index) != reason:
                    log.warning("cannot be taken off its bridge", device=device, reason=reason)

    def _of(self, key: Key) -> list[tuple[Pipeline, Worker]]:
        return [self._running[key], *self._beside[key]]

    def _failure(self, key: Key) -> str:
        for pipeline, _ in self._of(key):
            if pipeline.failure:
                return pipeline.failure
        return ""

    def _trouble(self, key: Key) -> str:
        """Of the way out; "" for none."""
        for pipeline, worker in self._of(key):
            if failure := pipeline.transmit.failure or stall(pipeline, worker):
                return failure
        entry = self._entries.get(key)
        return entry.trouble if entry else ""

    def _resumes(self, key: Key) -> str:
        """That copies are about to be made again: a worker has not heard of it yet, and still counts frames as lost."""
        blocked = {pipeline.plan.forward.blocked for pipeline, _ in self._of(key)}
        return "about to go on" if blocked - {None, Slot.skipped_paused} else ""

    def _row(self, entry: Entry) -> Row:
        key = entry.key
        counters = self._past.get(key, NOTHING)
        if key not in self._running:
            if error := self._errors.get(key):
                return Row(entry, *error, counters)
            if entry.pipeline is not None:
                return Row(entry, "waiting", "about to start or to end", counters)
            return Row(entry, entry.state, entry.reason, counters)
        failure = self._failure(key) or self._trouble(key) or self._resumes(key)
        verdict = self._verdicts.get(key, Verdict())
        counters = self._total(key)
        state = "failed" if failure else "paused" if verdict.paused else "up"
        sources = [pipeline.source for pipeline, _ in self._of(key) if pipeline.source is not None]
        filled = [fill for source in sources if (fill := source.ring_fill) is not None]
        return Row(
            entry, state, failure or verdict.reason, counters,
            capture=sources[0].captures_by if sources else "", ring_fill=max(filled, default=None),
            flows=self._flows(key),
            remarks=(NO_TABLE,) if any(pipeline.tables.short for pipeline, _ in self._of(key)) else (),
        )  # fmt: skip

    def _flows(self, key: Key) -> int | None:
        """How many flows are known; None where none is limited."""
        limited = self._plans[key].forward.flow_limit is not None
        return sum(pipeline.flows for pipeline, _ in self._of(key)) if limited else None

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
            for warning in (*entry.warnings, *entry.notes):
                if before is None or warning not in (*before.warnings, *before.notes):
                    log.warning(warning, **_names(key))
            if entry.pipeline is None and (before is None or before.reason != entry.reason):
                say = log.error if entry.state == "failed" else log.info
                say(f"session {entry.state}", **_names(key), reason=entry.reason)


def _sum(counts: RuleCounts, more: RuleCounts) -> RuleCounts:
    return counts | {rule: counts.get(rule, 0) + count for rule, count in more.items()}


def _beside_guards(before: PipelinePlan, after: PipelinePlan) -> PipelinePlan:
    """The plan before, with the guards of the other: they tell of other sessions, and change with any of these."""
    return replace(before, forward=replace(before.forward, guards=after.forward.guards))


def _close(pipelines: Sequence[Pipeline]) -> None:
    for pipeline in pipelines:
        pipeline.close()


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
