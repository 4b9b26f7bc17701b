"""From configuration and host to a plan, and from one plan to the next."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrord.control.host.view import Collector, Link, Path, Route, Traits, View
from mirrord.control.planning.collectors import Collectors
from mirrord.control.planning.plan import Add, Entry, Key, Planner, Remove, Rename, Replace, diff, make
from mirrord.control.planning.tunnels import Tunnels
from mirrord.dataplane.counters import Slot
from mirrord.dataplane.filter.rules import Direction, Rule, Selection
from mirrord.dataplane.forward import encap
from mirrord.model import Config, FlowNetwork
from mirrord.plans import (
    CapturePlan,
    DevicePlan,
    FilePlan,
    ForwardPlan,
    Inside,
    ListenPlan,
    PipelinePlan,
    Tunnel,
    TunnelPlan,
)

MARK = 0x10000000
TAP = Link("tap0", 5, 1500)
EM, UP = Link("em0", 6, 1500, takes_ring=True), Link("up0", 7, 1600, takes_ring=True)
REMOTE = Path("192.0.2.9", "", MARK)
VIEW = View(
    links={link.name: link for link in (TAP, EM, UP)},
    default_routes=frozenset({UP.index}),
    routes={REMOTE: Route(UP.index, 1600)},
)
TO_VXLAN = 'destination = { type = "vxlan", remote = "192.0.2.9", vni = 7 }'


def config(*sessions: str, mirror: str = "") -> Config:
    """One mirror `m`; each session is its keys but the name, which is s0, s1, ..."""
    tables = "".join(f'[[mirrors.m.sessions]]\nname = "s{n}"\n{keys}\n' for n, keys in enumerate(sessions))
    return Config.model_validate(tomllib.loads(f"[mirrors.m]\n{mirror}\n{tables}"))


def only(entries: dict[Key, Entry]) -> Entry:
    (entry,) = entries.values()
    return entry


def running(entries: dict[Key, Entry]) -> PipelinePlan:
    pipeline = only(entries).pipeline
    assert pipeline is not None, only(entries)
    return pipeline


def test_a_vxlan_session_becomes_one_pipeline() -> None:
    wanted = config(f'source = "tap0"\nsnaplen = 96\nrate_limit = "1Mbit"\n{TO_VXLAN}')
    assert Collectors()(wanted).active == {Collector(REMOTE, "auto", 17, 4789)}
    assert make(wanted, VIEW)[Key("m", "s0", "tap0")].pipeline == PipelinePlan(
        CapturePlan("tap0", 5, Selection(mark=MARK, mark_mask=MARK), mode="auto"),
        # 20 + 8 bytes of IPv4 and UDP and 8 of VXLAN leave 1564 of the path MTU; the outer Ethernet header is 14
        ForwardPlan(encap.vxlan(7), snaplen=96, frame_limit=1564, rate_limit=1_000_000, overhead=42),
        TunnelPlan("192.0.2.9", 4789, mark=MARK),
    )


def test_a_device_that_is_set_aside_for_copies_is_used_for_nothing_else() -> None:
    bridge, port = Link("br0", 8, 1500, kind="bridge"), Link("tap1", 9, 1500, master=8)
    view = replace(VIEW, links={one.name: one for one in (TAP, EM, UP, bridge, port)})
    wanted = config(
        f'source = "tap0"\n{TO_VXLAN}',
        'source = { type = "bridge", bridge = "br0" }\ndestination = { type = "device", device = "em0" }',
    )
    written = {
        "a": {"device": "up0", "addresses": "192.0.2.1/24"},
        "b": {"device": "tap1", "addresses": "192.0.2.1/24"},
    }
    networks = {name: FlowNetwork.model_validate(one) for name, one in written.items()}
    entries = make(wanted.model_copy(update={"flow_networks": networks}), view)
    aside = "is set aside for the copies of flow network"
    assert {key.source: (entry.state, entry.reason) for key, entry in entries.items()} == {
        "tap0": ("failed", f"up0 {aside} 'a' alone, but the route to 192.0.2.9 leads by it"),
        "br0": ("up", ""),
        "tap1": ("failed", f"tap1 {aside} 'b' alone, but it is a port of br0"),
    }


def test_over_ipv6_the_headers_are_longer() -> None:
    wanted = config('source = "tap0"\ndestination = { type = "vxlan", remote = "2001:db8::9", vni = 7 }')
    view = replace(VIEW, routes={Path("2001:db8::9", "", MARK): Route(UP.index, 1600)})
    forward = running(make(wanted, view)).forward
    assert (forward.frame_limit, forward.overhead) == (1600 - 40 - 8 - 8, 14 + 40 + 8)


def test_a_device_session_sends_the_bare_frame() -> None:
    pipeline = running(make(config('source = "tap0"\ndestination = { type = "device", device = "em0" }'), VIEW))
    assert pipeline.transmit == DevicePlan("em0", 6, MARK, takes_ring=True)
    assert pipeline.forward == ForwardPlan(template=encap.bare(), frame_limit=1514)


def to_file(source: str) -> FilePlan:
    path = "/var/lib/mirrord/captures/a/b.pcapng"
    keys = f"snaplen = 96\ndestination = {{ type = 'file', path = '{path}', rotate_size = 1000, keep = 2 }}"
    pipeline = running(make(config(f"source = {source}\n{keys}"), VIEW))
    assert pipeline.forward == ForwardPlan(encap.packet_block(), snaplen=96, overhead=-28)
    assert isinstance(pipeline.transmit, FilePlan)
    return pipeline.transmit


def test_a_file_session_writes_blocks() -> None:
    assert to_file('"tap0"') == FilePlan(
        "/var/lib/mirrord/captures", "a/b.pcapng", "tap0", "mirror m, session s0", 96, rotate_size=1000, keep=2
    )


def test_each_device_of_a_pattern_has_a_file_of_its_own() -> None:
    assert to_file('"tap*"').name == "a/b-tap0.pcapng"


def test_a_file_that_two_would_write_is_written_by_the_first() -> None:
    """Which devices a bridge has, no configuration tells."""
    bridge, port = Link("br0", 8, 1500, kind="bridge"), Link("tap1", 9, 1500, master=8)
    view = replace(VIEW, links={one.name: one for one in (TAP, bridge, port)})
    to = "destination = { type = 'file', path = '/var/lib/mirrord/captures/%s' }"
    sources = ('{ type = "bridge", bridge = "br0" }', '"tap0"', '"tap0"')
    files = ("a.x", "a-tap1.x", "a-tap2.x")
    entries = make(config(*[f"source = {one}\n{to % file}" for one, file in zip(sources, files, strict=True)]), view)
    why = "/var/lib/mirrord/captures/a-tap1.x: session 's0' of mirror 'm' on tap1 writes this file"
    assert {(key.session, key.source): (entry.state, entry.reason) for key, entry in entries.items()} == {
        ("s0", "br0"): ("up", ""),
        ("s0", "tap1"): ("up", ""),
        ("s1", "tap0"): ("failed", why),
        ("s2", "tap0"): ("up", ""),
    }


def test_a_guest_sees_directions_the_other_way_round() -> None:
    wanted = Config.model_validate(
        tomllib.loads(f"""
        [filters.f]
        rules = [ {{ priority = 2, direction = "egress", action = "reject" }},
                  {{ priority = 1, direction = "ingress", action = "accept" }}, {{ priority = 3, action = "accept" }} ]
        [[mirrors.m.sessions]]
        name = "s"
        source = {{ type = "device", device = "tap0", perspective = "guest" }}
        direction = "ingress"
        filter = "f"
        {TO_VXLAN}""")
    )
    selection = running(make(wanted, VIEW)).capture.selection
    assert selection.direction == Direction.EGRESS
    assert selection.rules is not None
    assert [(rule.priority, rule.accept, rule.direction) for rule in selection.rules] == [
        (1, True, Direction.EGRESS),
        (2, False, Direction.INGRESS),
        (3, True, Direction.BOTH),
    ]


def test_of_tunnel_packets_the_kernel_takes_what_it_can_tell() -> None:
    """And the filter is of what is inside: another one leaves what is captured as it is."""
    inside = 'source = { device = "tap0", perspective = "guest", inside = "any", vni = 7, strip = true }'
    text = '[filters.f]\nrules = [{ priority = 1, action = "accept", direction = "ingress", protocol = PROTOCOL }]\n'
    text += f'[[mirrors.m.sessions]]\nname = "s0"\nfilter = "f"\ndirection = "ingress"\n{inside}\n{TO_VXLAN}'
    before, after = (Config.model_validate(tomllib.loads(text.replace("PROTOCOL", one))) for one in ('"tcp"', '"udp"'))
    planner = Planner()
    first, second = (running(planner.make(one, VIEW)) for one in (before, after))
    rules = tuple(Rule(1, accept=True, protocol=17, destination_ports=((port, port),)) for port in (4789, 6081))
    assert first.capture.selection == Selection(Direction.EGRESS, rules, mark=MARK, mark_mask=MARK)
    wanted = Selection(rules=(Rule(1, accept=True, direction=Direction.EGRESS, protocol=6),))
    assert first.forward.inside == Inside(wanted, 4789, 6081, gre=False, ident=7, any_ident=False, strip=True)
    assert second.capture.selection is first.capture.selection
    assert second.forward.inside is not None
    assert second.forward.inside.selection.rules == (replace(wanted.rules[0], protocol=17),)  # type: ignore[index]
    assert isinstance(diff({Key("m", "s0", "tap0"): first}, {Key("m", "s0", "tap0"): second})[0], Replace)


def test_every_configured_tunnel_is_guarded_against_unless_asked_for() -> None:
    other = 'source = "em0"\ndestination = { type = "vxlan", remote = "2001:db8::9", vni = 1, port = 8472 }'
    off = config(f'source = "tap0"\n{TO_VXLAN}', other, mirror="enabled = false").mirrors["m"]
    on = config(f'source = "tap0"\n{TO_VXLAN}', f'source = "em0"\nmirror_tunnels = true\n{TO_VXLAN}').mirrors["m"]
    both = Config(mirrors={"off": off, "on": on})
    entries = make(both, VIEW)
    assert set(entries) == {Key("on", "s0", "tap0"), Key("on", "s1", "em0")}
    assert [entry.pipeline.forward.guarded for entry in entries.values() if entry.pipeline] == [True, False]
    every = [(str(guard.address), guard.protocol, guard.port) for guard in Tunnels()(both).rows]
    assert every == [("192.0.2.9", 17, 4789), ("2001:db8::9", 17, 8472)]


@pytest.mark.parametrize("overlap", ["first", "all"])
def test_sessions_come_before_others_of_their_source(overlap: str) -> None:
    """Of equal destinations only one copies, even where all do; what is on another device has nothing to do with it."""
    vni = 'type = "vxlan", remote = "192.0.2.9", shared_vni = true, vni'
    wanted = config(
        'source = { type = "device", device = ["up0", "tap0"] }\ndestination = { type = "device", device = "em0" }',
        f'source = "tap0"\npriority = 2\ndirection = "egress"\ndestination = {{ {vni} = 7 }}',
        f'source = "tap*"\npriority = 1\ndirection = "ingress"\ndestination = {{ {vni} = 7 }}',
        'source = "tap0"\ndestination = { type = "device", device = "em0" }',
        mirror=f'overlap = "{overlap}"',
    )
    before = {
        (key.session, key.source): [one.direction for one in entry.pipeline.capture.selection.before]
        for key, entry in make(wanted, VIEW).items()
        if entry.pipeline
    }
    first = overlap == "first"
    assert before == {
        ("s0", "up0"): [],
        ("s0", "tap0"): [Direction.INGRESS, Direction.EGRESS] if first else [],
        ("s1", "tap0"): [Direction.INGRESS] if first else [],
        ("s2", "tap0"): [],
        ("s3", "tap0"): [Direction.INGRESS, Direction.EGRESS, Direction.BOTH] if first else [Direction.BOTH],
    }


@pytest.mark.parametrize(
    ("session", "view", "state", "reason"),
    [
        (f'source = "tap9"\n{TO_VXLAN}', VIEW, "waiting", "no such device: tap9"),
        (
            f'source = "tap0"\n{TO_VXLAN}',
            replace(VIEW, links={"tap0": replace(TAP, up=False)}),
            "waiting",
            "device is down: tap0",
        ),
        (
            f'source = "tun0"\n{TO_VXLAN}',
            replace(VIEW, links={"tun0": Link("tun0", 9, 1500, ethernet=False)}),
            "failed",
            "tun0 is neither an Ethernet device nor one of IP packets",
        ),
        (
            f'source = "gre0"\n{TO_VXLAN}',
            replace(
                VIEW, links={"gre0": Link("gre0", 9, 1500, ethernet=False, raw=True, traits=Traits(multipoint=True))}
            ),
            "failed",
            (
                "gre0 is a GRE device without a remote of its own, its packets begin with outer headers:"
                " mirror the device that they leave by"
            ),
        ),
        (
            'source = "tap0"\ndestination = { type = "device", device = "em9" }',
            VIEW,
            "waiting",
            "no such device: em9",
        ),
        (
            'source = "tap0"\ndestination = { type = "device", device = "up0" }',
            VIEW,
            "failed",
            (
                "up0 holds a default route of this host, copies would go out among its own traffic"
                " (allow_default_route = true permits it)"
            ),
        ),
    ],
)
def test_what_cannot_run_says_why(session: str, view: View, state: str, reason: str) -> None:
    entry = only(make(config(session), view))
    assert (entry.state, entry.reason, entry.pipeline) == (state, reason, None)


def test_a_default_route_device_is_taken_when_that_is_meant() -> None:
    wanted = config('source = "tap0"\ndestination = { type = "device", device = "up0", allow_default_route = true }')
    assert running(make(wanted, VIEW)).transmit == DevicePlan("up0", 7, MARK, takes_ring=True)


def test_a_pattern_takes_every_device_that_matches() -> None:
    wanted = config('source = "vm*"\ndestination = { type = "device", device = "em0" }')
    assert only(make(wanted, VIEW)).reason == "no device matches vm*"
    view = replace(VIEW, links={**VIEW.links, "vm2": Link("vm2", 8, 1500), "vm1": Link("vm1", 9, 1500)})
    assert [key.source for key in make(wanted, view)] == ["vm1", "vm2"]


def test_a_pattern_leaves_the_sessions_own_destination_out() -> None:
    source = 'source = { type = "device", device = ["em0", "*0"] }'
    wanted = config(f'{source}\ndestination = {{ type = "device", device = "tap0" }}')
    assert [key.source for key in make(wanted, VIEW)] == ["em0", "up0"]  # em0 once


def test_a_bridge_is_what_enters_its_ports_and_what_the_host_sends_into_it() -> None:
    links = [Link("br0", 9, 1500, kind="bridge")]
    links += [Link(name, index, 1500, master=9) for name, index in (("p1", 11), ("p2", 12), ("sensor", 13))]
    view = replace(VIEW, links={**VIEW.links, **{link.name: link for link in links}})
    source = 'source = { type = "bridge", bridge = "br0", vlan = [7, 9] }'
    wanted = config(f'{source}\ndestination = {{ type = "device", device = "sensor" }}')
    pipelines = {key.source: entry.pipeline for key, entry in make(wanted, view).items()}
    assert {device: one and one.capture.selection.direction for device, one in pipelines.items()} == {
        "br0": Direction.EGRESS,
        "p1": Direction.INGRESS,
        "p2": Direction.INGRESS,
    }
    assert {one and one.capture.selection.vlans for one in pipelines.values()} == {frozenset({7, 9})}
    assert only(make(wanted, replace(VIEW, links={"sensor": links[3]}))).reason == "no such device: br0"
    other = replace(view, links={**view.links, "br0": replace(links[0], kind="bond")})
    assert only(make(wanted, other)).reason == "br0 is not a bridge"


@pytest.mark.parametrize(
    ("source", "destination", "strip", "push"),
    [
        ("", "", False, 0),
        ("", ", vlan = 111", True, 111),
        ("", ', vlan = 111, original_vlan = "keep"', False, 111),
        ("", ', original_vlan = "strip"', True, 0),
        (", vlan = 111", "", True, 0),
        (", vlan = 111", ', original_vlan = "keep"', False, 0),
        (", vlan = 111", ", vlan = 7", True, 7),
    ],
)
def test_the_outermost_tag_goes_where_it_selected_or_is_replaced(
    source: str, destination: str, *, strip: bool, push: int
) -> None:
    ends = f'source = {{ type = "device", device = "tap0"{source} }}\n'
    ends += f'destination = {{ type = "device", device = "em0"{destination} }}'
    wanted = config(ends)
    forward = running(make(wanted, VIEW)).forward
    assert (forward.strip_tag, forward.push_tag) == (strip, push)
    assert Config.model_validate(wanted.model_dump(mode="json")) == wanted


def test_a_device_that_holds_a_default_route_is_never_reserved() -> None:
    to = 'destination = { type = "device", device = "up0", normal_io = false, allow_default_route = true }'
    entry = only(make(config(f'source = "tap0"\n{to}'), VIEW))
    assert (entry.state, entry.reason) == (
        "failed",
        "up0 holds a default route of this host, to reserve it would cut the host off",
    )


def test_frames_too_long_for_the_way_out_are_warned_of() -> None:
    view = replace(VIEW, routes={REMOTE: Route(UP.index, 1500)})
    wanted = config(f'source = "tap0"\n{TO_VXLAN}')
    assert only(make(wanted, VIEW)).warnings == ()  # 1564 bytes carry 1514
    (warning,) = only(make(wanted, view)).warnings
    assert (warning.code, warning.problem) == (
        "mtu",
        (
            "the path MTU to 192.0.2.9, 1500, carries frames of 1464 bytes, but those of tap0 have up to 1514:"
            " longer ones are truncated"
        ),
    )
    assert warning.remedy == "ip link set up0 mtu 1550, and the same all the way; or snaplen = 1464"
    assert only(make(config(f'source = "tap0"\nsnaplen = 96\n{TO_VXLAN}'), view)).warnings == ()
    assert only(make(config(f'source = "tap0"\nsnaplen = "headers"\n{TO_VXLAN}'), view)).warnings == ()
    assert only(make(config(f'source = "tap0"\nsnaplen = "headers+1400"\n{TO_VXLAN}'), view)).warnings == (warning,)


def test_shaping_a_learning_bridge_and_a_missing_route_are_warned_of() -> None:
    view = View(links={"tap0": replace(TAP, qdisc="tbf"), "em0": replace(EM, learning=True)})
    shaped, misled = only(
        make(config('source = "tap0"\ndestination = { type = "device", device = "em0" }'), view)
    ).warnings
    assert (shaped.code, misled.code) == ("shaped", "learning_bridge")
    assert shaped.problem == "source device tap0 is shaped (tbf): what is sent there waits before it is copied"
    assert misled.problem == "em0 is a port of a bridge that learns addresses: copies would mislead it"
    assert misled.remedy == (
        "bridge link set dev em0 learning off, which has it learn no more;"
        " isolate = true takes it off the bridge while it is a destination"
    )
    entry = only(make(config(f'source = "em0"\n{TO_VXLAN}'), replace(VIEW, routes={})))
    assert entry.trouble == "no route to 192.0.2.9"
    assert entry.pipeline is not None  # it counts what it cannot send
    assert entry.pipeline.forward.blocked == Slot.dropped_no_route


@pytest.mark.parametrize(("up", "carrier"), [(False, False), (True, False)])
def test_what_a_dead_device_is_given_counts_as_lost(*, up: bool, carrier: bool) -> None:
    dead = {one.name: replace(one, up=up, carrier=carrier) for one in (EM, UP)}
    view = replace(VIEW, links={"tap0": TAP, **dead})
    for destination in ('destination = { type = "device", device = "em0" }', TO_VXLAN):
        entry = only(make(config(f'source = "tap0"\n{destination}'), view))
        assert entry.trouble
        assert entry.pipeline is not None
        assert entry.pipeline.forward.blocked == Slot.dropped_link_down


plans = st.builds(
    PipelinePlan,
    st.builds(
        CapturePlan,
        st.sampled_from(["tap0", "tap1"]),
        st.sampled_from([5, 6]),
        st.sampled_from([Selection(), Selection(rules=())]),
    ),
    st.builds(ForwardPlan, st.just(encap.bare()), snaplen=st.sampled_from([0, 96])),
    st.builds(DevicePlan, st.just("em0"), st.just(6)),
)
some = st.dictionaries(st.builds(Key, st.just("m"), st.sampled_from("abc"), st.just("tap0")), plans)


@given(some, some)
def test_the_difference_leads_from_one_plan_to_the_other_and_touches_nothing_else(
    old: dict[Key, PipelinePlan], new: dict[Key, PipelinePlan]
) -> None:
    state, touched = dict(old), set()
    for action in diff(old, new):
        touched |= {action.old, action.new} if isinstance(action, Rename) else {action.key}
        match action:
            case Rename(before, after):
                assert after not in state
                state[after] = state.pop(before)
                assert state[after] == new[after]
            case Remove(key):
                del state[key]
            case Add(key, pipeline):
                assert key not in state
                state[key] = pipeline
            case Replace(key, pipeline):
                kept = replace(pipeline.capture, selection=state[key].capture.selection)
                assert (kept, pipeline.transmit) == (state[key].capture, state[key].transmit)
                state[key] = pipeline
    ended = [old[action.key] for action in diff(old, new) if isinstance(action, Remove)]
    begun = [action.pipeline for action in diff(old, new) if isinstance(action, Add) and action.key not in old]
    assert not any(pipeline in begun for pipeline in ended)  # that is a new name
    assert state == new
    assert touched == {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}


def test_a_way_out_is_opened_again_for_a_new_source_address_but_not_for_want_of_a_route() -> None:
    wanted, key = config(f'source = "tap0"\n{TO_VXLAN}'), Key("m", "s0", "tap0")

    def planned(route: Route | None) -> dict[Key, PipelinePlan]:
        return {key: running(make(wanted, replace(VIEW, routes={REMOTE: route} if route else {})))}

    first = planned(Route(UP.index, 1600, "192.0.2.1"))
    (change,) = diff(first, planned(None))
    assert isinstance(change, Replace)
    assert change.pipeline.transmit == first[key].transmit
    assert diff({key: change.pipeline}, first) == [Replace(key, first[key])]
    other = planned(Route(UP.index, 1600, "192.0.2.7"))
    assert diff(first, other) == [Remove(key), Add(key, other[key])]


def test_a_tunnel_is_listened_for_where_the_host_has_its_address() -> None:
    source = '{ type = "vxlan", local = "192.0.2.1", vni = 7, allow = "198.51.100.0/24" }'
    wanted = config(f'source = {source}\nring_size = "1MiB"\ndestination = {{ type = "device", device = "em0" }}')
    key, local = Key("m", "s0", "vxlan:192.0.2.1:4789"), IPv4Address("192.0.2.1")
    assert make(wanted, VIEW)[key].reason == "192.0.2.1 is not an address of this host"
    entry = make(wanted, replace(VIEW, addresses=frozenset({local})))[key]
    assert entry.pipeline is not None
    assert entry.warnings == ()
    # The mark is the outer packet's; the guards look at the frames inside.
    marked = Selection(Direction.INGRESS, mark=MARK, mark_mask=MARK)
    assert [guard.address for guard in Tunnels()(wanted).rows] == [local]
    assert entry.pipeline.capture == ListenPlan(
        Tunnel.VXLAN, local, marked, 4789, 7, (IPv4Network("198.51.100.0/24"),), buffer_size=1 << 20
    )
    six = config('source = { type = "gre", local = "::" }\ndestination = { type = "device", device = "em0" }')
    assert [(key.source, entry.state) for key, entry in make(six, VIEW).items()] == [("gre:[::]", "up")]
