"""Values that people write as text: sizes, rates, networks, ports, names. Each knows the way in and the way back.

A type here is an annotation for a model's field. Going in, it takes what TOML, JSON and the command line may hold
(so numbers as text, too) and also its own value; going out to JSON it gives back the same vocabulary, so that what is
shown can be used as configuration again. A refusal is a ValueError that says what was expected.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from datetime import date, time
from decimal import Decimal
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

T = TypeVar("T")
Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def unexpected(expected: str, value: object) -> ValueError:
    """The refusal of a value, in the words that all refusals share."""
    shown = _as_written(value)
    return ValueError(f"expected {expected}, not {shown if len(shown) <= 60 else shown[:57] + '...'}")


def _as_written(value: object) -> str:
    """A value as it stands in TOML or JSON, not as Python would show it; text in single quotes."""
    match value:
        case bool():
            return "true" if value else "false"
        case None:
            return "null"
        case date() | time():
            return value.isoformat()
        case list() | tuple():
            return f"[{', '.join(map(_as_written, value))}]"
        case dict():
            pairs = (f"{key} = {_as_written(one)}" for key, one in value.items())
            return f"{{ {', '.join(pairs)} }}" if value else "{}"
        case _:
            return repr(value)


class Between:
    """An integer from `low` to `high`, inclusive; also as decimal, 0x, 0o or 0b text."""

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    def parse(self, value: object) -> int:
        """Return the number; ValueError tells the bounds."""
        number = value
        if isinstance(value, str):
            try:
                number = int(value, 0)
            except ValueError:
                number = None
        if isinstance(number, int) and not isinstance(number, bool) and self.low <= number <= self.high:
            return number
        raise unexpected(f"a whole number from {self.low} to {self.high}", value)

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        plain = core_schema.int_schema(ge=self.low, le=self.high)
        return core_schema.no_info_before_validator_function(self.parse, plain)


class Written:
    """A value read by `parse` and shown by `show`; `schema` describes the text for JSON Schema."""

    def __init__(self, parse: Callable[[Any], T], show: Callable[[T], object], schema: dict[str, Any]) -> None:
        self.parse, self.show, self.schema = parse, show, schema

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        shown = core_schema.plain_serializer_function_ser_schema(self.show, when_used="json")
        return core_schema.no_info_plain_validator_function(self.parse, serialization=shown)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return deepcopy(self.schema)  # pydantic adds to it


TEXT: dict[str, Any] = {"type": "string"}
TEXT_OR_LIST: dict[str, Any] = {"anyOf": [TEXT, {"type": "array", "items": TEXT}]}
NUMBER_OR_LIST: dict[str, Any] = {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]}


MOST_VALUES = 4096  # in a list


def one_or_more(parse: Callable[[object], T]) -> Callable[[object], tuple[T, ...]]:
    """Read one value or a list of them. An empty list is refused: it could mean everything or nothing."""

    def parse_all(value: object) -> tuple[T, ...]:
        if not isinstance(value, (list, tuple)):
            return (parse(value),)
        if not value:
            raise unexpected("at least one value", value)
        if len(value) > MOST_VALUES:
            raise ValueError(f"expected at most {MOST_VALUES} values, not {len(value)}")
        return tuple(parse(item) for item in value)

    return parse_all


def shown_by(show: Callable[[T], object]) -> Callable[[tuple[T, ...]], object]:
    """Show a single value alone, several as a list."""

    def show_all(values: tuple[T, ...]) -> object:
        return show(values[0]) if len(values) == 1 else [show(value) for value in values]

    return show_all


def _same(value: T) -> T:
    return value


def _flag(value: object) -> bool:
    flag = {"true": True, "false": False}.get(value) if isinstance(value, str) else value
    if isinstance(flag, bool):
        return flag
    raise unexpected("true or false", value)


Flag = Annotated[bool, Written(_flag, _same, {"type": "boolean"})]


# Sizes in bytes and rates in bits a second.

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


# Addresses and networks.


def parse_address(value: object) -> Address:
    """Return the address that a text is; a number is none. Each has one way to be written, so that equals are seen."""
    if isinstance(value, (IPv4Address, IPv6Address)):
        return value
    try:
        address = ip_address(value) if isinstance(value, str) else None  # it would take a number, too
    except ValueError:
        address = None
    if address is None:
        raise ValueError(f"{unexpected('an IPv4 or IPv6 address', value)}{_no_address(value)}")
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        raise unexpected(f"an IPv4 address written as such, {address.ipv4_mapped}", value)
    if isinstance(address, IPv6Address) and address.scope_id and not address.is_link_local:
        raise unexpected("a zone behind a link-local address only", value)
    return address


def _no_address(value: object) -> str:
    """What to do about a text that is none, where it is known what it is."""
    if not isinstance(value, str):
        return ""
    if re.fullmatch(r"[0-9.]+:[0-9]+|\[.*\]:[0-9]+", value):
        return "; a port has a key of its own"
    return "" if re.fullmatch(r"[0-9a-fA-F.:/%]*", value) else "; names are not looked up"


def parse_network(value: object) -> Network:
    """Return the network of "192.168.0.0/24", or of one address."""
    if isinstance(value, (IPv4Network, IPv6Network)):
        return value
    if isinstance(value, str) and "%" not in value:
        try:
            network = ip_network(value, strict=False)
        except ValueError:
            pass
        else:
            if str(network.network_address) != str(ip_address(value.partition("/")[0])):
                raise unexpected(f"a network without bits behind its prefix, such as {network}", value)
            return network
    raise unexpected('a network such as "192.168.0.0/24" or "2001:db8::/32"', value)


def _network_list(value: object) -> tuple[Network, ...]:
    return () if value in ([], ()) else one_or_more(parse_network)(value)


class AddressRange(NamedTuple):
    """Addresses of one link, from `first` to `last`, inclusive."""

    first: Address
    last: Address
    prefix_length: int

    @property
    def network(self) -> Network:
        """The network of the link."""
        return ip_network(f"{self.first}/{self.prefix_length}", strict=False)

    def __str__(self) -> str:
        first = f"{self.first}" if self.first == self.last else f"{self.first}-{self.last}"
        return f"{first}/{self.prefix_length}"


def parse_address_range(value: object) -> AddressRange:
    """One address or a range, with the link's prefix length: "192.0.2.10-192.0.2.20/24"."""
    if isinstance(value, AddressRange):
        return value
    match = re.fullmatch(r"([^-/%]+)(?:-([^-/%]+))?/([0-9]{1,3})", value) if isinstance(value, str) else None
    expected = 'an address or a range with its prefix length, such as "192.0.2.10-192.0.2.20/24"'
    if match is None:
        raise unexpected(expected, value)
    try:
        found = AddressRange(ip_address(match[1]), ip_address(match[2] or match[1]), int(match[3]))
        network = found.network
    except ValueError:
        raise unexpected(expected, value) from None
    if found.last not in network or int(found.first) > int(found.last):
        raise unexpected(f"a range that ascends within {network}", value)
    # RFC 1122 3.2.1.3; RFC 4291 2.6.1, from which RFC 6164 5.1 excepts links of two.
    reserved, which = {network.network_address}, "the first"
    if network.version == 4:
        reserved, which = {*reserved, network.broadcast_address}, "the first or the last"
    if network.num_addresses > 2 and reserved & {found.first, found.last}:
        raise unexpected(f"addresses that a host may have, as {which} of {network} may not be one", value)
    if network.is_multicast or network.is_loopback:
        raise unexpected("addresses that copies may come from: neither multicast nor loopback ones", value)
    if network.version == 6 and network.is_link_local:
        raise unexpected("addresses that a collector may see copies come from, not link-local ones", value)
    return found


AnyAddress = Annotated[Address, Written(parse_address, str, TEXT)]
Remotes = Annotated[tuple[Address, ...], Written(one_or_more(parse_address), shown_by(str), TEXT_OR_LIST)]
Networks = Annotated[tuple[Network, ...], Written(one_or_more(parse_network), shown_by(str), TEXT_OR_LIST)]
NetworkList = Annotated[
    tuple[Network, ...],
    Written(_network_list, lambda networks: [str(network) for network in networks], TEXT_OR_LIST),
]
Addresses = Annotated[AddressRange, Written(parse_address_range, str, TEXT)]


# Protocols and ports.

PROTOCOLS = {
    "icmp": 1,
    "igmp": 2,
    "ipip": 4,
    "tcp": 6,
    "udp": 17,
    "dccp": 33,
    "ipv6": 41,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "ipv6-icmp": 58,
    "icmpv6": 58,
    "ospf": 89,
    "pim": 103,
    "vrrp": 112,
    "sctp": 132,
    "udplite": 136,
}
"""Names for IP protocol numbers (IANA, Assigned Internet Protocol Numbers); the same on every host.

Of two for one number the last is shown.
"""

_NAMES = {number: name for name, number in PROTOCOLS.items()}


def parse_protocol(value: object) -> int:
    """Return the number of an IP protocol given by name or number."""
    named = PROTOCOLS.get(value.lower()) if isinstance(value, str) else None
    if named is not None:
        return named
    try:
        return Between(0, 255).parse(value)
    except ValueError:
        raise unexpected(f"a protocol: {', '.join(PROTOCOLS)} or a number from 0 to 255", value) from None


def show_protocol(number: int) -> str | int:
    """Return the protocol's name, or its number if it has none here."""
    return _NAMES.get(number, number)


def parse_ports(value: object) -> tuple[int, int]:
    """The inclusive range of "80", 80 or "1000-2000"."""
    if isinstance(value, tuple):
        low, high = value
        return low, high
    text = str(value) if type(value) is int else value
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text) if isinstance(text, str) else None
    if match:
        low, high = int(match[1]), int(match[2] or match[1])
        if low <= high <= 65535:
            return low, high
    several = "; several are a list" if isinstance(value, str) and "," in value else ""
    told = unexpected('ports such as "80" or "1000-2000", at most 65535', value)
    raise ValueError(f"{told}{several}")


def show_ports(ports: tuple[int, int]) -> str:
    """Return "80" or "1000-2000"."""
    return f"{ports[0]}" if ports[0] == ports[1] else f"{ports[0]}-{ports[1]}"


class Endpoint(NamedTuple):
    """Where a TCP service listens."""

    host: str
    port: int


_LISTEN = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9.-]+)):([0-9]{1,5})")


_LISTEN_EXPECTED = 'an address and a port such as "127.0.0.1:9817" or "[::1]:9817", or "" for none'


def _listen(value: object, expected: str = _LISTEN_EXPECTED) -> Endpoint | None:
    if value is None or isinstance(value, Endpoint):
        return value
    if value == "":
        return None
    match = _LISTEN.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 1 <= int(match[3]) <= 65535:
        raise unexpected(expected, value)
    return Endpoint(match[1] or match[2], int(match[3]))


def _stream_listen(value: object) -> Endpoint:
    """An address of this host, 0.0.0.0 and :: among them, and a port."""
    expected = 'an address and a port such as "127.0.0.1:57012" or "[::1]:57012"'
    endpoint = _listen(value, expected)
    if endpoint is None:
        raise unexpected(expected, value)
    return Endpoint(str(parse_address(endpoint.host)), endpoint.port)


def _show_listen(endpoint: Endpoint | None) -> str:
    if endpoint is None:
        return ""
    return f"[{endpoint.host}]:{endpoint.port}" if ":" in endpoint.host else f"{endpoint.host}:{endpoint.port}"


Protocol = Annotated[int, Written(parse_protocol, show_protocol, {"anyOf": [TEXT, {"type": "integer"}]})]
Ports = Annotated[tuple[tuple[int, int], ...], Written(one_or_more(parse_ports), shown_by(show_ports), TEXT_OR_LIST)]
StreamListen = Annotated[Endpoint, Written(_stream_listen, _show_listen, TEXT)]
Listen = Annotated[Endpoint | None, Written(_listen, _show_listen, TEXT)]


_LIVENESS = re.compile(r"auto|icmp|off|tcp:(?P<port>[0-9]{1,5})")


def _liveness(value: object) -> str:
    found = _LIVENESS.fullmatch(value) if isinstance(value, str) else None
    if found is None or (found["port"] and not 0 < int(found["port"]) < 65536):
        raise unexpected('"auto", "icmp", "tcp:PORT" or "off"', value)
    return found[0]


Liveness = Annotated[str, Written(_liveness, _same, TEXT)]


# Names and paths.

_NAME = re.compile(r"[^\W_][\w.-]{0,62}")  # letters of any script
GLOB = re.compile(r"[*?\[\]]")


def _matching(pattern: re.Pattern[str], expected: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if isinstance(value, str) and pattern.fullmatch(value):
            return value
        raise unexpected(expected, value)

    return parse


def _device(value: object) -> str:
    """As the kernel's dev_valid_name: at most 15 bytes, no slash, colon or space, and neither "." nor ".."."""
    if isinstance(value, str) and GLOB.search(value):
        raise unexpected("the name of one device, without * ? [ and ]", value)
    return _device_or_glob(value)


def _device_or_glob(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[^/:\s\0]+", value) or value in {".", ".."}:
        raise unexpected("the name of a device", value)
    limit = 64 if GLOB.search(value) else 15
    if len(value.encode()) > limit:
        raise unexpected(f"the name of a device, at most {limit} bytes", value)
    return value


LONGEST_PATH = 4095  # linux/limits.h, PATH_MAX, which counts the byte that ends it


def _path(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value or ".." in value.split("/"):
        raise unexpected('an absolute path without ".."', value)
    if len(value.encode()) > LONGEST_PATH:
        raise unexpected(f"a path of at most {LONGEST_PATH} bytes", value)
    return value


def _socket(value: object) -> str:
    if value == "":
        return ""
    path = _path(value)
    if len(path.encode()) > 107:  # sun_path, unix(7)
        raise unexpected("the path of a socket, at most 107 bytes", value)
    return path


def _required_socket(value: object) -> str:
    if value == "":
        raise unexpected("the path of a socket", value)
    return _socket(value)


def _netns(value: object) -> str:
    if isinstance(value, str) and value.startswith("/"):
        return _path(value)
    return _matching(re.compile(r"(?!\.{1,2}$)[^/\0]{1,255}"), "the name or path of a network namespace")(value)


parse_name = _matching(_NAME, "a name: 1 to 63 letters, digits, _, . and -, a letter or digit first")

Name = Annotated[str, Written(parse_name, _same, TEXT)]
_LINE = re.compile(r"[^\x00-\x1f\x7f]{0,1024}")
Description = Annotated[str, Written(_matching(_LINE, "one line of at most 1024 characters"), _same, TEXT)]
Group = Annotated[str, Written(_matching(re.compile(r"[^:\s\0]{0,32}"), "the name of a group"), _same, TEXT)]
Pattern = Annotated[str, Written(_matching(re.compile(r"[^\0]+"), "a path or a pattern of paths"), _same, TEXT)]
Device = Annotated[str, Written(_device, _same, TEXT)]
Devices = Annotated[tuple[str, ...], Written(one_or_more(_device_or_glob), shown_by(_same), TEXT_OR_LIST)]
Path = Annotated[str, Written(_path, _same, TEXT)]
_SERVER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?")
ServerName = Annotated[str, Written(_matching(_SERVER, "the name of a host, or an address"), _same, TEXT)]
Socket = Annotated[str, Written(_required_socket, _same, TEXT)]
OptionalSocket = Annotated[str, Written(_socket, _same, TEXT)]
Netns = Annotated[str, Written(_netns, _same, TEXT)]
VlanId = Annotated[int, Between(1, 4094)]
VlanIds = Annotated[tuple[int, ...], Written(one_or_more(Between(1, 4094).parse), shown_by(_same), NUMBER_OR_LIST)]


# VMs and containers.

MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_GUEST = re.compile(r"[^\x00-\x1f\x7f/]{1,255}")
_CONTAINER = re.compile(r"[^\x00-\x1f\x7f/]{1,255}(/[^\x00-\x1f\x7f/]{1,255})?")


def _nic(value: object) -> int | str:
    """An index, a MAC address (in lower case from now on), or every NIC."""
    if isinstance(value, str) and (value == "*" or MAC.fullmatch(value)):
        return value.lower()
    try:
        return Between(0, 255).parse(value)
    except ValueError:
        raise unexpected('the index of a NIC, from 0 on, its MAC address, or "*"', value) from None


def _one_nic(value: object) -> int | str:
    if value == "*":
        raise unexpected("the index or the MAC address of one NIC", value)
    return _nic(value)


def _guest(value: object) -> str:
    if isinstance(value, str) and GLOB.search(value):
        raise unexpected("one name, not a pattern", value)
    return _guest_or_glob(value)


_guest_or_glob = _matching(_GUEST, "a name or an id of at most 255 characters")
_NIC_SCHEMA: dict[str, Any] = {"anyOf": [{"type": "integer"}, TEXT]}
_LABEL = re.compile(r"[^\x00-\x1f\x7f=\s]{1,255}(=[^\x00-\x1f\x7f]{0,255})?")

Guest = Annotated[str, Written(_guest, _same, TEXT)]
GuestOrGlob = Annotated[str, Written(_guest_or_glob, _same, TEXT)]
Nic = Annotated[int | str, Written(_one_nic, _same, _NIC_SCHEMA)]
Nics = Annotated[int | str, Written(_nic, _same, _NIC_SCHEMA)]
Label = Annotated[str, Written(_matching(_LABEL, 'a label: "app" or "app=web"'), _same, TEXT)]
ContainerOrGlob = Annotated[
    str, Written(_matching(_CONTAINER, "a name or an id of at most 255 characters, or namespace/pod"), _same, TEXT)
]
_CONNECTION = re.compile(r"proc:|[a-z][a-z0-9+.-]*:[!-~]+")
Connection = Annotated[str, Written(_matching(_CONNECTION, 'a URI of libvirt, or "proc:"'), _same, TEXT)]
_ENGINE = re.compile(r"auto|podman|docker|/[^\0]{1,106}")
_engine = _matching(_ENGINE, '"auto", "podman", "docker", or the path of a socket or directory')
Engine = Annotated[str, Written(_engine, _same, TEXT)]
