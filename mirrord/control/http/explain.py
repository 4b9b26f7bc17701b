"""Which rule of a filter takes a packet: for whoever asks by the API, and has packets as hexadecimal digits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mirrord.control.planning.selection import in_order
from mirrord.errors import MirrordError
from mirrord.explained import Packet, Totals, explained
from mirrord.model import Filter

MOST_PACKETS = 1000
MOST_COMPARISONS = 500_000  # of a packet with a rule: about a second
MOST_BEFORE = 100  # rules that did not match, the last ones, told of each packet
MOST_BYTES = 1 << 18  # of a packet, as of a capture file
DIRECTIONS = {"ingress": False, "egress": True}
KEYS = {"data", "direction", "length"}


def explain(written: Filter, asked: dict[str, Any]) -> dict[str, Any]:
    """What becomes of each packet, and of all. MirrordError `bad_request`: what is asked is no list of packets."""
    for key in asked:
        if key != "packets":
            raise MirrordError("bad_request", f"unknown key: {key!r}; expected 'packets'", key)
    packets = asked.get("packets")
    if not isinstance(packets, list) or not 1 <= len(packets) <= MOST_PACKETS:
        raise MirrordError("bad_request", f"expected a list of 1 to {MOST_PACKETS} packets", "packets")
    read = list(_packets(packets))
    rules = in_order(written)
    if len(rules) * len(read) > MOST_COMPARISONS:
        message = f"expected at most {MOST_COMPARISONS // len(rules)} packets for {len(rules)} rules"
        raise MirrordError("bad_request", message, "packets")
    told = explained(read, rules, totals := Totals(rules), undirected=False)
    return {"packets": [one.as_json(MOST_BEFORE) for one in told], "totals": totals.as_json()}


def _packets(packets: list[Any]) -> Iterator[Packet]:
    for index, one in enumerate(packets):
        path = f"packets[{index}]"
        if not isinstance(one, dict) or not one.keys() <= KEYS:
            raise MirrordError("bad_request", f"expected an object with {', '.join(sorted(KEYS))}", path)
        data = _data(one.get("data"), f"{path}.data")
        direction, length = one.get("direction"), one.get("length", len(data))
        if direction is not None and direction not in DIRECTIONS:
            raise MirrordError("bad_request", f"expected ingress or egress, not {direction!r}", f"{path}.direction")
        if type(length) is not int or not len(data) <= length <= MOST_BYTES:
            message = f"expected a whole number from {len(data)} to {MOST_BYTES}, not {length!r}"
            raise MirrordError("bad_request", message, f"{path}.length")
        yield data, length, None if direction is None else DIRECTIONS[direction]


def _data(text: Any, path: str) -> bytes:
    """An Ethernet frame of hexadecimal digits; blanks and colons between bytes are passed over."""
    try:
        data = bytes.fromhex(text.replace(":", " "))
    except (AttributeError, ValueError):
        raise MirrordError("bad_request", "expected the bytes of a frame in hexadecimal digits", path) from None
    if not 1 <= len(data) <= MOST_BYTES:
        raise MirrordError("bad_request", f"expected 1 to {MOST_BYTES} bytes, not {len(data)}", path)
    return data
