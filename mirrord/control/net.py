"""A net below what goes on for ever: an error that nobody foresaw ends a turn of it, and not the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirrord.control.logs import logger
from mirrord.errors import internal, of_host

if TYPE_CHECKING:
    from types import TracebackType

log = logger("net")


class Net:
    """`with net:` around each turn. What it catches is logged once, as this event, until a turn goes well: with its
    traceback where it is no word of the host's. `caught` tells of the last turn; "" when it went well.
    """

    def __init__(self, event: str) -> None:
        self._event, self.caught = event, ""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if isinstance(error, Exception):
            self.catch(error)
            return True
        if error is None:
            self.caught = ""
        return False

    def catch(self, error: Exception) -> None:
        """As of a turn that this has ended."""
        host = of_host(error)
        reason = host.message if host is not None else internal(error)
        if reason != self.caught:
            log.error(self._event, reason=reason, **({"exc_info": error} if host is None else {}))
        self.caught = reason
