"""What is known of guests: VMs and containers, their NICs, and the devices of this host behind them. Values, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Place(NamedTuple):
    """A manager of guests: libvirt at a URI, or a container engine at a socket."""

    kind: str  # vm, container
    address: str


class GuestNic(NamedTuple):
    """A guest's NIC. `device` is its end on this host, or, where there is none, the NIC itself in its network namespace
    `netns`; "" where there is nothing to capture on, and `reason` says why.
    """

    name: str  # in the guest, as far as that is known: eth0
    mac: str  # lower case
    device: str
    reason: str = ""
    netns: str = ""  # a path or a process's id, as `netns` of a source; "": the device is here


@dataclass(frozen=True, slots=True)
class Guest:
    """A VM or a container. The NICs are in the order of its definition.

    One that `moves` is held still by a migration: it is on its way here, or has not left yet. Its NICs are there, and
    nothing passes them that is its own.
    """

    name: str
    id: str
    runs: bool
    nics: tuple[GuestNic, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    netns: str = ""  # where its other NICs are, as of a GuestNic
    reason: str = ""  # why there can be no others
    moves: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a manager told last, and what keeps it from being followed now ("" for nothing): the last answer holds."""

    guests: tuple[Guest, ...] = ()
    problem: str = ""


Inventory = Mapping[Place, Answer]
