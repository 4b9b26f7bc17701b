"""What every way in of frames has in common. CONTRIBUTING tells how another kind of source is added."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator

    from mirrord.dataplane.capture.numbers import Numbers
    from mirrord.dataplane.counters import Seen
    from mirrord.dataplane.filter.by_device import Wanted
    from mirrord.dataplane.forward.flows import FlowKey
    from mirrord.dataplane.frame.wire import Frame
    from mirrord.plans import ForwardPlan


class Statistics(NamedTuple):
    """What was counted since the last reading: frames that passed the filter, and those that are lost already."""

    captured: int
    ring_full: int
    malformed: int = 0  # packets of a tunnel with no frame in them
    missing: int = 0  # packets of a tunnel that did not come


class Kind(NamedTuple):
    """What the native core is to read."""

    tunnel: int = 0  # a raw socket where a tunnel of this kind ends; 0: a packet socket
    ip_header: bool = False  # the tunnel's packets begin with an IP header
    raw: bool = False  # the device's packets have no Ethernet header
    pvid: int = 0  # what has no tag there is of this VLAN; 0: of none
    told: bool = False  # a frame's direction is what the tunnel's packet tells


class Sender(NamedTuple):
    """A packet socket that copies may leave by, of this namespace and mark, see transmit/alike.py; -1: none."""

    packet: int = -1
    alike: bytes = bytes(16)


class WayIn(ABC):
    """An open socket that frames come out of. One thread at a time.

    A subclass is made of its plan, and raises OSError when it cannot be opened.
    """

    kind = Kind()

    exclusive = False
    """Whether it holds what can be held only once: an address that is listened at."""

    exact = False
    """Whether the kernel takes what is selected and nothing else."""

    mode = "socket"
    """Or "ring"."""

    ring: mmap.mmap | None = None
    block_count = 0  # of the ring
    trimmed: frozenset[FlowKey] = frozenset()
    """Flows whose frames are kept but the headers of."""

    sender = Sender()
    """By which copies may leave that it is not to hear."""

    numbers: Numbers | None = None
    """Those of the packets of a tunnel that ends here."""

    short_ring = ""
    """How much of the ring could be had, where not all of it could; else ""."""

    @abstractmethod
    def fileno(self) -> int: ...

    @abstractmethod
    def select(self, *wanted: Wanted) -> None:
        """Take what is wanted from now on. OSError."""

    @abstractmethod
    def reject_all(self) -> None:
        """Take no more frames; those already taken can still be read."""

    @abstractmethod
    def read(self) -> Iterator[Frame]:
        """The frames that are there now, at most one batch."""

    @abstractmethod
    def statistics(self) -> Statistics:
        """What has been counted since the last call."""

    @abstractmethod
    def error(self) -> int:
        """The pending errno, which is cleared; or 0."""

    @abstractmethod
    def close(self) -> None:
        """Close it."""

    def movable(self) -> MovableWayIn | None:
        """Itself, where it may give way to one of another mode while frames come."""
        return None

    def fill(self) -> float:
        """The share of the ring's blocks that wait to be read."""
        return 0.0

    def drained(self, seen: Seen) -> bool:
        """Whether every frame that was taken has been read; `seen` is what was counted of it."""
        return seen.waiting == 0

    def waiting(self, seen: Seen) -> int:
        """Frames that were taken and not read, as far as that is known."""
        return seen.waiting

    def came(self, seen: Seen) -> int:
        """A number that grows whenever frames come."""
        return seen.taken

    def follow_way_out(self, forward: ForwardPlan) -> None:  # noqa: B027 (most hand over frames as they are)
        """Take from the forward plan how long a frame may be that goes on."""

    def take_unread(self) -> int:
        """What was thrown away when it was closed, and is not counted: once."""
        return 0


class MovableWayIn(WayIn):
    """One that may give way to its like of another mode."""

    @abstractmethod
    def successor(self, mode: str) -> MovableWayIn:
        """Open one of the other mode that gets every frame from now on: this one has its last. OSError; takes long."""

    @abstractmethod
    def succeed(self, before: WayIn) -> None:
        """Take over what the one that this came after was told while this was made. OSError."""
