"""The pipelines that run, brought to what is planned; what did not change is not touched.

A pipeline that could not be opened, or that failed, is tried again with every plan. A session's totals outlive its
pipelines, see totals.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from mirrord.control.host.device_rate import busy
from mirrord.control.limits import started
from mirrord.control.logs import logger
from mirrord.control.planning.plan import Add, Entry, Key, Limit, Remove, Rename, Replace, diff
from mirrord.control.reporting.metrics import Row
from mirrord.control.running import rows
from mirrord.control.running.breaker import Verdict
from mirrord.control.running.duplicates import Groups
from mirrord.control.running.gains import Gains, SentGains
from mirrord.control.running.governor import Load
from mirrord.control.running.held_devices import HeldDevices
from mirrord.control.running.live import Live
from mirrord.control.running.opening import Opening, close_all, state_after
from mirrord.control.running.record import Running
from mirrord.control.running.recorders import Recorders
from mirrord.control.running.restarts import Restarts
from mirrord.control.running.said import say_planned, say_state, say_total, say_verdict
from mirrord.control.running.streams import Streams
from mirrord.control.running.taps import Taps
from mirrord.control.running.totals import Counts, RuleCounts, Totals, added_rules
from mirrord.control.running.troubles import Troubles
from mirrord.control.running.ways import open_all
from mirrord.control.running.workers import Workers, what
from mirrord.dataplane.budget import Budget
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.forward.own_copies import NO_GUARDS, Guards
from mirrord.dataplane.memory import Memory
from mirrord.dataplane.pipeline import Pipeline
from mirrord.dataplane.rounds import LATENCY_SECONDS
from mirrord.dataplane.transmit.recorder import Recorder
from mirrord.dataplane.worker import Failure, Worker
from mirrord.errors import Refused, of_host
from mirrord.plans import CapturePlan, PipelinePlan

log = logger("pipelines")

OPENERS = 2
"""Threads that open pipelines at a time: they wait for the kernel, mostly. With twice as many 1,000 sessions open no
sooner, and each of them takes its turn of the interpreter's lock before who asks meanwhile."""

GUARD_SECONDS = 0.1
"""How long a new plan waits until all workers know which packets are copies: one may wait for a disk."""


class Pipelines:
    """`apply` and `stop` block, up to a second for each pipeline that ends; the rest answers at once, on any thread."""

    def __init__(
        self,
        *,
        native: bool,
        nice: int = 0,
        latency: float = LATENCY_SECONDS,
        memory: Memory | None = None,
        budget: Budget | None = None,
    ) -> None:
        self._native, self.memory, self.budget = native, memory or Memory(), budget or Budget()
        self._openers = started(OPENERS, "opener")
        self._workers = Workers(nice, latency, self.budget)
        self._taps = Taps(self._workers, self._openers, native=native, memory=self.memory)
        self._devices = HeldDevices()
        self._recorders = Recorders(native=native, memory=self.memory)
        self._groups = Groups(self.memory, native=native)
        self._streams = Streams(self.memory)
        self._opening = Opening(
            self._devices, self._recorders, self._groups, self._streams.ends, native=native, memory=self.memory
        )
        self._restarts = Restarts()
        self._troubles = Troubles()
        self._worker_failures = 0
        self.happened = 0  # grows with each plan, verdict and trouble: what is shown of sessions may be another
        self._lock = threading.Lock()  # of all below: a total moves from a pipeline to the past in one step
        self._planned = rows.Planned()
        self._running: dict[Key, Running] = {}
        self._errors: dict[Key, tuple[str, str]] = {}  # of what should run and does not: its state, and why
        self._verdicts: dict[Key, Verdict] = {}  # of the circuit breaker
        self._totals = Totals()
        self._gains, self._sent_gains = Gains(), SentGains()

    def clean_up(self) -> None:
        """Take away what a daemon that was killed left on the host's devices."""
        self._devices.clean_up()

    # --- what runs ---

    def apply(self, entries: Mapping[Key, Entry], guards: Guards = NO_GUARDS) -> None:
        """Make what runs equal to this plan; what the guards tell is a copy already."""
        self._end_failed()
        wanted = {key: entry.pipeline for key, entry in entries.items() if entry.pipeline is not None}
        with self._lock:
            before = self._planned.entries
            say_planned(before, entries)
            self._planned.show({**before, **entries})  # what ends is shown until it has
            self._errors = {key: error for key, error in self._errors.items() if key in wanted}
        actions = diff({key: one.plan for key, one in self._running.items()}, wanted)
        self._remove_all({action.key: "" for action in actions if isinstance(action, Remove)})
        self._replace_all([action for action in actions if isinstance(action, Replace)])
        self._guard(guards)
        for action in actions:
            if isinstance(action, Rename):
                self._rename(action.old, action.new)
        self._streams.keep(entries)
        self._recorders.plan(entries.keys())
        self._add_all([action for action in actions if isinstance(action, Add) and self._restarts.due(action.key)])
        self._restarts.forget(set(wanted))
        self._devices.keep(one.plan for one in self._running.values())
        with self._lock:
            self._planned.show(entries)
            self._totals.forget(entries)
        self._opening.forget(entries)
        self._groups.forget(wanted)
        self._troubles.plan_anew()
        self.happened += 1

    def _guard(self, guards: Guards) -> None:
        """Before copies leave for a new tunnel, all others know its packets."""
        if guards is not self._opening.guards:
            self._opening.guards = guards
            told, until = [worker.guard(guards) for worker in self._workers.all], time.monotonic() + GUARD_SECONDS
            for one in told:
                one.wait(max(until - time.monotonic(), 0.0))

    def _add_all(self, adds: Sequence[Add]) -> None:
        """Open several at a time: it is waiting for the kernel, mostly."""
        if not adds:
            return
        self._opening.expect(add.key for add in adds)
        sources = [capture for add in adds if isinstance(capture := add.pipeline.capture, CapturePlan)]
        places = busy(sources)
        apart = {add.key: self._restarts.apart(add.key) for add in adds}
        made = open_all(
            self._taps.how_captured(adds, self._running, places, apart),
            self._open,
            openers=self._openers,
            taps=self._taps,
            running=self._running,
            apart=apart,
        )
        there = {key: pipelines for key, pipelines in made.items() if not isinstance(pipelines, Exception)}
        workers = self._taps.place(there, places, apart)
        for add in adds:
            pipelines = made[add.key]
            placed: Exception | list[Worker] = pipelines if isinstance(pipelines, Exception) else workers[add.key]
            if isinstance(placed, Exception):
                close_all([] if isinstance(pipelines, Exception) else pipelines)
                self._note(add.key, placed, add.pipeline.transmit)
            elif not isinstance(pipelines, Exception):
                self._add(add.key, Running(add.pipeline, list(zip(pipelines, placed, strict=True))))

    def _open(self, add: Add, leaders: Sequence[Pipeline]) -> list[Pipeline] | Exception:
        return self._opening.open(add.key, self._judged(add.key, add.pipeline), leaders)

    def _add(self, key: Key, runs: Running) -> None:
        with self._lock:
            self._running[key] = runs
            self._errors.pop(key, None)
        if self._planned.entries[key].state != "waiting":  # of which its reason is told
            log.info("session up", **key._asdict(), worker=", ".join(worker.name for _, worker in runs.placed))

    def _note(self, key: Key, error: Exception, way: object) -> None:
        told = state_after(error, way, self._planned.entries[key].trouble)
        if self._errors.get(key) != told:
            say_state(key, *told, unforeseen=error if of_host(error) is None else None)
        with self._lock:
            self._errors[key] = told

    def _replace_all(self, replaced: Sequence[Replace]) -> None:
        plans = {}
        for action in replaced:
            key, plan = action.key, action.pipeline
            runs = self._running[key]
            self._recorders.of(key, plan)
            plans[key] = self._judged(key, plan)
            log.info("session changed", **key._asdict(), frame_limit=plan.forward.frame_limit)
            runs.plan = plan
        self._have_followed(plans)

    def _have_followed(self, plans: Mapping[Key, PipelinePlan]) -> None:
        """Have each worker told once."""
        told: dict[Worker, dict[Pipeline, PipelinePlan]] = {}
        for key, plan in plans.items():
            for pipeline, worker in self._running[key].placed:
                told.setdefault(worker, {})[pipeline] = plan
        for worker, followed in told.items():
            worker.replace(followed)

    def _rename(self, old: Key, new: Key) -> None:
        """What was counted goes along."""
        with self._lock:
            self._running[new] = self._running.pop(old)
            if verdict := self._verdicts.pop(old, None):
                self._verdicts[new] = verdict
            self._totals.rename(old, new)
            self._planned.entries.pop(old, None)
        self._opening.rename(old, new)
        self._groups.rename(old, new)
        self._recorders.rename(old, new)
        log.info("session renamed", **new._asdict(), before=f"{old.mirror}/{old.session}")

    def _end_failed(self) -> None:
        ended: dict[Key, tuple[str, str]] = {}
        for key, one in self._running.items():
            if failure := one.failure:
                ended[key] = "failed", failure
            elif gone := one.gone:
                ended[key] = "waiting", gone
        self._remove_all({key: reason for key, (_, reason) in ended.items()})
        with self._lock:
            self._errors |= ended

    def _remove_all(self, reasons: Mapping[Key, str]) -> None:
        """End these, each for its reason, "" for none: all at once, since each has to wait for the kernel."""
        self._taps.remove({key: self._running[key].placed for key in reasons})
        for key, reason in reasons.items():
            with self._lock:
                ended = self._running.pop(key)
                self._totals.add(key, ended.counters(), ended.rule_counts(), ended.sent())
            log.info("session down", **key._asdict(), **({"reason": reason} if reason else {}))

    def stop(self) -> None:
        """End every pipeline, nothing lost on the way out, log the totals and stop the workers."""
        self._remove_all(dict.fromkeys(self._running, ""))
        self._devices.close()
        self._streams.close()
        for row in self.rows():
            say_total(row.entry.key, row.counters)
        self._workers.stop()
        self._openers.shutdown()

    # --- the circuit breaker ---

    def limits(self) -> dict[Key, Limit]:
        """The circuit breaker's limits of what runs."""
        with self._lock:
            return {key: limit for key, limit in self._planned.limits.items() if key in self._running}

    def load(self) -> Load:
        """What the governor judges by."""
        with self._lock:
            running = dict(self._running)
            wanted = {
                key: self._totals.of(key, one.counters())[Slot.captured] + one.waiting for key, one in running.items()
            }
        thins = frozenset(key for key, one in running.items() if one.plan.forward.overload)
        return Load(self._taps.read(), self._taps.left_out() + self._taps.waiting(), wanted, thins)

    def judge(self, verdicts: Mapping[Key, Verdict]) -> None:
        """Have sessions pause or mirror less, as circuit breaker and governor say. Not while plans are applied."""
        with self._lock:
            before, self._verdicts = self._verdicts, dict(verdicts)
        plans = {}
        for key in self._running.keys() & (before.keys() | verdicts.keys()):
            was, now = before.get(key, Verdict()), verdicts.get(key, Verdict())
            if was.reason != now.reason:
                say_verdict(key, now)
                self.happened += 1
            if (was.paused, was.level) != (now.paused, now.level):
                plans[key] = self._judged(key, self._running[key].plan)
        self._have_followed(plans)

    def _judged(self, key: Key, plan: PipelinePlan) -> PipelinePlan:
        """The plan as these have it: paused, or with fewer conversations."""
        verdict = self._verdicts.get(key, Verdict())
        if verdict.level:
            plan = replace(plan, forward=replace(plan.forward, least_level=verdict.level))
        if not verdict.paused or plan.forward.blocked is not None:  # copies that cannot leave are lost, paused or not
            return plan
        return replace(plan, forward=replace(plan.forward, blocked=Slot.skipped_paused))

    # --- how it does ---

    def rows(self, *names: str) -> list[Row]:
        """Every planned session and source, in the plan's order; those of a mirror, or of a mirror's session."""
        with self._lock:
            return [self._row(entry) for entry in self._planned.of(*names)]

    def _row(self, entry: Entry) -> Row:
        key = entry.key
        verdict = self._verdicts.get(key, Verdict())
        return rows.row(entry, self._running.get(key), self._errors.get(key), verdict, self._totals)

    def entries(self) -> dict[Key, Entry]:
        """What is planned of every session and source, in the plan's order."""
        with self._lock:
            return dict(self._planned.entries)

    def mirrors(self) -> list[str]:
        """The names of the planned sessions' mirrors."""
        with self._lock:
            return self._planned.mirrors()

    def gains(self) -> dict[Key, Counts]:
        """What each planned session and source has counted since this was last asked, where that is anything."""
        with self._lock:
            return self._gains.look(self._planned.entries, self._running, self._totals)

    def sent_gains(self) -> dict[Key, dict[str, int]]:
        """Bytes sent to each collector since this was last asked, of those that run and have several."""
        with self._lock:
            several = {key: runs for key in self._planned.spread if (runs := self._running.get(key)) is not None}
            return self._sent_gains.look(several, self._totals)

    def ring_fills(self, keys: Iterable[Key]) -> dict[Key, float]:
        """How full the rings of some have been of late; of those that run and have one."""
        with self._lock:
            sources = {key: runs.sources for key in keys if (runs := self._running.get(key)) is not None}
        each = {source: source.ring_fill for source in set(chain.from_iterable(sources.values()))}
        fills = {key: [fill for one in its if (fill := each[one]) is not None] for key, its in sources.items()}
        return {key: max(found) for key, found in fills.items() if found}

    def states(self) -> dict[Key, tuple[str, str]]:
        """The state of every planned session and source, and why it is so: as `rows` has them, for less."""
        unjudged = Verdict()
        with self._lock:
            run, errors, verdicts = self._running, self._errors, self._verdicts
            return {
                key: rows.state(entry, run.get(key), errors.get(key), verdicts.get(key, unjudged))
                for key, entry in self._planned.entries.items()
            }

    def rule_counts(self) -> RuleCounts:
        """The frames that each counted rule matched, of every session there is or was: a sum that only grows."""
        with self._lock:
            running = [counts for one in self._running.values() for counts in one.rule_counts()]
            return added_rules([*self._totals.all_rules(), *running])

    def lost(self) -> dict[str, int]:
        """Frames that sources' rings had no room for, by source: each once, whoever it was for."""
        return self._taps.lost()

    def live(self, key: Key) -> Live:
        """A live look at what this session mirrors. MirrordError when it does not run; OSError. Blocks."""
        with self._lock:
            runs = self._running.get(key)
        if runs is None:
            _, reason = self.states().get(key, ("", ""))
            why = f": {reason}" if reason else ""
            raise Refused(f"session {key.session} does not run on {key.source}{why}")
        return Live(
            key, runs.plan, native=self._native, memory=self.memory, budget=self.budget, guards=self._opening.guards
        )

    def recorders(self, mirror: str, session: str) -> dict[str, Recorder]:
        """By source, what keeps the last frames of a session."""
        return self._recorders.find(mirror, session)

    def failing(self) -> bool:
        """Whether something that should run does not."""
        with self._lock:
            return bool(self._errors) or any(one.failure for runs in self._running.values() for one, _ in runs.placed)

    def balance(self) -> None:
        """See whether sources had better be captured, or read, otherwise. To be asked each second, not while plans are
        applied.
        """
        if moved := self._taps.balance():
            with self._lock:
                for runs in self._running.values():
                    runs.placed = [(pipeline, moved.get(pipeline, worker)) for pipeline, worker in runs.placed]

    def log_troubles(self) -> None:
        """Log what has changed by itself: which sessions' copies have nowhere to go, and what they cannot have.

        To be asked after `gains`, each second.
        """
        stalled = bool(self._workers.stalled())
        with self._lock:
            now = self._troubles.look(self._running, self._planned.entries, self._gains.lately, stalled=stalled)
        if self._troubles.say(now):
            self.happened += 1

    def told(self) -> bool:
        """Whether a router has had something to say about copies, or clients came or went, since it was last asked.

        To be asked after `gains`.
        """
        moved = self._streams.moved()
        with self._lock:
            running = [one for key in self._gains.lately if (one := self._running.get(key)) is not None]
        told = [one.told() for one in running]  # each is to be asked
        return moved or any(told)

    # --- the workers ---

    def stands_still(self, seconds: float) -> bool:
        """Whether a worker that sessions share made no progress for so long."""
        return self._workers.stands_still(seconds)

    def stalled(self) -> list[str]:
        """The workers that make no progress, by name."""
        return self._workers.stalled()

    def left_out(self) -> int:
        """Frames that there was no room for while workers rested, of the sources that there are."""
        return self._taps.left_out()

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
            placed = [(key, *one) for key, runs in self._running.items() for one in runs.placed]
        hit = [(key, one) for key, one, on in placed if on is worker and failure.pipeline in (None, one)]
        for key, pipeline in hit:
            self._restarts.note(key, worker)
            if failure.pipeline is None:
                pipeline.failure = f"its worker ended: {reason}"
        event = "an error ended a session's work" if failure.pipeline else "an error ended a worker"
        sessions = [f"{key.mirror}/{key.session} on {key.source}" for key, _ in hit]
        log.error(event, worker=worker.name, sessions=sessions, reason=reason, exc_info=failure.error)
