"""Copies to several collectors: a way out for each, and the forward step says which of them a copy takes.

They have nothing in common but the session: what one jams, or loses the route to, costs the others nothing. One that no
socket can be opened for yet, as without a route, has none; the step, which knows, does not choose it.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from mirrord.dataplane.closers import close_later
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.transmit.lanes import NativeLane
from mirrord.dataplane.transmit.nowhere import Nowhere
from mirrord.dataplane.transmit.sockets import Transmit
from mirrord.dataplane.transmit.tx_ring import TxRings
from mirrord.dataplane.transmit.way import Way
from mirrord.dataplane.transmit.way_out import SharedWayOut
from mirrord.plans import NowherePlan, RemotesPlan, TunnelPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mirrord.dataplane.forward.step import Copy
    from mirrord.dataplane.transmit.way_out import Sent, WayOut
    from mirrord.plans import TransmitPlan


class Remotes(SharedWayOut):
    """A Transmit for each collector, by its place. Raises OSError as that, and has opened none then."""

    def __init__(self, plan: RemotesPlan) -> None:
        super().__init__()
        self.plan = plan
        self._ways: list[Transmit | None] = []
        with ExitStack() as opened:
            for one in plan.remotes:
                way = None if one is None else Transmit(one)
                if way is not None:
                    opened.callback(way.close)
                self._ways.append(way)
            opened.pop_all()

    @property
    def _open(self) -> list[Transmit]:
        return [way for way in self._ways if way is not None]

    def to(self, place: int) -> WayOut:
        return self._ways[place] or _NOWHERE

    def send(self, _copies: Iterable[Copy]) -> Sent:
        raise NotImplementedError  # they are sent `to` one of them

    def lost(self, _error: int) -> Slot:
        return Slot.dropped_no_route

    def follow(self, plan: TransmitPlan) -> None:
        """Take other next hops, and open ways to collectors that there is a route to by now, or another one. The
        addresses are the same.
        """
        assert isinstance(plan, RemotesPlan)
        with ExitStack() as opened:
            ways = [_following(way, one, opened) for way, one in zip(self._ways, plan.remotes, strict=True)]
            opened.pop_all()
        for before, way in zip(self._ways, ways, strict=True):
            if before is not None and before is not way:
                close_later(before)
        self._ways, self.plan = ways, plan

    def begin_turn(self) -> None:
        for way in self._open:
            way.begin_turn()

    def native(self) -> tuple[Way, ...]:
        rings = self.ring
        return tuple(
            Way() if way is None else way.native_way(None if rings is None else rings.of(place, way.device))
            for place, way in enumerate(self._ways)
        )

    @property
    def callback(self) -> Callable[..., NativeLane | None]:
        return self._open_lane

    def _open_lane(self, place: int, number: int) -> NativeLane:
        way = self._ways[place]
        return NativeLane() if way is None else way.lanes.native(number)

    def new_ring(self) -> TxRings | None:
        made = {place: way.new_ring_of_its_own() for place, way in enumerate(self._ways) if way is not None}
        rings = {place: ring for place, ring in made.items() if ring is not None}
        return TxRings(rings) if rings else None

    def told(self) -> bool:
        told = [way.told() for way in self._open]  # each is to be asked
        return any(told)

    def close_all(self) -> None:
        for way in self._open:
            way.close()
        if self.ring is not None:
            self.ring.close()


_NOWHERE = Nowhere(NowherePlan())  # a plan may be ahead of its ways for a moment


def _following(way: Transmit | None, plan: TunnelPlan | None, opened: ExitStack) -> Transmit | None:
    """The way by a new plan: the same one where only its next hop is another, or there is no route any more."""
    if plan is None:
        return way
    if way is not None and isinstance(way.plan, TunnelPlan) and way.plan.by_the_way_of(plan) == plan:
        way.follow(plan)
        return way
    made = Transmit(plan)
    opened.callback(made.close)
    return made
