"""What the daemon holds together: a configuration, the host, and the pipelines that follow from the two.

Every cause of change (start, reload, a device that comes or goes, a pipeline that failed) takes the same road:
read the host, make the plan, apply the difference. One at a time; causes that come meanwhile share the next turn.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from mirrord.control import logs
from mirrord.control.configuration import config
from mirrord.control.configuration.config import Loaded
from mirrord.control.host import clock, device_rate
from mirrord.control.host.links import Links
from mirrord.control.host.view import Lease, View
from mirrord.control.joint import Joint
from mirrord.control.limits import Lasting, give_back, started
from mirrord.control.logs import logger
from mirrord.control.net import Net
from mirrord.control.notify import notify, reloading, watchdog_seconds
from mirrord.control.planning import plan
from mirrord.control.planning.finding import Finding
from mirrord.control.planning.guests import Resolved
from mirrord.control.planning.in_force import InForce, over
from mirrord.control.planning.tunnels import Tunnels
from mirrord.control.privileges import Privileges
from mirrord.control.reporting import probes, report
from mirrord.control.reporting.examined import Examined
from mirrord.control.reporting.history import History
from mirrord.control.reporting.metrics import Reload, Row, WorkerState
from mirrord.control.reporting.sources import ShownSource, sources
from mirrord.control.running.breaker import Breaker
from mirrord.control.running.governor import Governor, joined
from mirrord.control.running.live import Live
from mirrord.control.running.pipelines import Pipelines
from mirrord.control.running.recorded import Recorded
from mirrord.control.surroundings import Surroundings
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.netns import own_name
from mirrord.errors import ConfigError, Refused, internal, of_host
from mirrord.expiry import Now
from mirrord.model.validation import find_session, not_found, session_path

log = logger("service")
T = TypeVar("T")

TICK_SECONDS = 1.0
RETRY_SECONDS = 5.0
GIVE_BACK_SECONDS = 10.0
"""How soon the memory is given back that a change took while it was made."""

REREAD_SECONDS = 60.0
"""How often all of the host is read though nothing was heard of it: the kernel does not tell of everything, not of a
queueing discipline nor when a learnt path MTU ends."""

TURN_SECONDS = 0.02, 0.1
"""The least and the longest time from one turn to the next in a storm of events; in between, three times what it takes
to look and to plan, for a third of a processor."""

TOGETHER_SECONDS = 0.002
"""How long a turn waits for what comes together, as a device that is made and then set up."""

AHEAD_SECONDS = 0.2
"""How much of the time between turns may be saved up while nothing happens: no turn of a short burst has to wait."""

AT_ONCE_SECONDS = 0.03
"""How long guests' managers are waited for where somebody waits at a keyboard."""

AT_START = ("socket", "socket_group", "read_only_socket", "read_only_group", "metrics", "state", "dataplane", "nice")
"""Keys of [daemon] that are read at start only."""


class Service:
    """The daemon without its server. Call `start`, then keep `follow` and `tick` running until `stop`."""

    def __init__(
        self,
        path: str,
        loaded: Loaded,
        links: Links,
        pipelines: Pipelines,
        dataplane: str,
        privileges: Privileges,
    ) -> None:
        self._privileges = privileges
        self.path, self.loaded, self.dataplane = path, loaded, dataplane
        self._begun = {key: getattr(loaded.config.daemon, key) for key in AT_START}
        self.last_reload = Reload(succeeded_at=time.time())
        self._pipelines = pipelines
        self.started_at, self.netns = time.time(), own_name()
        self.changing = asyncio.Lock()
        """Whoever changes the configuration holds it, from reading the old one to running the new one."""
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self._surroundings = Surroundings(links, loaded.config, self._changed.set)
        self._breaker, self._governor = Breaker(), Governor(pipelines.budget)
        self.rates: report.Rates = {}
        self.remote_rates: report.RemoteRates = {}
        self.history = History()
        self.watchers: set[Callable[[], None]] = set()
        """Told once a second, when all have been looked at."""
        self._used = self.cores_used = 0.0
        self._examined = Joint(self._examine)
        self._sources = Joint(partial(self._look_for_sources, at_once=False))
        self._sources_at_once = Joint(partial(self._look_for_sources, at_once=True))
        self._turns = Net("cannot follow the host: tried again")
        self._looks = Net("cannot look at what runs: tried again")
        self._planner, self._tunnels, self._lasting = plan.Planner(), Tunnels(), Lasting()
        self._ticker = started(1, "ticker")
        self._in_force = InForce()
        self._ended: frozenset[str] = frozenset()  # the mirrors that the last turn left out
        self.with_lent: Callable[[Loaded], Loaded] = _as_it_is
        """Adds what a cluster wants of this host to files that were read again."""

    async def start(self) -> None:
        """Bring up what the configuration asks for and the host allows."""
        await asyncio.to_thread(self._pipelines.clean_up)
        await self._surroundings.start()
        await self._refresh(self.loaded)

    @property
    def leases(self) -> Mapping[str, Lease]:
        """What each flow network that is in use has taken, by name."""
        return self._surroundings.leases

    async def follow(self) -> None:
        """Follow the host's changes, those of a burst together."""
        least, longest = TURN_SECONDS
        due = 0.0
        while True:
            await self._changed.wait()
            await asyncio.sleep(TOGETHER_SECONDS)
            self._changed.clear()
            due = max(due, time.monotonic())
            spent = await self._try_again()
            due += min(max(3 * spent, least), longest)
            await asyncio.sleep(due - AHEAD_SECONDS - time.monotonic())

    async def _try_again(self) -> float:
        """A turn; where something keeps it from its end, there is another one soon."""
        with self._turns:
            return await self._refresh()
        return 0.0

    async def tick(self) -> None:
        """Work out rates, look for what nobody tells of, and feed the watchdog while every worker makes progress."""
        with self._looks:
            await self._on_ticker(self._pipelines.gains)
        looked = time.monotonic()
        retried = reread = gave_back = looked
        happened = -1  # the start takes some, too
        patience = watchdog_seconds() / 2
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            with self._looks:
                before, looked = looked, now
                await self._look(now, now - before)
            if now - reread >= REREAD_SECONDS:
                reread = now
                self._surroundings.doubt()
                self._changed.set()
            if now - gave_back >= GIVE_BACK_SECONDS and self.happened != happened:
                gave_back, happened = now, self.happened
                await self._on_ticker(give_back)
            due = now - retried >= RETRY_SECONDS
            if due and (self._turns.caught or await self._on_ticker(self._pipelines.failing)):
                retried = now
                self._changed.set()
            if patience and not self._pipelines.stands_still(patience):
                notify("WATCHDOG=1")

    async def _look(self, now: float, seconds: float) -> None:
        """At what runs, since so many seconds."""
        if await self._on_ticker(partial(self._look_at_pipelines, seconds)):
            self._changed.set()
        await self._break(now)
        for tell in tuple(self.watchers):
            tell()
        if self._surroundings.moved():
            self._changed.set()

    async def _break(self, now: float) -> None:
        """Pause what copies onto a link that is too busy, or takes too much of the processors. Not while pipelines
        change: they are looked at later.
        """
        if self._turn.locked():
            return
        async with self._turn:
            verdicts = await self._breaker.look(await self._on_ticker(self._pipelines.limits), now)
            load = await self._on_ticker(self._pipelines.load) if self._pipelines.budget.limit else None
            verdicts = joined(verdicts, self._governor.look(load, now))
            await self._on_ticker(partial(self._pipelines.judge, verdicts))
            await self._on_ticker(self._pipelines.balance)

    def _look_at_pipelines(self, seconds: float) -> bool:
        """Whether there is news: of a path MTU, of a worker."""
        gains = self._pipelines.gains()
        failed = self._pipelines.tend_workers()
        self._pipelines.log_troubles()
        self.rates = report.rates(gains, seconds)
        self.remote_rates = report.remote_rates(self._pipelines.sent_gains(), seconds)
        self.history.look(seconds, gains, self._pipelines.ring_fills(gains))
        self._used, used = self._pipelines.budget.used, self._used
        self.cores_used = (self._used - used) / seconds
        too_large = any(gain[Slot.dropped_mtu_exceeded] for gain in gains.values())
        told = self._pipelines.told() or too_large
        return told or failed

    async def _on_ticker(self, work: Callable[[], T]) -> T:
        """Work that is short, but not for thousands of sessions. No request, and no slow disk, is before it."""
        return await asyncio.get_running_loop().run_in_executor(self._ticker, work)

    def mind_the_time(self, now: Now) -> None:
        """Take a turn when the time of a mirror has come, or was put off."""
        if over(self.loaded.config, now) != self._ended:
            self._changed.set()

    async def reload(self) -> None:
        """Take over the configuration files as they are now. ConfigError, with every problem: the old one stays."""
        async with self.changing:
            reloading()
            try:
                await self._reload()
            finally:
                notify("READY=1")

    def as_files_are(self) -> Loaded:
        """The configuration files as they are now, with what was made at run time. ConfigError."""
        try:
            files = config.read(self.path)
            new = self.with_lent(config.restore(files, self.loaded.made, self.loaded.set_aside, self.loaded))
            self._refuse_lacking(new)
            return new  # noqa: TRY300 (both are what may be refused)
        except ConfigError as error:
            located = [one if one.file else one._replace(file="made at run time") for one in error.problems]
            raise ConfigError(located, error.code) from None

    async def _reload(self) -> None:
        try:
            new = await asyncio.to_thread(self.as_files_are)
        except ConfigError as error:
            self.last_reload.successful, self.last_reload.problems = False, [str(problem) for problem in error.problems]
            for problem in self.last_reload.problems:
                log.error("reload refused", problem=problem)  # noqa: TRY400 (the file's fault, no traceback)
            raise
        for key, value in self._begun.items():
            if getattr(new.config.daemon, key) != value:
                log.warning("takes effect at the next start", key=f"daemon.{key}")
        logs.level(new.config.daemon.log_level)
        self._pipelines.budget.limit = new.config.daemon.cpu_limit / 100
        self._pipelines.memory.limit = new.config.daemon.memory_limit
        try:
            await self._refresh(new)
        except Exception as error:
            host = of_host(error)
            reason = internal(error) if host is None else host.message
            self.last_reload.successful, self.last_reload.problems = False, [reason]
            log.error("reload failed", reason=reason)  # noqa: TRY400 (whoever asked logs the traceback of a bug)
            self._changed.set()  # what of it was applied is not wanted
            if host is None:
                raise
            raise host from error
        self.last_reload.successful, self.last_reload.problems = True, []
        self.last_reload.succeeded_at = time.time()
        log.info("reloaded", path=self.path)

    async def change(self, new: Loaded, keep: Callable[[], None], *, refuse_failing: bool = True) -> None:
        """Run a changed configuration; the caller holds `changing`.

        `keep` is called, on a thread, when it is known what is to run and before anything is touched: if it raises, all
        stays as it was. Refused: the host does not allow a session that the change begins, unless that is not to be
        `refuse_failing`. ConfigError: it needs a capability that was given up.
        """
        await asyncio.to_thread(self._refuse_lacking, new)
        try:
            await self._refresh(new, keep, refuse_failing=refuse_failing)
        except Exception:
            self._changed.set()  # what was looked at for it, flow networks above all, is not wanted any more
            raise

    async def check(self, new: Loaded, *, refuse_failing: bool = True) -> dict[plan.Key, plan.Entry]:
        """What would run of a changed configuration; nothing is touched. Refused: as by `change`."""
        self._refuse_lacking(new)
        _, wanted = InForce()(new.config, clock.now())
        async with self._turn:
            resolved, view = await self._surroundings.try_out(wanted)
            make = partial(plan.make, resolved, view, native=self.dataplane == "native")
            entries = await asyncio.to_thread(make)
        if refuse_failing:
            await asyncio.to_thread(self._refuse_failing, entries)
        return entries

    def _refuse_lacking(self, new: Loaded) -> None:
        """ConfigError when it needs a capability that was given up."""
        if problems := self._privileges.lacking(self.path, self.loaded, new):
            raise ConfigError(problems, "refused")

    async def stop(self) -> None:
        """End every pipeline without losing a frame on its way."""
        async with self._turn:
            await asyncio.to_thread(self._pipelines.stop)
            await self._surroundings.close()
        self._ticker.shutdown(wait=False)

    async def _refresh(
        self, new: Loaded | None = None, keep: Callable[[], None] | None = None, *, refuse_failing: bool = True
    ) -> float:
        """One turn; the seconds that it took to look and to plan: to act is mostly to wait for the kernel."""
        async with self._turn:
            begun = time.monotonic()
            loaded = new or self.loaded
            ended, wanted = self._in_force(loaded.config, clock.now())
            view = await self._surroundings.look(wanted)
            resolved = await self._surroundings.resolve(wanted, view)
            entries = await asyncio.to_thread(self._plan, resolved, view)
            spent = time.monotonic() - begun
            if keep:
                if refuse_failing:
                    await asyncio.to_thread(self._refuse_failing, entries)
                await asyncio.to_thread(keep)
            await self._apply(entries, resolved, kept=keep is not None)
            self._ended = ended
            await self._surroundings.give_back()
            if new:
                known = self.loaded.warnings if keep else ()
                for warning in new.warnings:
                    if warning not in known:
                        log.warning(str(warning))
                for one in () if keep else new.set_aside:
                    log.error("set aside, does not run", section=one.section, name=one.name, reason=one.reason)
            self.loaded = loaded
            return spent

    async def _apply(self, entries: Mapping[plan.Key, plan.Entry], resolved: Resolved, *, kept: bool) -> None:
        """Apply a plan. What is kept already is in force: where something keeps it from running it is tried again."""
        try:
            await asyncio.to_thread(lambda: self._pipelines.apply(entries, self._tunnels(resolved.config)))
            self._lasting.look(len(entries))
        except Exception as error:
            if not kept:
                raise
            self._turns.catch(error)

    def _plan(self, wanted: Resolved, view: View) -> dict[plan.Key, plan.Entry]:
        return self._planner.make(wanted, view, native=self.dataplane == "native")

    def _refuse_failing(self, entries: Mapping[plan.Key, plan.Entry]) -> None:
        """Refused when the host forbids a session, and did not forbid it before."""
        failing = [entry for entry in entries.values() if entry.state == "failed"]
        known = {key for key, entry in self.entries().items() if entry.state == "failed"} if failing else set()
        failing = [entry for entry in failing if entry.key not in known]
        if failing:
            why = "\n".join(f"session {one.key.session!r} on {one.key.source}: {one.reason}" for one in failing)
            raise Refused(why, session_path(failing[0].key.mirror, failing[0].key.session))

    # --- what it says about itself ---

    def entries(self) -> dict[plan.Key, plan.Entry]:
        """What is planned of every session and source."""
        return self._pipelines.entries()

    def rows(self, *names: str) -> Sequence[Row]:
        """Every planned session and source; those of a mirror, or of a mirror's session."""
        return self._pipelines.rows(*names)

    @property
    def happened(self) -> int:
        """Another number once something has happened that may have changed a session's state."""
        return self._pipelines.happened

    def states(self) -> Mapping[plan.Key, tuple[str, str]]:
        """The state of every planned session and source, and why it is so."""
        return self._pipelines.states()

    def mirrors(self) -> list[str]:
        """The names of the planned sessions' mirrors."""
        return self._pipelines.mirrors()

    async def live(self, mirror: str, session: str, source: str | None) -> Live:
        """A live look at what a session mirrors on one device. MirrordError, also when it is not said which device."""
        find_session(self.loaded.config, mirror, session)
        rows = await asyncio.to_thread(self.rows, mirror, session)
        keys = {row.entry.key.source: row.entry.key for row in rows}
        if source is None and len(keys) == 1:
            source = next(iter(keys))
        if source is None:
            raise Refused(f"name one of its sources: {', '.join(keys)}" if keys else "the mirror is disabled", "source")
        if source not in keys:
            raise not_found("source", source, keys)
        try:
            return await asyncio.to_thread(self._pipelines.live, keys[source])
        except OSError as error:
            raise Refused(f"{source} cannot be captured: {error.strerror}") from error

    async def recorded(
        self, mirror: str, session: str, source: str | None, seconds: float, *, follow: bool
    ) -> Recorded:
        """What a session mirrored of one device in the last `seconds`; with `follow`, and what it does from now on.

        MirrordError, also when it is not said which device, or nothing is kept.
        """
        find_session(self.loaded.config, mirror, session)
        found = await asyncio.to_thread(self._pipelines.recorders, mirror, session)
        if not found:
            raise Refused(f'{session} keeps no frames: set recorder of it, such as "64MiB", and enable it', "last")
        if source is None and len(found) > 1:
            raise Refused(f"name one of its sources: {', '.join(found)}", "source")
        source = next(iter(found)) if source is None else source
        if source not in found:
            raise not_found("source", source, found)
        return Recorded(plan.Key(mirror, session, source), found[source], seconds, follow=follow)

    def workers(self) -> WorkerState:
        """How the workers do."""
        one = self._pipelines
        return WorkerState(
            stalled=len(one.stalled()),
            failures=one.worker_failures(),
            used=one.budget.used,
            rested=one.budget.rested,
            cpu_limit=one.budget.limit,
            memory=one.memory.taken,
            memory_limit=one.memory.limit,
            left_out=one.left_out(),
        )

    def rule_counts(self) -> Mapping[tuple[str, int], int]:
        """Frames by the filter and priority of the rule that accepted them."""
        return self._pipelines.rule_counts()

    def lost(self) -> Mapping[str, int]:
        """Frames that there was no room for, by source, each once."""
        return self._pipelines.lost()

    async def doctor(self, mirror: str | None, state: str) -> list[Finding]:
        """What is wrong, with this mirror or with all, and what to do; `state` is the state database's own problem.

        MirrordError `not_found`.
        """
        examined = await self._examined()
        return await asyncio.to_thread(examined.findings, mirror, state)

    async def _examine(self) -> Examined:
        self._surroundings.doubt()  # the kernel does not announce an XDP program that was attached as a BPF link
        async with self._turn:
            loaded, now = self.loaded, clock.now()
            wanted = self._in_force(loaded.config, now)[1]
            view = await self._surroundings.look(wanted)
            resolved = await self._surroundings.resolve(wanted, view)
            entries = await asyncio.to_thread(self._plan, resolved, view)
        self._changed.set()
        runs = loaded.config.daemon.model_copy(update=self._begun)
        config = resolved.config.model_copy(update={"daemon": runs})
        known, unbound = self._surroundings.known, self._surroundings.unbound()

        def look() -> Examined:
            rows = [replace(row, entry=entries.get(row.entry.key, row.entry)) for row in self.rows()]
            stalled = self._pipelines.stalled()
            host = probes.look(runs, view, rows, unbound)
            return Examined(
                loaded, now, config, known, self.last_reload, view, rows, host, stalled=stalled, costs=self.workers()
            )

        return await asyncio.to_thread(look)

    async def sources(self, *, at_once: bool = False) -> list[ShownSource]:
        """What could be mirrored, and who mirrors it now. Takes 0.2 s, and 2 s where a manager is slow; `at_once` as
        little as may be, without rates, for those who wait at a keyboard.
        """
        return await (self._sources_at_once if at_once else self._sources)()

    async def _look_for_sources(self, *, at_once: bool) -> list[ShownSource]:
        async with self._turn:
            view = await self._surroundings.look(self.loaded.config)
        rates: Mapping[str, tuple[float, float]] = {}
        if at_once:
            inventory = await self._surroundings.all_guests(AT_ONCE_SECONDS)
        else:
            inventory, rates = await asyncio.gather(
                self._surroundings.all_guests(), asyncio.to_thread(device_rate.rates)
            )
        return await asyncio.to_thread(lambda: sources(view, inventory, self.rows(), rates))


def _as_it_is(loaded: Loaded) -> Loaded:
    return loaded
