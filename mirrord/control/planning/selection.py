"""A session's words -> what its capture selects: a guest's directions turned around, and the filter's rules."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import replace

from mirrord import model
from mirrord.control.planning.destinations import describe
from mirrord.control.planning.overlap import before
from mirrord.control.planning.sources import bridged
from mirrord.dataplane.filter.rules import Direction, Rule, Selection
from mirrord.dataplane.forward.own_copies import (
    GRE_ERSPAN,
    GRE_ERSPAN_III,
    GRE_TEB,
    Guard,
    Word,
    by_erspan,
    by_gre,
    by_vni,
)
from mirrord.dataplane.frame.headers import IPPROTO_GRE, IPPROTO_UDP

DIRECTIONS = {"ingress": Direction.INGRESS, "egress": Direction.EGRESS, "both": Direction.BOTH}
TURNED = {
    Direction.INGRESS: Direction.EGRESS,
    Direction.EGRESS: Direction.INGRESS,
    Direction.BOTH: Direction.BOTH,
}


class Selections:
    """What a configuration's sessions take of each device, and what they are: worked out once, without the host.

    A key is a mirror's, a session's and a device's name.
    """

    def __init__(self, config: model.Config) -> None:
        self.config = config
        self._guards = guards(config)
        self._known: dict[tuple[str, str, str], Selection] = {}
        self._about: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {}

    def of(self, mirror: str, session: model.Session, device: str) -> Selection:
        """What this session of this mirror takes, and what those before it have taken already."""
        key = mirror, session.name, device
        if key not in self._known:
            others = before(self.config.mirrors[mirror], session, device)
            earlier = tuple(selection(self.config, one, device) for one in others)
            self._known[key] = replace(selection(self.config, session, device), before=earlier)
        return self._known[key]

    def guards(self, session: model.Session) -> tuple[Guard, ...]:
        """The tunnels whose packets this session takes for copies."""
        return () if session.mirror_tunnels else self._guards

    def about(self, mirror: str, session: model.Session) -> tuple[tuple[str, str], ...]:
        """What this session of this mirror is, in words."""
        key = mirror, session.name
        if key not in self._about:
            self._about[key] = tuple(_words(session))
        return self._about[key]

    def keep(self, keys: Container[tuple[str, str, str]]) -> None:
        """Forget about all others: devices that are gone for good."""
        self._known = {key: one for key, one in self._known.items() if key in keys}


def selection(config: model.Config, session: model.Session, device: str) -> Selection:
    """What this session takes of one of its devices' frames, or its tunnel's."""
    source = session.source
    guest = isinstance(source, model.DeviceSource) and source.perspective == "guest"
    bridge = source if isinstance(source, model.BridgeSource) else None
    rules = None
    if session.filter is not None:
        rules = in_order(config.filters[session.filter], guest=guest)
    return Selection(
        direction=bridged(bridge, device) if bridge else _direction(session.direction, guest=guest),
        rules=rules,
        vlans=None if isinstance(source, model.TunnelSource) or source.vlan is None else frozenset(source.vlan),
        mark=config.daemon.mark,
        mark_mask=config.daemon.mark_mask,
    )


def guards(config: model.Config) -> tuple[Guard, ...]:
    """The tunnels of every configured destination and listener, of disabled mirrors too; always in the same order."""
    found = {
        guard for mirror in config.mirrors.values() for session in mirror.sessions for guard in _tunnels_of(session)
    }
    return tuple(sorted(found, key=_in_order))


def _in_order(guard: Guard) -> tuple[object, ...]:
    return guard.address.version, guard.address.packed, guard.protocol, guard.port or 0, guard.words


def _tunnels_of(session: model.Session) -> Iterator[Guard]:
    to, source = session.destination, session.source
    match to:
        case model.VxlanDestination() | model.GeneveDestination():
            yield Guard(to.remote, IPPROTO_UDP, to.port, by_vni(to.vni))
        case model.GreDestination():
            yield from (Guard(to.remote, IPPROTO_GRE, None, words) for words in by_gre(GRE_TEB, to.key))
        case model.ErspanDestination():
            protocol = GRE_ERSPAN_III if to.erspan_type == "III" else GRE_ERSPAN
            number = None if to.erspan_type == "I" else to.session_id
            yield Guard(to.remote, IPPROTO_GRE, None, by_erspan(protocol, number))
    match source:
        case model.VxlanSource():
            yield Guard(source.local, IPPROTO_UDP, source.port, by_vni(source.vni))
        case model.GreSource():
            taken = by_gre(GRE_TEB, source.key, any_key=source.key is None)
            yield from (Guard(source.local, IPPROTO_GRE, None, words) for words in taken)
        case model.ErspanSource():
            yield from (Guard(source.local, IPPROTO_GRE, None, words) for words in _erspan_taken(source.session_id))


def _erspan_taken(session: int | None) -> Iterator[tuple[Word, ...]]:
    for protocol in (GRE_ERSPAN, GRE_ERSPAN_III):
        if session is None:
            yield from by_gre(protocol, None, any_key=True)
        else:
            yield by_erspan(protocol, session)


def in_order(words: model.Filter, *, guest: bool = False) -> tuple[Rule, ...]:
    """A filter's rules in the order in which they are tried."""
    return tuple(_rule(rule, guest=guest) for rule in sorted(words.rules, key=lambda rule: rule.priority))


def _words(session: model.Session) -> Iterator[tuple[str, str]]:
    destination, transmit = describe(session)
    capture: str = "auto (ring)" if session.capture == "auto" and session.workers > 1 else session.capture
    yield "direction", session.direction
    yield "destination", destination
    yield "filter", session.filter or ""
    yield "capture", "socket" if isinstance(session.source, model.TunnelSource) else capture
    yield "transmit", transmit
    if netns := getattr(session.source, "netns", None):
        yield "netns", netns


def _direction(name: str, *, guest: bool) -> Direction:
    return TURNED[DIRECTIONS[name]] if guest else DIRECTIONS[name]


def _rule(rule: model.Rule, *, guest: bool) -> Rule:
    return Rule(
        priority=rule.priority,
        accept=rule.action == "accept",
        direction=_direction(rule.direction, guest=guest),
        family=None if rule.family is None else int(rule.family.removeprefix("ipv")),
        protocol=rule.protocol,
        sources=rule.source or (),
        destinations=rule.destination or (),
        source_ports=rule.source_ports or (),
        destination_ports=rule.destination_ports or (),
        vlan=rule.vlan,
        ethertype=rule.ethertype,
    )
