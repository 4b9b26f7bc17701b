"""Sizes in bytes, rates in bits a second, times, shares, and how much of a frame is kept."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, NamedTuple

from mirrord.values.written import TEXT, Between, Written, unexpected

_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SHOWN_SIZES = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1))
# tc(8), PARAMETERS, RATES: "bit" counts bits, "bps" bytes; k, m, g, t are powers of 1000 and ki, mi, gi, ti of 1024.
_RATES = {"": 1} | {
    prefix + unit: scale * bits
    for unit, bits in (("bit", 1), ("bps", 8))
    for power, letter in enumerate(("", "k", "m", "g", "t"))
    for prefix, scale in ((letter, 1000**power), (letter and letter + "i", 1024**power))
}
_SHOWN_RATES = (("Tbit", 10**12), ("Gbit", 10**9), ("Mbit", 10**6), ("Kbit", 10**3), ("bit", 1))
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([a-z]*)", re.IGNORECASE)


def _quantity(value: object, units: dict[str, int], expected: str) -> int:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = _QUANTITY.fullmatch(text) if isinstance(text, str) else None
    scale = units.get(match[2].lower()) if match else None
    if match is None or scale is None:
        raise unexpected(expected, value)
    amount = Decimal(match[1]) * scale
    if amount != int(amount) or amount >= 2**63:
        raise unexpected(expected, value)
    return int(amount)


def _show_quantity(amount: int, units: tuple[tuple[str, int], ...]) -> str:
    if amount == 0:
        return "0"
    return next(f"{amount // scale}{unit}" for unit, scale in units if amount % scale == 0)


def parse_size(value: object) -> int:
    """Bytes of "8MiB", "64KiB", "1GB" or a bare number."""
    return _quantity(value, _SIZES, 'a size such as "8MiB"')


def show_size(size: int) -> str:
    """Return the bytes in the largest unit that holds them exactly, as parse_size reads it."""
    return _show_quantity(size, _SHOWN_SIZES)


def _positive_size(value: object) -> int:
    size = parse_size(value)
    if not size:
        raise unexpected('a size of at least "1B"', value)
    return size


def _ring_size(value: object) -> int:
    size = parse_size(value)
    if size < 4096:  # a ring is made of whole pages
        raise unexpected('a size of at least "4KiB"', value)
    return size


LEAST_RECORDER = 1 << 20  # bytes; no copy is longer


LEAST_BUFFER = 128 << 10  # bytes; the longest packet of a loopback device fits


def _buffer_size(value: object) -> int:
    size = parse_size(value)
    if size < LEAST_BUFFER:
        raise unexpected('a size of at least "128KiB"', value)
    return size


def _recorder_size(value: object) -> int:
    size = parse_size(value)
    if 0 < size < LEAST_RECORDER:
        raise unexpected('"0", or a size of at least "1MiB"', value)
    return size


def parse_rate(value: object) -> int:
    """Bits a second of a rate in tc's units: "200Mbit", "50mbps" (bytes), "1gibit" or a bare number of bits."""
    return _quantity(value, _RATES, 'a rate such as "200Mbit"')


def show_rate(rate: int) -> str:
    """Return the bits a second in the largest unit that holds them exactly, as tc and parse_rate read it."""
    return _show_quantity(rate, _SHOWN_RATES)


_DURATIONS = {"us": 1_000, "ms": 1_000_000}
LONGEST_LATENCY = 10_000_000  # nanoseconds


def parse_latency(value: object) -> int:
    """Nanoseconds, of "0", "500us" or "1ms". ValueError for what is none, or longer than 10 ms."""
    expected = 'a time of at most 10 ms, as "500us" or "1ms"'
    found = re.fullmatch(r"(\d{1,6})(us|ms)|0", value) if isinstance(value, str) else None
    if found is None:
        raise unexpected(expected, value)
    latency = int(found[1]) * _DURATIONS[found[2]] if found[1] else 0
    if latency > LONGEST_LATENCY:
        raise unexpected(expected, value)
    return latency


def show_latency(latency: int) -> str:
    """As it is written, in the largest unit that fits."""
    for unit in ("ms", "us"):
        if latency and latency % _DURATIONS[unit] == 0:
            return f"{latency // _DURATIONS[unit]}{unit}"
    return "0"


def parse_window(value: object) -> int:
    """Nanoseconds, of "1us", "500us", "1ms" or "1s". ValueError for what is none, 0, or longer than a second."""
    found = re.fullmatch(r"(\d{1,7})(us|ms|s)", value) if isinstance(value, str) else None
    window = int(found[1]) * {**_DURATIONS, "s": 10**9}[found[2]] if found else 0
    if not 0 < window <= 10**9:
        raise unexpected('a time of at most 1 s, as "500us" or "1ms"', value)
    return window


_IDLE = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
LONGEST_IDLE = 24 * _IDLE["h"]  # nanoseconds


def parse_idle(value: object) -> int:
    """Nanoseconds, of "500ms", "60s", "5m" or "1h". ValueError for what is none, 0, or longer than a day."""
    found = re.fullmatch(r"(\d{1,9})(ms|s|m|h)", value) if isinstance(value, str) else None
    idle = int(found[1]) * _IDLE[found[2]] if found else 0
    if not 0 < idle <= LONGEST_IDLE:
        raise unexpected('a time of at most 24h, as "500ms", "60s", "5m" or "1h"', value)
    return idle


def show_idle(idle: int) -> str:
    """As it is written, in seconds where they are whole."""
    return f"{idle // _IDLE['s']}s" if idle % _IDLE["s"] == 0 else f"{idle // _IDLE['ms']}ms"


def _percentage(value: object) -> int:
    if value == "" or (value == 0 and not isinstance(value, bool)):
        return 0
    match = re.fullmatch(r"([1-9][0-9]?|100)%", f"{value}%" if type(value) is int else str(value))
    if match is None:
        raise unexpected('a share such as "80%", or "" for none', value)
    return int(match[1])


def parse_cpu_share(value: object) -> int:
    """Percent of one processor, of "50%" or, of several, "150%"; 0 for "0" and "". ValueError for what is none."""
    if value in ("", "0") or (value == 0 and not isinstance(value, bool)):
        return 0
    found = re.fullmatch(r"([1-9]\d{0,5})%", value) if isinstance(value, str) else None
    if found is None:
        raise unexpected('a share of a core such as "50%", "150%" for one and a half, or "0" for no bound', value)
    return int(found[1])


class Snaplen(NamedTuple):
    """How much of a frame is kept: bytes, 0 for all; or, `past_headers`, so many bytes behind its headers."""

    length: int = 0
    past_headers: bool = False

    def __str__(self) -> str:
        if not self.past_headers:
            return f"{self.length}"
        return f"headers+{self.length}" if self.length else "headers"


LONGEST_SNAPLEN = (1 << 31) - 1
_SNAPLEN_FORMS = f'a whole number from 0 to {LONGEST_SNAPLEN}, "headers", or "headers+64" for 64 bytes behind them'


def parse_snaplen(value: object) -> Snaplen:
    """What is kept, of 96, "96", "headers" or "headers+64" (65535 at most behind them)."""
    if isinstance(value, Snaplen):
        return value
    match = re.fullmatch(r"headers(?:\+([0-9]{1,5}))?", value) if isinstance(value, str) else None
    if match and int(match[1] or 0) <= 0xFFFF:
        return Snaplen(int(match[1] or 0), past_headers=True)
    try:
        return Snaplen(Between(0, LONGEST_SNAPLEN).parse(value))
    except ValueError:
        raise unexpected(_SNAPLEN_FORMS, value) from None


def show_snaplen(snaplen: Snaplen) -> int | str:
    """A number of bytes as a number, else as parse_snaplen reads it."""
    return str(snaplen) if snaplen.past_headers else snaplen.length


KeptLength = Annotated[Snaplen, Written(parse_snaplen, show_snaplen, {"anyOf": [{"type": "integer"}, TEXT]})]
Size = Annotated[int, Written(parse_size, show_size, TEXT)]
PositiveSize = Annotated[int, Written(_positive_size, show_size, TEXT)]
RingSize = Annotated[int, Written(_ring_size, show_size, TEXT)]
BufferSize = Annotated[int, Written(_buffer_size, show_size, TEXT)]
RecorderSize = Annotated[int, Written(_recorder_size, show_size, TEXT)]
Rate = Annotated[int, Written(parse_rate, show_rate, TEXT)]
Latency = Annotated[int, Written(parse_latency, show_latency, TEXT)]
Window = Annotated[int, Written(parse_window, show_latency, TEXT)]
Idle = Annotated[int, Written(parse_idle, show_idle, TEXT)]
Percentage = Annotated[int, Written(_percentage, lambda share: f"{share}%" if share else "", TEXT)]
CpuShare = Annotated[int, Written(parse_cpu_share, lambda share: f"{share}%" if share else "0", TEXT)]
