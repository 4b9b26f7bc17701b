"""What the daemon holds together: a configuration, the host, and the pipelines that follow from the two.

Every cause of change (start, reload, a device that comes or goes, a pipeline that failed) takes the same road:
read the host, make the plan, apply the difference. One at a time; causes that come meanwhile share the next turn.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import structlog

from mirrord import __version__
from mirrord.control import config, logs, plan, report
from mirrord.control.config import Loaded
from mirrord.control.flow_networks import FlowNetworks
from mirrord.control.links import Lease, Links, View
from mirrord.control.metrics import Reload, Row
from mirrord.control.namespaces import Namespaces
from mirrord.control.notify import notify, reloading, watchdog_seconds
from mirrord.control.pipelines import Pipelines
from mirrord.dataplane.counters import Slot
from mirrord.errors import ConfigError, MirrordError
from mirrord.model import Config

log = structlog.get_logger(subsystem="service")

TICK_SECONDS = 1.0
RETRY_SECONDS = 5.0
REREAD_SECONDS = 60.0
"""How often the host is read though nothing was heard of it: the kernel does not tell when a learnt path MTU ends."""

AT_START = ("socket", "socket_group", "read_only_socket", "read_only_group", "metrics", "state", "dataplane", "nice")
"""Keys of [daemon] that are read at start only."""


class Service:
    """The daemon without its doors. Call `start`, then keep `follow` and `tick` running until `stop`."""

    def __init__(self, path: str, loaded: Loaded, links: Links, pipelines: Pipelines, dataplane: str) -> None:
        self.path, self.loaded, self.dataplane = path, loaded, dataplane
        self.last_reload = Reload(succeeded_at=time.time())
        self._links, self._pipelines = Namespaces(links), pipelines
        self._started = time.time()
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self._rates: report.Rates = {}
        self._flow_networks = FlowNetworks(self._changed.set)
        self._leases: dict[str, Lease] = {}

    async def start(self) -> None:
        """Bring up what the configuration asks for and the host allows."""
        self._links.watch(self._changed.set)
        await asyncio.to_thread(self._pipelines.clean_up)
        await self._refresh(self.loaded)

    async def follow(self) -> None:
        """Follow the host's changes. A burst of them costs the network's reader a third of its time at most."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            begun = time.monotonic()
            await self._refresh()
            await asyncio.sleep(2 * (time.monotonic() - begun))

    async def tick(self) -> None:
        """Work out rates, look for what nobody tells of, and feed the watchdog while every worker makes progress."""
        before, looked = self.rows(), time.monotonic()
        retried = reread = looked
        patience = watchdog_seconds() / 2
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now, rows = time.monotonic(), self.rows()
            self._pipelines.log_troubles()
            self._rates = report.rates(before, rows, now - looked)
            told = self._pipelines.told()
            if _too_large(rows) > _too_large(before) or now - reread >= REREAD_SECONDS or self._links.moved() or told:
                reread = now
                self._changed.set()
            before, looked = rows, now
            if now - retried >= RETRY_SECONDS and self._pipelines.failing():
                retried = now
                self._changed.set()
            if patience:
                stalled = self._pipelines.stalled(patience)
                if stalled:
                    log.error("worker makes no progress", workers=stalled)
                else:
                    notify("WATCHDOG=1")

    async def reload(self) -> None:
        """Take over the configuration file as it is now. ConfigError, with every problem: the old one stays."""
        reloading()
        try:
            new = config.load(self.path)
        except ConfigError as error:
            self.last_reload.successful, self.last_reload.problems = False, [str(problem) for problem in error.problems]
            for problem in self.last_reload.problems:
                log.error("reload refused", problem=problem)  # noqa: TRY400 (the file's fault, no traceback)
            raise
        else:
            for key in AT_START:
                if getattr(new.config.daemon, key) != getattr(self.loaded.config.daemon, key):
                    log.warning("takes effect at the next start", key=f"daemon.{key}")
            logs.level(new.config.daemon.log_level)
            await self._refresh(new)
            self.last_reload.successful, self.last_reload.problems = True, []
            self.last_reload.succeeded_at = time.time()
            log.info("reloaded", path=self.path)
        finally:
            notify("READY=1")

    async def stop(self) -> None:
        """End every pipeline without losing a frame on its way."""
        async with self._turn:
            await asyncio.to_thread(self._pipelines.stop)
            await self._flow_networks.close()
            await self._links.close()

    async def _refresh(self, new: Loaded | None = None) -> None:
        async with self._turn:
            loaded = new or self.loaded
            entries = plan.make(loaded.config, await self._look(loaded.config))
            await asyncio.to_thread(self._pipelines.apply, entries)
            await self._flow_networks.give_back()
            if new:
                for warning in new.warnings:
                    log.warning(str(warning))
            self.loaded = loaded

    async def _look(self, wanted: Config) -> View:
        """The host as it is now, with the addresses that flow networks have taken."""
        names = plan.namespaces(wanted)
        view = await self._links.read(plan.paths(wanted, self._leases), names)
        leases = await self._flow_networks.leases(wanted, view)
        if leases != self._leases:
            self._leases = leases
            view = await self._links.read(plan.paths(wanted, leases), names)
        return replace(view, leases=leases)

    # --- what it says about itself ---

    def rows(self) -> Sequence[Row]:
        """Every planned session and source."""
        return self._pipelines.rows()

    def status(self) -> dict[str, Any]:
        """The daemon and every session."""
        return {
            "version": __version__,
            "pid": os.getpid(),
            "dataplane": self.dataplane,
            "started_at": self._started,
            "config": {
                "path": self.path,
                "last_reload_successful": self.last_reload.successful,
                "last_reload_success_at": self.last_reload.succeeded_at,
                "problems": self.last_reload.problems,
                "warnings": [str(warning) for warning in self.loaded.warnings],
            },
            "sessions": [report.session(row, self._rates) for row in self.rows()],
        }

    def mirrors(self) -> list[dict[str, Any]]:
        """Every mirror, as configured, each session with how it does on each of its source devices."""
        return [self.mirror(name) for name in self.loaded.config.mirrors]

    def mirror(self, name: str) -> dict[str, Any]:
        """One mirror. MirrordError `not_found` when there is none of that name."""
        mirror = self.loaded.config.mirrors.get(name)
        if mirror is None:
            raise MirrordError("not_found", f"no such mirror: {name}")
        shown = {"name": name, **mirror.model_dump(mode="json")}
        rows = [row for row in self.rows() if row.entry.key.mirror == name]
        for each in shown["sessions"]:
            each["running"] = [report.session(r, self._rates) for r in rows if r.entry.key.session == each["name"]]
        return shown


def _too_large(rows: Sequence[Row]) -> int:
    """Copies lost to a path MTU: when there are more of them, a router may have told the kernel of a smaller one."""
    return sum(row.counters[Slot.dropped_mtu_exceeded] for row in rows)
