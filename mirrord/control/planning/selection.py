"""A session's words -> what its capture selects: a guest's directions turned around, and the filter's rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from mirrord import model
from mirrord.control.planning.destinations import describe
from mirrord.control.planning.listeners import listeners
from mirrord.control.planning.overlap import Order
from mirrord.control.planning.ways_in import bridge as bridges
from mirrord.dataplane.filter.rules import Direction, Rule, Selection
from mirrord.plans import Inside
from mirrord.protocols import IPPROTO_GRE, IPPROTO_UDP

DIRECTIONS = {"ingress": Direction.INGRESS, "egress": Direction.EGRESS, "both": Direction.BOTH}
TURNED = {
    Direction.INGRESS: Direction.EGRESS,
    Direction.EGRESS: Direction.INGRESS,
    Direction.BOTH: Direction.BOTH,
}


class Words(NamedTuple):
    """All of a session that decides what it takes of a device, beside the daemon's mark."""

    direction: Direction
    filter: str | None
    guest: bool
    vlans: frozenset[int] | None
    overlay: Overlay | None


class Overlay(NamedTuple):
    """Which tunnel packets are meant, as of plans.Inside."""

    vxlan_port: int
    geneve_port: int
    gre: bool


GRE_OVERHEAD = 20 + 4  # IPv4; what is inside may be an IP packet
UDP_OVERHEAD = 20 + 8 + 8 + 14
VXLAN_PORT, GENEVE_PORT = 4789, 6081  # RFC 7348 5, RFC 8926 3.3


class Selections:
    """What a configuration's sessions take of each device, worked out without the host.

    Made of those `before` it costs what is another than there: what is as it was is the same object. Those before are
    not to be used any more.
    """

    def __init__(self, config: model.Config, before: Selections | None = None) -> None:
        self.config = config
        self.listeners = listeners(config)
        orders: Mapping[str, Order] = before.orders if before is not None else {}
        self.orders: dict[str, Order] = {name: Order(one, orders.get(name)) for name, one in config.mirrors.items()}
        self._filters: dict[tuple[str, bool], tuple[Rule, ...]] = {}  # by filter, and whether they are a guest's
        self._alone: dict[Words, Selection] = {}
        self._filters_differ = False  # from those before, of the same names
        if before is not None:
            self._take_over(before)

    def same(self, mirror: str, session: model.Session) -> bool:
        """Whether this session takes of each device what it took, where it is the one that was there before. Nobody
        knows of a tunnel that is received: whoever names an address takes it from those who name none.
        """
        tunnel = isinstance(session.source, model.TunnelSource)
        return not (self._filters_differ or tunnel or self.orders[mirror].changed(session))

    def of(self, mirror: str, session: model.Session, device: str) -> Selection:
        """What this session of this mirror takes, and what those before it have taken already."""
        selected = self._selection(session, device)
        others = self.orders[mirror].before(session, device)
        return replace(selected, before=tuple(self._selection(one, device) for one in others)) if others else selected

    def inside(self, session: model.Session) -> Inside | None:
        """What this session wants of the frames inside of tunnel packets; None where it means the packets."""
        source, overlay = session.source, _overlay(session.source)
        if overlay is None or not isinstance(source, model.CapturedSource):
            return None
        guest = isinstance(source, model.DeviceSource) and source.perspective == "guest"
        rules = None if session.filter is None else self._rules_of(session.filter, guest=guest)
        ident = source.key if source.vni is None else source.vni
        return Inside(Selection(rules=rules), *overlay, ident or 0, any_ident=ident is None, strip=source.strip)

    def _take_over(self, before: Selections) -> None:
        """Keep what has not changed since the configuration before."""
        was, now = before.config, self.config
        filters = {name for name, one in now.filters.items() if one == was.filters.get(name)}
        self._filters_differ = filters != was.filters.keys() & now.filters.keys()
        self._filters = {key: rules for key, rules in before._filters.items() if key[0] in filters}
        if was.daemon == now.daemon:
            alone = before._alone.items()
            self._alone = {words: one for words, one in alone if words.filter is None or words.filter in filters}

    def _selection(self, session: model.Session, device: str) -> Selection:
        """What this session takes of one of its devices' frames, or its tunnel's, whatever those before it take."""
        words = _decisive(session, device)
        if words not in self._alone:
            self._alone[words] = Selection(
                direction=words.direction,
                rules=self._rules(words),
                vlans=words.vlans,
                mark=self.config.daemon.mark,
                mark_mask=self.config.daemon.mark_mask,
            )
        return self._alone[words]

    def _rules(self, words: Words) -> tuple[Rule, ...] | None:
        if words.overlay is not None:
            return tuple(_packets_of(words.overlay))
        return None if words.filter is None else self._rules_of(words.filter, guest=words.guest)

    def _rules_of(self, name: str, *, guest: bool) -> tuple[Rule, ...]:
        if (name, guest) not in self._filters:
            self._filters[name, guest] = in_order(self.config.filters[name], guest=guest)
        return self._filters[name, guest]


def _decisive(session: model.Session, device: str) -> Words:
    source = session.source
    guest = isinstance(source, model.DeviceSource) and source.perspective == "guest"
    bridge = source if isinstance(source, model.BridgeSource) else None
    overlay = _overlay(source)
    return Words(
        direction=bridges.direction(bridge, device) if bridge else _direction(session.direction, guest=guest),
        filter=None if overlay else session.filter,
        guest=guest,
        overlay=overlay,
        vlans=None if isinstance(source, model.TunnelSource) or source.vlan is None else frozenset(source.vlan),
    )


def _overlay(source: object) -> Overlay | None:
    if not isinstance(source, model.CapturedSource) or source.inside is None:
        return None
    every = source.inside == "any"
    return Overlay(
        vxlan_port=(source.inside_port or VXLAN_PORT) if every or source.inside == "vxlan" else 0,
        geneve_port=(source.inside_port or GENEVE_PORT) if every or source.inside == "geneve" else 0,
        gre=source.inside == "gre" or (every and source.vni is None),
    )


def _packets_of(overlay: Overlay) -> Iterator[Rule]:
    """The rules that take what may be such tunnels' packets: what the kernel can tell of them."""
    for port in (overlay.vxlan_port, overlay.geneve_port):
        if port:
            yield Rule(priority=1, accept=True, protocol=IPPROTO_UDP, destination_ports=((port, port),))
    if overlay.gre:
        yield Rule(priority=1, accept=True, protocol=IPPROTO_GRE)


def taken_off(session: model.Session) -> int:
    """By how many bytes the longest frame that is mirrored is shorter than the source's, at least."""
    overlay = _overlay(session.source)
    if overlay is None or not getattr(session.source, "strip", False):
        return 0
    return GRE_OVERHEAD if overlay.gre else UDP_OVERHEAD


def in_order(words: model.Filter, *, guest: bool = False) -> tuple[Rule, ...]:
    """A filter's rules in the order in which they are tried."""
    return tuple(_rule(rule, guest=guest) for rule in sorted(words.rules, key=lambda rule: rule.priority))


def about(session: model.Session) -> Iterator[tuple[str, str]]:
    """What a session is, in words."""
    destination, transmit = describe(session)
    capture: str = "auto (ring)" if session.capture == "auto" and session.workers > 1 else session.capture
    yield "direction", session.direction
    yield "destination", destination
    yield "filter", session.filter or ""
    yield "capture", "socket" if isinstance(session.source, model.TunnelSource) else capture
    yield "transmit", transmit
    if netns := getattr(session.source, "netns", None):
        yield "netns", netns
    if isinstance(session.source, model.CapturedSource) and session.source.inside is not None:
        yield "inside", _inside_words(session.source)


def _inside_words(source: model.CapturedSource) -> str:
    """As in: vxlan port 8472 vni 5, stripped."""
    words = [str(source.inside)]
    words += [f"port {source.inside_port}"] if source.inside_port is not None else []
    words += [f"vni {source.vni}"] if source.vni is not None else []
    words += [f"key {source.key}"] if source.key is not None else []
    return " ".join(words) + ", stripped" * source.strip


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
        source_macs=_packed(rule.source_mac),
        destination_macs=_packed(rule.destination_mac),
        lengths=rule.length or (),
        dscps=rule.dscp or (),
        tcp_flags=rule.tcp_flags or (),
        icmp_types=rule.icmp_type or (),
        icmp_codes=rule.icmp_code or (),
    )


def _packed(macs: tuple[str, ...] | None) -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(mac.replace(":", "")) for mac in macs or ())
