"""What must be unique in a cluster: addresses of hosts in a flow network, and VNIs of sessions.

Each is a key that is made only if it is not there, so that of two who want the same one gets it.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from ipaddress import ip_address
from typing import TypeVar

from mirrord.cluster import records
from mirrord.cluster.errors import StoreError
from mirrord.cluster.etcd import Etcd, absent, put
from mirrord.cluster.keys import Keys
from mirrord.cluster.records import Vnis
from mirrord.values import AddressRange

T = TypeVar("T")

CHOICE = 16
"""Among so many of the lowest free ones is chosen: of several who choose at a time, few want the same."""

TRIES = 20
CONFLICT = "conflict"
"""In place of a host's name: the address is in use by something that is none of the cluster's."""


async def address(etcd: Etcd, keys: Keys, network: str, addresses: AddressRange, host: str) -> str:
    """The address of a host in a flow network: the one that it has, or else a free one, from now on its own.

    StoreError `no_address`: all are taken.
    """
    prefix = keys.addresses(network)
    for _ in range(TRIES):
        there = (await etcd.range(prefix)).found
        owners = {key.removeprefix(prefix): _owner(found.value) for key, found in there.items()}
        for one, owner in sorted(owners.items()):
            if owner == host and within(one, addresses):
                return one
        free = _some(
            str(ip_address(number))
            for number in range(int(addresses.first), int(addresses.last) + 1)
            if str(ip_address(number)) not in owners
        )
        if not free:
            why = f"all addresses {addresses} of flow network {network!r} are taken: widen the range, or forget a host"
            raise StoreError("no_address", why)
        key = f"{prefix}{random.choice(free)}"  # noqa: S311 (no secret)
        if (await etcd.change([absent(key)], [put(key, records.record({"host": host}))])).succeeded:
            return key.removeprefix(prefix)
    raise StoreError("no_address", f"others took each address of flow network {network!r} that was tried")


def _owner(text: str) -> str:
    return str(records.read(text, "alloc")[0].get("host", ""))


def within(text: str, addresses: AddressRange) -> bool:
    """Whether it is an address of the range."""
    try:
        one = ip_address(text)
    except ValueError:
        return False
    return one.version == addresses.first.version and int(addresses.first) <= int(one) <= int(addresses.last)


def free_vnis(vnis: Vnis, taken: Collection[int]) -> list[int]:
    """Some of the lowest VNIs that are free."""
    return _some(one for one in range(vnis.first, vnis.last + 1) if one not in taken)


def _some(found: Iterator[T]) -> list[T]:
    return [one for one, _ in zip(found, range(CHOICE), strict=False)]
