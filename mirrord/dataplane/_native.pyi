"""The compiled core's types. What it is given it reads by these names, see native/plan.c, tap_type.c, single.c."""

from array import array
from collections.abc import Callable
from mmap import mmap
from typing import NamedTuple, final

from mirrord.dataplane.capture.way_in import Sender
from mirrord.dataplane.frame.wire import Frame
from mirrord.dataplane.membership import NativeMatcher, Stretch
from mirrord.dataplane.native import Matcher, NativeMember
from mirrord.dataplane.transmit.lanes import NativeLane
from mirrord.dataplane.transmit.output import Output
from mirrord.dataplane.transmit.queue import Queues
from mirrord.dataplane.transmit.recorder import Ring
from mirrord.dataplane.transmit.way import Way
from mirrord.plans import ForwardPlan

VERSION: str
"""Of the sources that it was built from."""

ENUMERATIONS: dict[str, dict[str, int]]
"""The numbers of Slot, OnMtuExceeded, Payload, Field and Tunnel in the core, by the class's name and the member's."""

class News(NamedTuple):
    """As rounds.News."""

    descriptor: int
    events: int
    ran: bool

class Outcome(NamedTuple):
    """What one frame became: its copies, its flow's hash, and the rest of step.Outcome."""

    copies: list[bytes]
    flow: int
    reason: int | None
    truncated: int
    segmented: int
    fragmented: int
    zeroed: int
    unfollowed: int
    unplaced: int
    flow_table_full: int
    to: tuple[int, ...]

class Unwrapped(NamedTuple):
    """The frame in a tunnel's packet, what its sender left to a device (wire.VNET), what is told of it (told.Told)."""

    data: bytes
    vnet: bytes
    told: tuple[int | None, ...]

@final
class Forward:
    """The forward step on single frames."""

    def __new__(cls, plan: ForwardPlan, matcher: Matcher | None, recorder: Ring | None = ..., /) -> Forward: ...
    def __call__(self, frame: Frame, /) -> Outcome: ...
    def guard(self, packed: bytes, /) -> None:
        """As Pipeline's."""
    def watch(self, duplicates: object, place: int, /) -> None:
        """As Pipeline's."""

def duplicates() -> object:
    """Memory for what was copied, see forward/duplicates.py."""

def classify(*, frame: Frame, pvid: int) -> tuple[int, int] | None:
    """The tag that the frame has after port_vlan.classified."""

def with_ethernet(*, packet: bytes, vnet: bytes, protocol: int) -> Unwrapped:
    """As without_ethernet.with_ethernet."""

def decapsulate(*, tunnel: int, packet: bytes, limit: int) -> Unwrapped | None:
    """As decap.decapsulate and decap.unfinished; None for a malformed packet."""

def recorded(row: array[int], /) -> tuple[int, int, int]:
    """The head, the tail and the evicted blocks of a ring, as they are between two blocks."""

@final
class Pipeline:
    """The way of the frames that one session wants of a tap. `callback` opens the lane of this number, or, with an
    `output`, begins the next file.
    """

    def __new__(
        cls,
        *,
        plan: ForwardPlan,
        ways: tuple[Way, ...],
        counters: array[int],
        sequence: array[int],
        output: Output | None,
        queues: Queues | None,
        callback: Callable[..., NativeLane | None],
    ) -> Pipeline: ...
    def replace(
        self, *, plan: ForwardPlan, matcher: Matcher | None, recorder: Ring | None, ways: tuple[Way, ...], shares: bool
    ) -> None:
        """Forward by another plan, and another way, from now on, and keep the copies in the ring; `shares`: what is not
        wanted is another session's.
        """

    def guard(self, packed: bytes, /) -> None:
        """Skip what these guards tell from now on, see own_copies.Guards."""

    def sampling_rate(self) -> int:
        """The sampling rate in force."""

    def flows(self) -> int:
        """How many flows are known, of those that a limit is for."""

    def take_skipped(self) -> list[tuple[int, tuple[bytes, int], tuple[bytes, int], int]]:
        """The busiest flows that their limit has skipped since this was last asked: protocol, ends, bytes."""

    def gso_refused(self) -> int:
        """The errno that the kernel refused GSO with, after which copies leave one by one; or 0."""

    def leave_with(self, pipeline: Pipeline, /) -> None:
        """Send by its way out, which is described alike. Before either runs, and on its thread ever after."""

    def watch(self, duplicates: object, place: int, /) -> None:
        """Remember copies there, as of this source. Before it runs."""

    def share(self, pipeline: Pipeline, /) -> None:
        """Use its rate limit's bucket. Before either runs."""

@final
class Numbers:
    """As numbers.Numbers."""

    def note(self, sender: bytes, ident: int, number: int, /) -> int: ...
    def settle(self) -> tuple[int, bool]: ...

@final
class Tap:
    """Frames out of one packet socket, or the raw socket where a `tunnel` ends (0: none). `seen` is Seen's row."""

    def __new__(
        cls,
        *,
        descriptor: int,
        ring: mmap | None,
        block_size: int,
        seen: array[int],
        tunnel: int,
        ip_header: bool,
        raw: bool,
        pvid: int,
        told: bool,
        numbers: Numbers | None,
        sender: Sender,
    ) -> Tap: ...
    def run(self) -> bool:
        """Forward what has been captured: at most a few blocks. Whether there is more."""

    def error(self) -> int:
        """The errno that a reading came upon, which is cleared; or 0."""

    def most_waiting(self, forget: bool, /) -> int:
        """The most blocks of the ring that waited when it was run, since they were forgotten."""

    def busiest(self) -> tuple[int, int] | None:
        """The most frames, and bytes, that one way out may have had since it was last asked; None: not known."""

    def move(self, *, descriptor: int, ring: mmap | None, block_size: int) -> None:
        """Read another packet socket from now on."""

    def have(
        self,
        *,
        members: tuple[NativeMember, ...],
        matchers: tuple[NativeMatcher, ...],
        stretches: tuple[Stretch, ...],
    ) -> None:
        """Give frames to these from now on: each to those of the set whose number its device's matcher gives."""

@final
class Rounds:
    """As rounds.Rounds; it runs taps itself. `latency` is in seconds."""

    def __new__(cls, latency: float, /) -> Rounds: ...
    def register(self, descriptor: int, tap: Tap | None, /) -> None: ...
    def unregister(self, descriptor: int, /) -> None: ...
    def wait(self, seconds: float, lagging: bool, /) -> list[News]: ...
    def close(self) -> None: ...
