"""Which of a tunnel's collectors get copies, and what there is to say of those that do not. Pure.

A collector gets none while the host cannot send there, or while it is taken for dead (`View.silent`). Where all are
taken for dead, copies are sent all the same, as far as the host can: a wrong verdict then costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mirrord.control.host.view import Collector, Path, View
from mirrord.control.planning.finding import ERROR, WARNING, Finding, tool
from mirrord.control.planning.transmit_choice import no_answer
from mirrord.control.planning.ways_out.common import RemoteState, dead
from mirrord.dataplane.counters import Slot


class Stopped(NamedTuple):
    """What keeps copies on this host: what they are lost as, and why."""

    slot: Slot
    why: Finding


def stopped(way: Path, view: View, *, by_packet: bool = False) -> Stopped | None:
    """What copies by this way are lost as, and why: the kernel would take them and discard them silently. `by_packet`:
    no other socket than a packet socket is to be used.
    """
    route, ip = view.routes.get(way), tool("ip", way.netns or None)
    if route is None:
        problem = view.unreached.get(way, f"no route to {way.remote}")
        remedy = f"{ip} route add {way.remote} via GATEWAY; a device that is down has no routes"
        return Stopped(Slot.dropped_no_route, Finding(ERROR, "no_route", problem, remedy))
    link = view.by_index.get(route.device)
    if trouble := dead(link, way.netns or None):
        return Stopped(Slot.dropped_link_down, trouble)
    if route.silent or (by_packet and route.hop is None):  # which no other socket is to stand in for
        ask = f"{ip} neighbour show dev {link.name if link else route.device}"
        remedy = f"see that it is up and in that network; {ask} tells the state"
        return Stopped(Slot.dropped_no_route, Finding(ERROR, "next_hop", no_answer(way.remote, route), remedy))
    return None


def states(collectors: Sequence[Collector], found: Sequence[Stopped | None], view: View) -> tuple[RemoteState, ...]:
    """How the collectors are; `found` is what keeps copies for each of them here."""
    silences = [view.silent.get(one) for one in collectors]
    can_be_sent = [one is None for one in found]
    up = [can and silence is None for can, silence in zip(can_be_sent, silences, strict=True)]
    if not any(up):  # there is nobody to wait with
        up = [can and silence is not None and silence.over for can, silence in zip(can_be_sent, silences, strict=True)]
    takes = up if any(up) else can_be_sent
    return tuple(
        RemoteState(
            one.path.remote,
            is_up,
            "" if is_up else stop.why.problem if stop else silence.reason if silence else "",
            gets,
        )
        for one, stop, silence, is_up, gets in zip(collectors, found, silences, up, takes, strict=True)
    )


def warnings(found: Sequence[RemoteState]) -> list[Finding]:
    """Who gets no copies, while others do."""
    if not any(one.up for one in found):
        return []
    return [
        Finding(WARNING, "remote_down", f"collector {one.remote} gets no copies: {one.reason}", _SEE_TO_IT)
        for one in found
        if not one.up
    ]


_SEE_TO_IT = "see that it is up, and the way to it; it gets copies again by itself, some seconds after it is there"


def trouble(found: Sequence[RemoteState], ways: Sequence[Stopped | None], netns: str | None) -> Finding | None:
    """Why no copy gets anywhere for now; None where some do."""
    if any(one.up for one in found):
        return None
    if len(found) == 1 and ways[0] is not None:
        return ways[0].why
    reasons = "; ".join(dict.fromkeys(one.reason for one in found))
    told = f"no collector is alive: {reasons}" if len(found) > 1 else f"the collector is not alive: {reasons}"
    if any(one.takes for one in found):
        told += "; copies are sent all the same"
    remedy = f"see to the collectors, and to the way there ({tool('ip', netns)} route get ADDRESS)"
    return Finding(ERROR, "no_remote_up", told, remedy)


def in_words(found: Sequence[RemoteState], words: Sequence[str]) -> str:
    """What is so of all the ways; else of each, by its collector."""
    if len(set(words)) == 1:
        return words[0]
    return "; ".join(f"{one.remote} {text}" for one, text in zip(found, words, strict=True))
