"""What rules match of headers: MAC addresses, TCP flags, lengths, and short numbers."""

from __future__ import annotations

import re
from typing import Annotated, NamedTuple

from mirrord.values.addresses import MAC
from mirrord.values.written import NUMBER_OR_LIST, TEXT_OR_LIST, Between, Written, one_or_more, shown_by, unexpected


def parse_mac(value: object) -> str:
    """A MAC address, in lower case from now on."""
    if isinstance(value, str) and MAC.fullmatch(value):
        return value.lower()
    raise unexpected('a MAC address such as "52:54:00:12:34:56"', value)


FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")
"""By their bits in a TCP header, the lowest first (RFC 9293, 3.1)."""


class FlagTest(NamedTuple):
    """TCP flags that must be set, of those that are looked at; bits of the header's byte."""

    mask: int
    value: int


def parse_tcp_flags(value: object) -> FlagTest:
    """Of "syn,!ack": the flags that must be set, and those that must not be."""
    if isinstance(value, tuple):
        return FlagTest(*value)
    expected = f'TCP flags such as "syn" or "syn,!ack", of {", ".join(FLAGS)}'
    if not isinstance(value, str):
        raise unexpected(expected, value)
    mask = wanted = 0
    for word in value.lower().split(","):
        name = word.strip().removeprefix("!").strip()
        if name not in FLAGS:
            raise unexpected(expected, value)
        bit = 1 << FLAGS.index(name)
        if mask & bit:
            raise unexpected(f"each flag once, and {name} is there twice", value)
        mask |= bit
        wanted |= 0 if word.strip().startswith("!") else bit
    return FlagTest(mask, wanted)


def show_tcp_flags(test: tuple[int, int]) -> str:
    """As parse_tcp_flags reads it: those that must be set first."""
    mask, value = test
    named = [(flag, 1 << n) for n, flag in enumerate(FLAGS)]
    are = [flag for flag, bit in named if value & bit]
    return ",".join(are + [f"!{flag}" for flag, bit in named if mask & bit & ~value])


LONGEST = (1 << 31) - 1


def parse_length(value: object) -> tuple[int, int]:
    """The inclusive range of "64", 64, "64-1518", "1519-" or "-63", in bytes."""
    if isinstance(value, tuple):
        low, high = value
        return low, high
    text = str(value) if type(value) is int and value >= 0 else value
    match = re.fullmatch(r"([0-9]{0,9})(-?)([0-9]{0,9})", text) if isinstance(text, str) else None
    if match and (match[1] or match[3]):
        low = int(match[1] or 0)
        high = int(match[3] or LONGEST) if match[2] else low
        if low <= high:
            return low, high
    raise unexpected('lengths in bytes such as "64", "64-1518", "1519-" or "-63"', value)


def show_length(length: tuple[int, int]) -> str:
    """As parse_length reads it, in the shortest way."""
    low, high = length
    if low == high:
        return f"{low}"
    if high == LONGEST:
        return f"{low}-"
    return f"{low}-{high}" if low else f"-{high}"


def _same(value: object) -> object:
    return value


Macs = Annotated[tuple[str, ...], Written(one_or_more(parse_mac), shown_by(_same), TEXT_OR_LIST)]
TcpFlags = Annotated[
    tuple[FlagTest, ...], Written(one_or_more(parse_tcp_flags), shown_by(show_tcp_flags), TEXT_OR_LIST)
]
Lengths = Annotated[
    tuple[tuple[int, int], ...], Written(one_or_more(parse_length), shown_by(show_length), TEXT_OR_LIST)
]
Dscps = Annotated[tuple[int, ...], Written(one_or_more(Between(0, 63).parse), shown_by(_same), NUMBER_OR_LIST)]
IcmpNumbers = Annotated[tuple[int, ...], Written(one_or_more(Between(0, 255).parse), shown_by(_same), NUMBER_OR_LIST)]
