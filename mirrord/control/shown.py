"""What the API shows: the daemon, and each object as configured, with how it does."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mirrord import __version__, expiry
from mirrord.control.configuration.config import CLUSTER, Loaded
from mirrord.control.host import clock
from mirrord.control.planning.in_force import expired, is_expired
from mirrord.control.privileges import held
from mirrord.control.reporting import report
from mirrord.control.service import Service
from mirrord.model import Filter, FlowNetwork, Mirror, Session
from mirrord.model.validation import find_session, not_found


class Shown:
    """Of one service. What takes long to make is an iterator, made as it is written."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def status(self) -> dict[str, Any]:
        """The daemon and every session, which are an iterator."""
        service = self._service
        loaded, reload = service.loaded, service.last_reload
        return {
            "version": __version__,
            "pid": os.getpid(),
            "dataplane": service.dataplane,
            "started_at": service.started_at,
            "netns": service.netns,
            "capabilities": sorted(held()),
            "costs": self._costs(),
            "config": {
                "path": service.path,
                "last_reload_successful": reload.successful,
                "last_reload_success_at": reload.succeeded_at,
                "problems": reload.problems,
                "warnings": [str(warning) for warning in loaded.warnings],
                "set_aside": [
                    {"section": one.section, "name": one.name, "reason": one.reason} for one in loaded.set_aside
                ],
            },
            "expired": [
                {"mirror": name, "expires": expiry.show(value)} for name, value in expired(loaded, clock.now())
            ],
            "sessions": (
                report.session(row, service.rates, service.remote_rates)
                for mirror in service.mirrors()
                for row in service.rows(mirror)
            ),
        }

    def _costs(self) -> dict[str, Any]:
        """What mirroring takes of the host, and its bounds: processors, bytes; 0 for no bound."""
        workers = self._service.workers()
        return {
            "cores": round(self._service.cores_used, 3),
            "cpu_limit": workers.cpu_limit,
            "memory_bytes": workers.memory,
            "memory_limit": workers.memory_limit,
        }

    def mirror(self, name: str, loaded: Loaded | None = None) -> dict[str, Any]:
        """One mirror, of a configuration that ran if not of the one that does. MirrordError `not_found`."""
        return self.object("mirrors", name, loaded)

    def session(self, mirror: str, name: str, loaded: Loaded | None = None) -> dict[str, Any]:
        """One session of a mirror. As `mirror`."""
        loaded = loaded or self._service.loaded
        found = find_session(loaded.config, mirror, name)
        return {**self._session(mirror, found), "origin": _origin(loaded, "mirrors", mirror)}

    def object(self, section: str, name: str, loaded: Loaded | None = None) -> dict[str, Any]:
        """A mirror, filter or flow network as configured, and where: a mirror's sessions, each with how it does, and a
        filter's rules are iterators. MirrordError `not_found`.
        """
        loaded = loaded or self._service.loaded
        one = getattr(loaded.config, section).get(name)
        if one is None:
            raise not_found(section.removesuffix("s").replace("_", " "), name, getattr(loaded.config, section))
        shown = {"name": name, **one.model_dump(mode="json", exclude={"rules", "sessions"})}
        if isinstance(one, Mirror):
            shown["expired"] = is_expired(loaded, name, clock.now())
            shown["sessions"] = (self._session(name, session) for session in one.sessions)
        if isinstance(one, FlowNetwork):
            shown["in_use"] = self._in_use(name, loaded)
        if isinstance(one, Filter):
            shown["rules"] = (rule.model_dump(mode="json") for rule in one.rules)
        return {**shown, "origin": _origin(loaded, section, name)}

    def _session(self, mirror: str, one: Session) -> dict[str, Any]:
        """A session as configured, and how it does on each of its source devices."""
        running = [
            report.session(row, self._service.rates, self._service.remote_rates)
            for row in self._service.rows(mirror, one.name)
        ]
        return {**one.model_dump(mode="json"), "running": running}

    def _in_use(self, network: str, loaded: Loaded) -> dict[str, str] | None:
        """The mirror that has a flow network, and the address that it took, or why it has none; None: nobody does."""
        user = next((name for name, one in loaded.config.mirrors.items() if one.flow_network == network), None)
        if user is None:
            return None
        lease = self._service.leases.get(network)
        return {"mirror": user, "address": lease.address if lease else "", "reason": lease.reason if lease else ""}

    def ends(self) -> Mapping[str, float]:
        """When each mirror ends, or has ended, in seconds since 1970; those that have an end."""
        ends = {name: expiry.end(one.expires) for name, one in self._service.loaded.config.mirrors.items()}
        return {name: at for name, at in ends.items() if at is not None}


def _origin(loaded: Loaded, section: str, name: str) -> dict[str, Any]:
    file = loaded.origin(section, name)
    if file == CLUSTER:
        return {"cluster": True}
    return {"file": file} if file else {"state": True}
