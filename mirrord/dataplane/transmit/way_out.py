"""What every way out of copies has in common. CONTRIBUTING tells how another kind of destination is added."""

from __future__ import annotations

from abc import ABC, abstractmethod
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mirrord.dataplane.counters import Counters, Slot
    from mirrord.dataplane.forward.step import Copy
    from mirrord.dataplane.transmit.lanes import NativeLane
    from mirrord.dataplane.transmit.output import Output
    from mirrord.dataplane.transmit.queue import Queues
    from mirrord.dataplane.transmit.tx_ring import TxRings
    from mirrord.dataplane.transmit.way import Way
    from mirrord.plans import TransmitPlan


class Sent(NamedTuple):
    """How many copies were accepted before the first that was not, and why that one was not (an errno, or 0)."""

    accepted: int
    error: int = 0


class WayOut(ABC):
    """Where the copies of a session leave. One thread at a time, but for `told`.

    A subclass is made of its plan, and raises OSError when it cannot be opened.
    """

    failure = ""
    """Why no copy gets out; "" while some may."""

    exclusive = False
    """Whether it can be open only once, as a file: the next session to open it waits until it is closed. No other has
    anything to `tend`."""

    @property
    def closes_at_once(self) -> bool:
        """Whether to close it is not to wait for the kernel, as a packet socket has one do."""
        return False

    output: Output | None = None
    """The memory that tells the native core where to write; None where it sends."""

    queues: Queues | None = None
    """The memory that tells the native core which queues to put copies into; None where there are none."""

    ring: TxRings | None = None
    """The native core sends by it what leaves one by one."""

    @abstractmethod
    def send(self, copies: Iterable[Copy]) -> Sent:
        """Send copies in order, up to the first that is refused."""

    @abstractmethod
    def lost(self, error: int) -> Slot:
        """What a frame counts as whose copy was refused with this errno."""

    @abstractmethod
    def native(self) -> tuple[Way, ...]:
        """For the native core, each of the ways that there are."""

    def to(self, _place: int) -> WayOut:
        """The way to the collector at this place: itself, where there is one."""
        return self

    @property
    @abstractmethod
    def callback(self) -> Callable[..., NativeLane | None]:
        """What the native core calls: for the lane of a number, of the way of a number, or for the next file."""

    @property
    def gone(self) -> str:
        """Why it is to be closed, nobody being there to take copies: until somebody is, the session waits. Else ""."""
        return ""

    @property
    def clients(self) -> int | None:
        """How many take its copies; None where that is not known."""
        return None

    @property
    def memory(self) -> int:
        """Bytes of its queues."""
        return 0

    @property
    def queued(self) -> int:
        """Frames that count as mirrored, and that a client has not got yet."""
        return 0

    def count_in(self, counters: Counters) -> None:  # noqa: B027 (most know at once)
        """Correct there what frames were counted as, where that turns out: on the thread that sends, or closes."""

    def hold(self) -> WayOut:
        """Itself, for one more source of the same session on the same thread: each closes it once, the last one does.
        Not of one that is exclusive, see SharedWayOut.
        """
        raise NotImplementedError

    @abstractmethod
    def close(self) -> None:
        """Close it."""

    def begin_turn(self) -> None:
        """A turn of the worker begins."""
        self.tend()

    def tend(self) -> None:  # noqa: B027 (most have nothing to see to)
        """Do what is due by time. To be called between turns, of one that is exclusive."""

    def told(self) -> bool:
        """Whether a router has had something to say about copies since this was last asked. On any thread."""
        return False

    def follow(self, plan: TransmitPlan) -> None:  # noqa: B027 (most have no next hop)
        """Go on by another plan, which differs from the one before in a tunnel's next hop alone. OSError."""

    def new_ring(self) -> TxRings | None:
        """TX rings to send from; None where there is no use for one, or no memory. Takes long."""
        return None

    def stuck(self) -> str:
        """Why it does not get on, where its worker makes no progress."""
        return "its worker makes no progress"


class SharedWayOut(WayOut):
    """One that several sources of a session may leave by, on the same thread."""

    def __init__(self) -> None:
        self._users, self._users_lock = 1, Lock()

    def hold(self) -> WayOut:
        with self._users_lock:
            self._users += 1
        return self

    def close(self) -> None:
        with self._users_lock:
            self._users -= 1
            last = not self._users
        if last:
            self.close_all()

    @abstractmethod
    def close_all(self) -> None:
        """Close it: the last one has."""
