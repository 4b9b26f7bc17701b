"""Which of several collectors a conversation goes to.

By rendezvous hashing (Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998): each collector
has a score for each conversation, and the highest one decides. So one that goes or comes moves its own share only, and
sources, workers and hosts that know the same collectors choose alike without a word to each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirrord.dataplane.frame.headers import mix

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from mirrord.plans import ForwardPlan


def seed(address: IPv4Address | IPv6Address) -> int:
    """64 bits of a collector's address, by which it is told from others."""
    number = int.from_bytes(address.packed, "big")
    return mix(mix(number >> 64) ^ number & 0xFFFFFFFFFFFFFFFF)


def recipients(plan: ForwardPlan, conversation: int) -> tuple[int, ...]:
    """The places of the collectors that the copies of a conversation's frame go to; of those that are alive, one of
    which there has to be. `conversation` is its hash (conversation.py).
    """
    if not plan.remotes:
        return (0,)
    alive = [place for place, one in enumerate(plan.remotes) if one.alive]
    if plan.spread_all:
        return tuple(alive)
    return (max(alive, key=lambda place: mix(conversation ^ plan.remotes[place].seed)),)  # the first one of equals
