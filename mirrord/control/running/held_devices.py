"""Destination devices that sessions hold for themselves: reserved, or taken off their bridge."""

from __future__ import annotations

from collections.abc import Iterable

from mirrord.control.host.isolate import Isolations
from mirrord.control.host.reserve import Reservations
from mirrord.control.logs import logger
from mirrord.errors import GONE
from mirrord.plans import DevicePlan, PipelinePlan

log = logger("pipelines")


class HeldDevices:
    """Blocks for as long as the kernel takes, microseconds. OSError when netlink sockets cannot be opened."""

    def __init__(self) -> None:
        self._reservations = Reservations()
        self._isolations = Isolations()
        self._not_isolated: dict[int, str] = {}  # by index, as logged: what became a bridge's port and stays one

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

    def hold(self, way: object) -> None:
        """What a session's copies need of the device that they leave by; on any thread. OSError."""
        if isinstance(way, DevicePlan) and way.reserved:
            self._reservations.hold(way.index, way.mark)
        if isinstance(way, DevicePlan) and way.isolated:
            self._isolations.hold(way.index)

    def keep(self, plans: Iterable[PipelinePlan]) -> None:
        """Give back the devices that none of these holds, and isolate what became a bridge's port since."""
        ways = [plan.transmit for plan in plans if isinstance(plan.transmit, DevicePlan)]
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

    def close(self) -> None:
        """Give every device back."""
        self._reservations.close()
        for told in self._isolations.close():
            log.warning(told)
