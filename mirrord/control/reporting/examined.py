"""What an examination of the host and of all sessions found, for whoever asks of which mirror."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirrord.control.reporting import doctor, expiries, guests
from mirrord.model.validation import not_found

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirrord.control.configuration.config import Loaded
    from mirrord.control.guests.inventory import Inventory
    from mirrord.control.host.view import View
    from mirrord.control.planning.finding import Finding
    from mirrord.control.reporting.metrics import Reload, Row, WorkerState
    from mirrord.control.reporting.probes import Host
    from mirrord.expiry import Now
    from mirrord.model import Config


@dataclass(frozen=True)
class Examined:
    """`loaded` is what somebody wrote, and `now` when it was looked at; `config` what runs of it. `known` is the
    configuration and the guests that were asked for. The rest is as doctor.findings has it.
    """

    loaded: Loaded
    now: Now
    config: Config
    known: tuple[Config, Inventory]
    reload: Reload
    view: View
    rows: Sequence[Row]
    host: Host
    stalled: Sequence[str]
    costs: WorkerState
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _answers: dict[tuple[str | None, str], list[Finding]] = field(default_factory=dict)

    def findings(self, mirror: str | None, state: str) -> list[Finding]:
        """What is wrong, with this mirror or with all; `state` is the state database's own problem. Each is worked out
        once. MirrordError `not_found`.
        """
        if mirror is not None and mirror not in self.loaded.config.mirrors:
            raise not_found("mirror", mirror, self.loaded.config.mirrors)
        with self._lock:
            if (mirror, state) not in self._answers:
                self._answers[mirror, state] = self._find(mirror, state)
            return self._answers[mirror, state]

    def _find(self, mirror: str | None, state: str) -> list[Finding]:
        found = doctor.findings(
            self.loaded._replace(config=self.config),
            self.reload,
            self.view,
            self.rows,
            self.host,
            mirror=mirror,
            state=state,
            stalled=self.stalled,
            costs=self.costs,
        )
        gone = expiries.findings(self.loaded, self.now, mirror=mirror)
        if gone:
            found = [one for one in found if one.code != "disabled"]  # it says so in other words
        return [*found, *gone, *guests.findings(*self.known, mirror=mirror)]
