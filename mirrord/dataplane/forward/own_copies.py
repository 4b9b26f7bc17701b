"""Tunnel packets of configured destinations and listeners, which are copies already: they are not mirrored again.

The kernel keeps a copy of this host's away by its mark. A mark does not survive a wire or a network namespace, so what
another host's mirror sends, or one in a container, is known by what it is: a packet with the address of a destination
or listener at either end, of its protocol, port, and key or VNI. Later fragments show none of these; they follow their
first one, through a bounded table. One whose first was not seen is mirrored: to copy once too often does no harm, since
the copy itself is known again.

VXLAN: RFC 7348 5; Geneve: RFC 8926 3.4; GRE: RFC 2784 2.1, 2890 2; ERSPAN: draft-foschiano-erspan 4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from mirrord.dataplane.forward.fragments import Fragments
from mirrord.dataplane.frame.headers import Headers
from mirrord.protocols import UDP_HEADER

_CHECKSUM, _KEY, _SEQUENCE = 1 << 31, 1 << 29, 1 << 28  # of the first word of a GRE header
_SESSION = 0x3FF  # of the first word of an ERSPAN header

MOST_WORDS = 2
_PACKED = struct.Struct("=16sBBHBB2x" + "III" * MOST_WORDS)  # as native/forward/own_copies.c has it


class Word(NamedTuple):
    """32 bits at an offset from the transport header, in host order; `mask` says which of them must be `value`."""

    at: int
    mask: int
    value: int


@dataclass(frozen=True)
class Guard:
    """The packets of one tunnel or stream: an IP protocol (17 UDP, 47 GRE or 6 TCP), and the `address` of one end.

    `port` is the UDP destination port. An unspecified address (0.0.0.0, ::) is any of its family.
    """

    address: IPv4Address | IPv6Address
    protocol: int
    port: int | None = None
    words: tuple[Word, ...] = ()

    @cached_property
    def packed(self) -> bytes:
        """As the native core has it. It is kept: with one guard more, the others are not packed again."""
        return _row(self)

    @cached_property
    def packed_kind(self) -> bytes:
        """What it may have in common with other guards of its address, likewise."""
        port = None if self.port is None else 1
        words = tuple(word._replace(value=0) for word in self.words)
        return _row(replace(self, port=port, words=words), kind=True)


def by_vni(vni: int | None) -> tuple[Word, ...]:
    """What a VXLAN or Geneve packet of this VNI has; None: of any."""
    return () if vni is None else (Word(UDP_HEADER + 4, 0xFFFFFF00, vni << 8),)


def by_gre(protocol: int, key: int | None, *, any_key: bool = False) -> Iterator[tuple[Word, ...]]:
    """What GRE packets have that carry this protocol with this key, or with none; `any_key`: with any, and without."""
    if any_key:
        yield (Word(0, 0xFFFF, protocol),)
    elif key is None:
        yield (Word(0, _KEY | 0xFFFF, protocol),)
    else:
        for checksum, at in ((0, 4), (_CHECKSUM, 8)):
            yield Word(0, _CHECKSUM | _KEY | 0xFFFF, checksum | _KEY | protocol), Word(at, 0xFFFFFFFF, key)


def by_port(port: int) -> Iterator[tuple[Word, ...]]:
    """What TCP segments from this port have, and what those to it have."""
    yield (Word(0, 0xFFFF0000, port << 16),)
    yield (Word(0, 0xFFFF, port),)


def by_erspan(protocol: int, session: int | None) -> tuple[Word, ...]:
    """What ERSPAN packets of this session have, of type II or III by the protocol; None: type I, which has none."""
    if session is None:
        return (Word(0, _SEQUENCE | 0xFFFF, protocol),)
    return Word(0, _SEQUENCE | 0xFFFF, _SEQUENCE | protocol), Word(8, _SESSION, session)


class _Kind(NamedTuple):
    """What guards of one address may have in common: then one look-up tells whether one of them holds."""

    protocol: int
    has_port: bool
    words: tuple[tuple[int, int], ...]  # offset and mask


_Values = tuple[int | None, ...]
"""What a kind leaves open: the port, or None, and the words' values."""


def _parted(guard: Guard) -> tuple[_Kind, _Values]:
    kind = _Kind(guard.protocol, guard.port is not None, tuple((word.at, word.mask) for word in guard.words))
    return kind, (guard.port, *(word.value for word in guard.words))


class Guards:
    """The guards of all that is configured on a host, never to change: each of its sessions is given the same. What
    either plane needs of them is made once, when it is first asked for.
    """

    def __init__(self, rows: Iterable[Guard] = ()) -> None:
        self.rows = tuple(rows)

    @cached_property
    def by_address(self) -> Mapping[bytes, Mapping[_Kind, set[_Values]]]:
        """By the address of either end, zeros for any, and by kind, what guards leave open."""
        found: dict[bytes, dict[_Kind, set[_Values]]] = {}
        for guard in self.rows:
            address = bytes(len(guard.address.packed)) if guard.address.is_unspecified else guard.address.packed
            kind, values = _parted(guard)
            found.setdefault(address, {}).setdefault(kind, set()).add(values)
        return found

    @cached_property
    def packed(self) -> bytes:
        """For the native core: the kinds that there are, then the guards, both in the order of their bytes, so that it
        finds one by halves; an unspecified address is all zeros.
        """
        rows = sorted({guard.packed for guard in self.rows})
        kinds = sorted({guard.packed_kind for guard in self.rows})
        return b"".join(kinds + rows)


NO_GUARDS = Guards()


class OwnCopies:
    """Whether frames are such packets, of frames in the order in which they come."""

    def __init__(self, guards: Guards = NO_GUARDS, firsts: Fragments | None = None) -> None:
        """`firsts`: what was seen of fragments already."""
        self.guards, self.firsts = guards, firsts or Fragments()

    def __call__(self, headers: Headers, data: bytes) -> bool:
        guards = self._candidates(headers)
        if not guards:
            return False
        if headers.divided is None:
            return _any(guards, headers, data)
        if headers.transport is None:  # a later fragment, or one that hides what it carries
            return self.firsts.recall(headers) == 1
        own = _any(guards, headers, data)
        self.firsts.remember(headers, int(own))
        return own

    def _candidates(self, headers: Headers) -> list[tuple[_Kind, set[_Values]]]:
        """The guards of either end's address, and those of any."""
        known = self.guards.by_address
        if headers.family == 0 or not known:
            return []
        ends = (headers.source, headers.destination, bytes(len(headers.source)))
        return [one for address in dict.fromkeys(ends) for one in known.get(address, {}).items()]


def _any(guards: Iterable[tuple[_Kind, set[_Values]]], headers: Headers, data: bytes) -> bool:
    return any(_values(kind, headers, data) in values for kind, values in guards)


def _values(kind: _Kind, headers: Headers, data: bytes) -> _Values | None:
    """What a packet has in the places of this kind; None where it does not have them all."""
    start = headers.transport
    if headers.protocol != kind.protocol or start is None:
        return None
    if any(len(data) < start + at + 4 for at, _ in kind.words):
        return None
    port = headers.destination_port if kind.has_port else None
    words = (int.from_bytes(data[start + at : start + at + 4], "big") & mask for at, mask in kind.words)
    return port, *words


def _row(guard: Guard, *, kind: bool = False) -> bytes:
    words = [number for word in guard.words for number in word]
    words += [0] * (3 * MOST_WORDS - len(words))
    address, port = guard.address.packed.ljust(16, b"\0"), guard.port or 0
    return _PACKED.pack(address, guard.address.version, guard.protocol, port, len(guard.words), kind, *words)
