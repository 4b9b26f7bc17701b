"""How copies leave, as the native core is told of it: it reads these fields by their names (native/plan.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mirrord.dataplane.transmit.lanes import NativeLane
    from mirrord.dataplane.transmit.tx_ring import TxRing


class Way(NamedTuple):
    """By lanes, or by a packet socket with outer headers of ours; neither where copies go into a file."""

    lanes: tuple[NativeLane, ...] = ()
    packet: int = -1  # the packet socket's descriptor; -1: none
    alike: bytes = bytes(16)  # its device, namespace and mark: copies may leave by another packet socket of the same
    ports: int = 0  # the number of its source ports: copies of several ways that have the same ones may share a message
    outer: bytes = b""  # the headers before each copy that leaves by the packet socket
    gso: bool = False  # several copies of a lane in one message
    overtakes: bool = False  # with gso: copies of one lane may overtake another's
    ring: TxRing | None = None  # what leaves one by one leaves by it
