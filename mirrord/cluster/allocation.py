"""What must be unique in a cluster: addresses of hosts in a flow network, and VNIs of sessions.

Each is a key that is made only if it is not there, so that of two who want the same one gets it.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping
from ipaddress import ip_address
from typing import NamedTuple, TypeVar

from mirrord.cluster import records
from mirrord.cluster.errors import StoreError
from mirrord.cluster.etcd import Etcd, absent, put, unchanged
from mirrord.cluster.keys import Keys
from mirrord.cluster.records import Vnis
from mirrord.values.addresses import AddressRange

T = TypeVar("T")

CHOICE = 16
"""Among so many of the lowest free ones is chosen: of several who choose at a time, few want the same."""

TRIES = 20
MOST_LOOKED_AT = 4096
"""Among so many is chosen by hosts that take an address ahead, which may be all of a cluster at a time."""

CONFLICT = "conflict"
"""In place of a host's name: the address is in use by something that is none of the cluster's. It is listed as a host
is, and freed as one is that is forgotten.
"""


class Network(NamedTuple):
    """A flow network as its record at a revision says: an address is taken only while it says that still."""

    name: str
    addresses: AddressRange
    revision: int


async def address(etcd: Etcd, keys: Keys, network: Network, host: str) -> str:
    """The address of a host in a flow network: the one that it has, or else a free one, from now on its own.

    StoreError `no_address`: all are taken.
    """
    name, addresses, _ = network
    for _ in range(TRIES):
        owners = await _owners(etcd, keys, name)
        if (own := _own(owners, addresses, host)) is not None:
            return own
        free = _some(_free(owners, addresses))
        if not free:
            why = f"all addresses {addresses} of flow network {name!r} are taken: widen the range, or forget a host"
            raise StoreError("no_address", why)
        if (taken := await _taken(etcd, keys, network, free, host)) is not None:
            return taken
        found, _ = await etcd.get(keys.object("flow_networks", name))
        if found is None or found.modified != network.revision:
            raise StoreError("no_address", f"flow network {name!r} was changed meanwhile")
    raise StoreError("no_address", f"others took each address of flow network {name!r} that was tried")


async def ahead(etcd: Etcd, keys: Keys, network: Network, host: str) -> str | None:
    """An address for a host that does not need one yet; None where that would leave others short: less than half of the
    range is free, or another host was faster. StoreError.
    """
    addresses = network.addresses
    owners = await _owners(etcd, keys, network.name)
    if (own := _own(owners, addresses, host)) is not None:
        return own
    size = int(addresses.last) - int(addresses.first) + 1
    if 2 * len(owners) >= size:
        return None
    free = [one for one, _ in zip(_free(owners, addresses), range(MOST_LOOKED_AT), strict=False)]
    return await _taken(etcd, keys, network, free, host)


async def holds(etcd: Etcd, keys: Keys, network: Network, one: str, host: str) -> bool:
    """Whether an address is the host's: it may have been freed, and taken by another one, while nobody looked. Others
    that are the host's are freed.
    """
    owners = await _owners(etcd, keys, network.name)
    if owners.get(one, host) != host or (one not in owners and not await _taken(etcd, keys, network, [one], host)):
        return False
    for other in (address for address, owner in owners.items() if owner == host and address != one):
        await etcd.delete(f"{keys.addresses(network.name)}{other}")
    return True


async def free(etcd: Etcd, keys: Keys, network: str, host: str) -> None:
    """Free what a host has in a flow network that it does not use."""
    for one, owner_ in (await _owners(etcd, keys, network)).items():
        if owner_ == host:
            await etcd.delete(f"{keys.addresses(network)}{one}")


async def conflicts(etcd: Etcd, keys: Keys, network: str, one: str, host: str) -> None:
    """Something else on the link has the host's address: it is nobody's from now on, until somebody frees it."""
    key = f"{keys.addresses(network)}{one}"
    found, _ = await etcd.get(key)
    if found is not None and owner(found.value) == host:
        said = records.record({"host": CONFLICT, "found_by": host})
        await etcd.change([unchanged(key, found.modified)], [put(key, said)], words=f"give up {key}")


async def _owners(etcd: Etcd, keys: Keys, network: str) -> dict[str, str]:
    prefix = keys.addresses(network)
    return {key.removeprefix(prefix): owner(one.value) for key, one in (await etcd.range(prefix)).found.items()}


def _own(owners: Mapping[str, str], addresses: AddressRange, host: str) -> str | None:
    return next((one for one in sorted(owners) if owners[one] == host and within(one, addresses)), None)


def _free(owners: Mapping[str, str], addresses: AddressRange) -> Iterator[str]:
    found = (str(ip_address(number)) for number in range(int(addresses.first), int(addresses.last) + 1))
    return (one for one in found if one not in owners)


async def _taken(etcd: Etcd, keys: Keys, network: Network, free: list[str], host: str) -> str | None:
    """One of these addresses; None where another host took it meanwhile, or the flow network was changed."""
    one = random.choice(free)  # noqa: S311 (no secret)
    key = f"{keys.addresses(network.name)}{one}"
    conditions = [absent(key), unchanged(keys.object("flow_networks", network.name), network.revision)]
    done = await etcd.change(conditions, [put(key, records.record({"host": host}))], words=f"take {key}")
    return one if done.succeeded else None


def owner(text: str) -> str:
    """Which host an address's record says that it is of."""
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
