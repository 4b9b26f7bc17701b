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
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from mirrord.dataplane.forward.fragments import Fragments
from mirrord.dataplane.frame.headers import Headers
from mirrord.protocols import UDP_HEADER

_CHECKSUM, _KEY, _SEQUENCE = 1 << 31, 1 << 29, 1 << 28  # of the first word of a GRE header
_SESSION = 0x3FF  # of the first word of an ERSPAN header

MOST_WORDS = 2
_PACKED = struct.Struct("=16sBBHB3x" + "III" * MOST_WORDS)  # as native/forward/own_copies.c has it


class Word(NamedTuple):
    """32 bits at an offset from the transport header, in host order; `mask` says which of them must be `value`."""

    at: int
    mask: int
    value: int


class Guard(NamedTuple):
    """The packets of one tunnel or stream: an IP protocol (17 UDP, 47 GRE or 6 TCP), and the `address` of one end.

    `port` is the UDP destination port. An unspecified address (0.0.0.0, ::) is any of its family.
    """

    address: IPv4Address | IPv6Address
    protocol: int
    port: int | None = None
    words: tuple[Word, ...] = ()


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


class OwnCopies:
    """Whether frames are such packets, of frames in the order in which they come."""

    def __init__(self, guards: tuple[Guard, ...] = (), firsts: Fragments | None = None) -> None:
        """`firsts`: what was seen of fragments already."""
        self.guards = guards
        self._by_address: dict[bytes, list[Guard]] = {}
        for guard in guards:
            address = bytes(len(guard.address.packed)) if guard.address.is_unspecified else guard.address.packed
            self._by_address.setdefault(address, []).append(guard)
        self.firsts = firsts or Fragments()

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

    def _candidates(self, headers: Headers) -> list[Guard]:
        """The guards of either end's address, and those of any."""
        if headers.family == 0 or not self._by_address:
            return []
        ends = (headers.source, headers.destination, bytes(len(headers.source)))
        return [guard for address in dict.fromkeys(ends) for guard in self._by_address.get(address, ())]


def _any(guards: Iterable[Guard], headers: Headers, data: bytes) -> bool:
    return any(_is(guard, headers, data) for guard in guards)


def _is(guard: Guard, headers: Headers, data: bytes) -> bool:
    if headers.protocol != guard.protocol or headers.transport is None:
        return False
    if guard.port is not None and headers.destination_port != guard.port:
        return False
    return all(_has(word, data, headers.transport + word.at) for word in guard.words)


def _has(word: Word, data: bytes, at: int) -> bool:
    return len(data) >= at + 4 and int.from_bytes(data[at : at + 4], "big") & word.mask == word.value


class _Same(NamedTuple):
    """The very same guards: to compare them costs nothing, however many there are."""

    guards: tuple[Guard, ...]

    def __hash__(self) -> int:
        return id(self.guards)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.guards is other.guards


def pack(guards: tuple[Guard, ...]) -> bytes:
    """For the native core: sorted by address, so that it finds one by halves; an unspecified address is all zeros.

    Of the very same guards it is the very same bytes: each of a host's sessions has those of all.
    """
    return _packed(_Same(guards))


@lru_cache(maxsize=8)
def _packed(same: _Same) -> bytes:
    rows = []
    for guard in same.guards:
        words = [number for word in guard.words for number in word]
        words += [0] * (3 * MOST_WORDS - len(words))
        port = 0 if guard.port is None else guard.port
        family = guard.address.version
        rows.append(
            _PACKED.pack(guard.address.packed.ljust(16, b"\0"), family, guard.protocol, port, len(guard.words), *words)
        )
    return b"".join(sorted(rows))
