"""The next hops of copies whose outer headers are ours: their addresses, which the kernel is asked to keep fresh.

The kernel resolves a next hop when it sends there itself. For ours it is asked to (NTF_EXT_MANAGED, Linux 5.16; before,
NTF_USE with each look). A neighbour that an operator made permanent is left as it is.

rtnetlink(7), linux/neighbour.h
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from ipaddress import ip_address
from typing import NamedTuple

from mirrord import kernel
from mirrord.control.host.rtnetlink import NEIGHBOUR, NUMBER, Announcements, Rtnetlink, attribute, attributes, number

NUD_VALID = kernel.NUD_PERMANENT | kernel.NUD_NOARP | 0x02 | 0x04 | 0x08 | 0x10  # reachable, stale, delay, probe
PATIENCE_SECONDS = 0.2
POLL_SECONDS = 0.002
"""How long an answer is waited for when a neighbour is first asked for. Later ones are told of by the bell."""
SILENCE_SECONDS = 1.0
"""How long a neighbour may be without an address before what is sent to it counts as lost: the kernel takes it, holds
some of it back, and discards the rest silently. One that it keeps fresh it asks for ever: that never is failed."""


class Neighbour(NamedTuple):
    """An address on a link."""

    device: int  # index
    address: str


class Known(NamedTuple):
    """What the kernel knows of a neighbour."""

    state: int = 0  # NUD_...
    address: bytes = b""  # MAC; b"" when the state does not let it be used
    managed: bool = False  # the kernel keeps it fresh


class Neighbours:
    """Asks by the netlink socket that it is given. Its bell is its own, of the network namespace it was made in."""

    def __init__(self) -> None:
        self.bell = Announcements(kernel.RTMGRP_NEIGH)
        self._known: dict[Neighbour, bytes] = {}  # with what was last told of them; b"": not resolved
        self._managed: set[Neighbour] = set()
        self._asked: dict[Neighbour, float] = {}  # since when those that were asked have not answered; monotonic

    def find(self, netlink: Rtnetlink, wanted: Mapping[Neighbour, bool]) -> dict[Neighbour, bytes]:
        """The MAC addresses of all that are wanted, b"" where one is not known; the kernel may forget about all others.

        `wanted` tells which the kernel may be asked to resolve. Takes up to `PATIENCE_SECONDS` where some are new.
        """
        self._let_go(netlink, self._known.keys() - wanted.keys())
        found, open_questions = {}, []
        for one, may_ask in wanted.items():
            known = _look(netlink, one)
            if may_ask and not known.state & (kernel.NUD_PERMANENT | kernel.NUD_NOARP) and one not in self._managed:
                known = self._ask(netlink, one)
                if not (known.address or one in self._known):
                    open_questions.append(one)
            found[one] = known.address
        deadline = time.monotonic() + PATIENCE_SECONDS
        while open_questions and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            found |= {one: _look(netlink, one).address for one in open_questions}
            open_questions = [one for one in open_questions if not found[one]]
        self._known = found
        now = time.monotonic()
        self._asked = {one: self._asked.get(one, now) for one, may_ask in wanted.items() if may_ask and not found[one]}
        return found

    def silent(self, one: Neighbour) -> bool:
        """Whether it was asked, and has not answered for `SILENCE_SECONDS`."""
        return one in self._asked and time.monotonic() >= self._asked[one] + SILENCE_SECONDS

    def look_in(self) -> float | None:
        """In how many seconds to look again though nothing is heard: one falls silent, or has to be asked once more."""
        now = time.monotonic()
        due = [
            since + SILENCE_SECONDS - now if since + SILENCE_SECONDS > now else SILENCE_SECONDS
            for one, since in self._asked.items()
            if since + SILENCE_SECONDS > now or one not in self._managed
        ]
        return min(due, default=None)

    def changed(self) -> bool:
        """Empty the bell: whether what it told is news of a next hop, or some of it was lost."""
        news = False
        for kind, _flags, _sequence, body in self.bell.read():
            neighbour, told = _parse(body)
            if neighbour in self._known:
                if kind == kernel.RTM_DELNEIGH:
                    self._managed.discard(neighbour)
                news |= kind == kernel.RTM_DELNEIGH or told.address != self._known[neighbour]
        return self.bell.overrun() or news

    def _let_go(self, netlink: Rtnetlink, gone: Iterable[Neighbour]) -> None:
        for one in self._managed & set(gone):
            self._managed.discard(one)
            with suppress(OSError):
                netlink.ask(
                    kernel.RTM_NEWNEIGH, _question(one, kernel.NTF_USE), kernel.NLM_F_CREATE | kernel.NLM_F_REPLACE
                )

    def _ask(self, netlink: Rtnetlink, wanted: Neighbour) -> Known:
        """Ask the kernel to resolve it. Returns what is known right after."""
        body = _question(wanted, kernel.NTF_USE) + attribute(kernel.NDA_FLAGS_EXT, NUMBER.pack(kernel.NTF_EXT_MANAGED))
        with suppress(OSError):
            netlink.ask(kernel.RTM_NEWNEIGH, body, kernel.NLM_F_CREATE | kernel.NLM_F_REPLACE)
        known = _look(netlink, wanted)
        if known.managed:
            self._managed.add(wanted)
        return known


def states(netlink: Rtnetlink) -> dict[Neighbour, int]:
    """NUD_... of every neighbour that the kernel has. OSError as Rtnetlink."""
    told = map(_parse, netlink.dump(kernel.RTM_GETNEIGH, NEIGHBOUR.pack(socket.AF_UNSPEC, 0, 0, 0, 0)))
    return {neighbour: known.state for neighbour, known in told if neighbour is not None}


def _look(netlink: Rtnetlink, wanted: Neighbour) -> Known:
    try:
        (body,) = netlink.ask(kernel.RTM_GETNEIGH, _question(wanted))
    except OSError:  # it has none
        return Known()
    return _parse(body)[1]


def _question(wanted: Neighbour, flags: int = 0) -> bytes:
    address = ip_address(wanted.address)
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return NEIGHBOUR.pack(family, wanted.device, 0, flags, 0) + attribute(kernel.NDA_DST, address.packed)


def _parse(body: bytes) -> tuple[Neighbour | None, Known]:
    """A message's neighbour, None for one that is no IP address's (a bridge's own table), and what it tells of it."""
    family, index, state, _flags, _type = NEIGHBOUR.unpack_from(body)
    found = attributes(body, NEIGHBOUR.size)
    known = Known(
        state,
        found.get(kernel.NDA_LLADDR, b"") if state & NUD_VALID else b"",
        bool(number(found.get(kernel.NDA_FLAGS_EXT)) & kernel.NTF_EXT_MANAGED),
    )
    if family not in (socket.AF_INET, socket.AF_INET6) or kernel.NDA_DST not in found:
        return None, known
    return Neighbour(index, str(ip_address(found[kernel.NDA_DST]))), known
