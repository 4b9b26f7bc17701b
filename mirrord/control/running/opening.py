"""How a session's pipelines are opened, and what is said of one that cannot be."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from mirrord.control.planning.plan import Key
from mirrord.control.running.duplicates import Groups
from mirrord.control.running.held_devices import HeldDevices
from mirrord.control.running.patience import Patience
from mirrord.control.running.recorders import Recorders
from mirrord.dataplane.forward.own_copies import NO_GUARDS
from mirrord.dataplane.forward.step import Numbering
from mirrord.dataplane.memory import Memory
from mirrord.dataplane.pipeline import Pipeline, open_pipelines
from mirrord.dataplane.transmit.pcap_end import Ends
from mirrord.errors import GONE, internal, of_host
from mirrord.errors import reason as reason_of
from mirrord.plans import FilePlan, PcapPlan, PipelinePlan, TunnelPlan

OPEN_SECONDS = 1.5
"""How long the disk may take to give a session its file; the session is tried again later."""


class Opening:
    """Opens ways out. The copies of one session are numbered in one row, whichever of its sources they are of."""

    def __init__(
        self,
        devices: HeldDevices,
        recorders: Recorders,
        groups: Groups,
        ends: Ends,
        *,
        native: bool,
        memory: Memory,
    ) -> None:
        self._groups, self._ends = groups, ends
        self.guards = NO_GUARDS
        """What sessions are opened with that skip copies."""
        self._devices, self._recorders, self._native, self._memory = devices, recorders, native, memory
        self._patience = Patience()
        self._numberings: dict[tuple[str, str], Numbering] = {}  # by mirror and session

    def expect(self, keys: Iterable[Key]) -> None:
        """These are opened next, by several threads at a time."""
        for key in keys:
            self._numberings.setdefault(key[:2], Numbering())

    def rename(self, old: Key, new: Key) -> None:
        """The numbers go on."""
        if numbering := self._numberings.pop(old[:2], None):
            self._numberings[new[:2]] = numbering

    def forget(self, planned: Mapping[Key, object]) -> None:
        """Keep the numbers of these sessions only."""
        sessions = {key[:2] for key in planned}
        self._numberings = {name: one for name, one in self._numberings.items() if name in sessions}

    def open(self, key: Key, plan: PipelinePlan, leaders: Sequence[Pipeline] = ()) -> list[Pipeline] | Exception:
        """The pipelines that the plan asks for, each without a source; or why they cannot be had, of any kind: other
        sessions are not to mind. They leave by the way of the `leaders`, if there are any.
        """
        try:
            self._devices.hold(plan.transmit)
            numbering, recorder = self._numberings[key[:2]], self._recorders.of(key, plan)
            opening = partial(
                open_pipelines, plan, numbering, recorder, self._groups.of(key, plan),
                native=self._native, leaders=leaders, memory=self._memory, ends=self._ends, guards=self.guards,
            )  # fmt: skip
            if not isinstance(plan.transmit, FilePlan):
                return opening()
            try:
                return self._patience.within(OPEN_SECONDS, key, opening, close_all)
            except TimeoutError:
                return OSError(errno.ETIMEDOUT, f"{plan.transmit.path}: the disk does not answer")
        except Exception as error:  # noqa: BLE001 (see above)
            return error


def close_all(pipelines: Sequence[Pipeline]) -> None:
    """Close pipelines that have joined no tap."""
    for pipeline in pipelines:
        pipeline.close()


def state_after(error: Exception, way: object, trouble: str) -> tuple[str, str]:
    """The state of a session that could not be opened, and why. `trouble`: what planning knew of its way out."""
    if not isinstance(error, OSError):
        host = of_host(error)
        return "failed", internal(error) if host is None else host.message
    state, reason = "waiting" if error.errno in GONE else "failed", reason_of(error)
    if isinstance(way, PcapPlan) and error.errno == errno.ENOTCONN:
        state = "waiting"
    if isinstance(way, TunnelPlan):
        state, reason = _in_words(error.errno, way) or (state, reason)
        if error.errno in (errno.EACCES, errno.EINVAL):  # what routes answer that lead nowhere
            reason = trouble or reason
    return state, reason


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
