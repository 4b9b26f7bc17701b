"""Thousands of sessions: a plan costs as much more as there are more of them, and a change what it changes."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import structlog
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mirrord.control.configuration.config import NOTHING, Files, Loaded, combine
from mirrord.control.host.view import Link, View
from mirrord.control.logs import console
from mirrord.control.pieces import Encoded, pieces
from mirrord.control.planning import plan
from mirrord.control.planning.guests import Resolved
from mirrord.control.planning.overlap import LAST, TOLD_APART_BY, Order
from mirrord.control.planning.plan import Entry, Key, Planner, diff, make
from mirrord.control.planning.sources import devices, matches
from mirrord.control.planning.tunnels import Tunnels
from mirrord.dataplane.closers import Closers
from mirrord.errors import ConfigError
from mirrord.model import Config, DeviceSource, Mirror, Session
from tests.support.calls import calls
from tests.support.wait import wait_for

VIEW = View(links={f"tap{n}": Link(f"tap{n}", n + 1, 1500) for n in range(500)})


def sessions(count: int) -> list[dict[str, Any]]:
    """Two on each tap. Half of them lead to a collector, a quarter each to two devices in a row."""
    ends: list[dict[str, Any]] = [
        {"type": "vxlan", "remote": "192.0.2.9"},
        {"type": "device", "device": "middle"},
        {"type": "vxlan", "remote": "192.0.2.9"},
        {"type": "device", "device": "end"},
    ]
    written = []
    for n in range(count):
        end = dict(ends[n % 4])
        if end["type"] == "vxlan":
            end["vni"] = n
        written.append({"name": f"s{n}", "source": f"tap{n // 2}", "destination": end})
    return [*written, {"name": "on", "source": "middle", "destination": {"type": "device", "device": "end"}}]


def loaded(mirror: dict[str, Any], before: Loaded | None = None) -> Loaded:
    return combine(Files("mirrord.toml"), {**NOTHING, "mirrors": {"m": mirror}}, before=before)


@pytest.mark.parametrize("overlap", ["all", "first"])
def test_configuration_and_plan_cost_as_much_more_as_there_are_more_sessions(overlap: str) -> None:
    costs = []
    for count in (250, 1000):
        mirror = {"overlap": overlap, "sessions": sessions(count)}
        config = loaded(mirror)
        entries = make(config.config, VIEW)
        plans = {key: entry.pipeline for key, entry in entries.items() if entry.pipeline}
        others = {key._replace(session=f"other {key.session}"): plan for key, plan in plans.items()}
        costs.append(
            [
                calls(lambda: loaded(mirror)),  # noqa: B023 (called here)
                calls(lambda: make(config.config, VIEW)),  # noqa: B023
                calls(lambda: diff(plans, others)),  # noqa: B023
            ]
        )
    for few, many in zip(*costs, strict=True):
        assert many < 6 * few, costs


def test_a_change_costs_what_it_changes() -> None:
    """All others' models and entries are the same objects: neither read nor planned again, and equal at a glance."""
    mirror = {"sessions": sessions(100)}
    changed = {"sessions": [*mirror["sessions"][:-1], {**mirror["sessions"][-1], "snaplen": 96}]}
    before, planner = loaded(mirror), Planner()
    after = loaded(changed, before)
    assert after == loaded(changed)
    models = zip(before.config.mirrors["m"].sessions, after.config.mirrors["m"].sessions, strict=True)
    assert [old is new for old, new in models] == [True] * 100 + [False]
    plans = planner.make(before.config, VIEW), planner.make(after.config, replace(VIEW))
    entries = zip(*(plan.values() for plan in plans), strict=True)
    assert [old is new for old, new in entries] == [True] * 100 + [False]


def test_another_tunnel_leaves_the_plans_of_all_others_alone() -> None:
    """All know its packets by guards that they share: those that were there are the same, and so is each other plan."""
    few, more = sessions(100), sessions(104)
    before, planner, tunnels = loaded({"sessions": few}), Planner(), Tunnels()
    after = loaded({"sessions": more}, before)
    old, guards = planner.make(before.config, VIEW), tunnels(before.config)
    new, guarded = planner.make(after.config, VIEW), tunnels(after.config)
    assert new == make(loaded({"sessions": more}).config, VIEW)
    assert [new[key] is entry for key, entry in old.items()] == [True] * len(old)
    known = {id(guard) for guard in guards.rows}
    assert len([one for one in guarded.rows if id(one) not in known]) == 2
    assert set(guarded.rows) == set(Tunnels()(after.config).rows)
    assert tunnels(after.config) is guarded
    assert set(tunnels(before.config).rows) == set(guards.rows)


def test_what_is_equal_and_not_the_same_is_read_again() -> None:
    """To Python 1 and true are equal; VNI 1 is a number, and VNI true is an error."""
    one = {"name": "s", "source": "tap0", "destination": {"type": "vxlan", "remote": "192.0.2.9", "vni": 1}}
    other = copy.deepcopy(one)
    other["destination"]["vni"] = True  # type: ignore[index]
    before = loaded({"sessions": [one]})
    assert loaded({"sessions": [copy.deepcopy(one)]}, before).config.mirrors["m"] is before.config.mirrors["m"]
    with pytest.raises(ConfigError) as refused:
        loaded({"sessions": [other]}, before)
    with pytest.raises(ConfigError) as anew:
        loaded({"sessions": [other]})
    assert refused.value.problems == anew.value.problems


NAMES = st.sampled_from(["tap1", "tap2", "tap*", "tap[12]", "em0"])
SOURCES = st.one_of(
    st.builds(
        lambda device, netns, vlan: {"type": "device", "device": device, "netns": netns, "vlan": vlan},
        st.lists(NAMES, min_size=1, max_size=2, unique=True),
        st.sampled_from([None, None, "ns"]),
        st.sampled_from([None, [5]]),
    ),
    st.builds(lambda vlan: {"type": "bridge", "bridge": "br0", "vlan": vlan}, st.sampled_from([None, [5]])),
    st.builds(lambda key: {"type": "gre", "local": "192.0.2.1", "key": key}, st.sampled_from([None, 1])),
)
ENDS = st.one_of(
    st.builds(
        lambda vni, shared: {"type": "vxlan", "remote": "192.0.2.9", "vni": vni, "shared_vni": shared},
        st.sampled_from([1, 2]),
        st.booleans(),
    ),
    st.builds(lambda name: {"type": "device", "device": name}, st.sampled_from(["out0", "out1"])),
)
SESSIONS = st.lists(st.tuples(SOURCES, ENDS, st.none() | st.integers(1, 40)), max_size=12)


def mirror_of(parts: list[Any], overlap: str) -> Mirror:
    taken: set[int] = set()
    written = []
    for number, (source, destination, priority) in enumerate(parts):
        own = None if priority in taken else priority
        taken.add(priority)
        written.append({"name": f"s{number}", "source": source, "destination": destination, "priority": own})
    return Mirror.model_validate({"overlap": overlap, "sessions": written})


def before(mirror: Mirror, session: Session, device: str) -> list[str]:
    """What the documents say, asked of every pair of sessions."""
    ordered = sorted(mirror.sessions, key=lambda one: one.priority or LAST)
    earlier = ordered[: [one.name for one in ordered].index(session.name)]
    return [one.name for one in earlier if shares(one, session, device) and yields(mirror, one, session)]


def shares(one: Session, other: Session, device: str) -> bool:
    if isinstance(one.source, DeviceSource) and isinstance(other.source, DeviceSource):
        there = one.source.netns == other.source.netns
        return there and any(matches(device, pattern) for pattern in one.source.device)
    without = [{**end.model_dump(), "vlan": None} for end in (one.source, other.source)]
    return without[0] == without[1]


def yields(mirror: Mirror, one: Session, other: Session) -> bool:
    if mirror.overlap == "first":
        return True
    if type(one.destination) is not type(other.destination) or getattr(one.destination, "shared_vni", False):
        return False
    ends = one.destination.model_dump(), other.destination.model_dump()
    return all(ends[0].get(key) == ends[1].get(key) for key in TOLD_APART_BY)


@settings(deadline=None)
@given(SESSIONS, st.sampled_from(["all", "first"]))
def test_who_comes_before_whom_is_found_without_asking_every_pair(parts: list[Any], overlap: str) -> None:
    mirror = mirror_of(parts, overlap)
    links = {name: Link(name, number, 1500) for number, name in enumerate(["tap1", "tap2", "em0", "br0"], 1)}
    view, order = View(links=links, namespaces={"ns": View(links=links)}), Order(mirror)
    for session in mirror.sessions:
        for device in devices(session, view):
            assert [one.name for one in order.before(session, device)] == before(mirror, session, device)


@settings(deadline=None, max_examples=50)
@given(old=SESSIONS, new=SESSIONS, overlap=st.sampled_from(["all", "first"]), moved=st.booleans())
def test_a_plan_made_from_the_one_before_is_the_plan(
    old: list[Any], new: list[Any], overlap: str, *, moved: bool
) -> None:
    """Sessions that stay, change, come and go, on a host that is as before or not."""
    links = {name: Link(name, number, 1500) for number, name in enumerate(["tap1", "tap2", "em0", "out0"], 1)}
    view = View(links=links, namespaces={"ns": View(links=links)})
    later = (
        replace(view, links={**links, "tap1": Link("tap1", 9, 9000), "out1": Link("out1", 7, 1500)}) if moved else view
    )
    planner = Planner()
    first = Config(mirrors={"m": mirror_of(old, "all"), "n": mirror_of(new, overlap)})
    second = Config(mirrors={"m": mirror_of(new, overlap), "n": first.mirrors["n"]})
    for config, seen in ((first, view), (first, later), (second, later), (second, view), (first, view)):
        assert planner.make(config, seen) == make(config, seen)


FILTERS = {name: {"rules": [{"priority": 1, "action": "accept", "protocol": name}]} for name in ("tcp", "udp")}


ALIKE = {"type": "device", "device": ["tap1"]}, {"type": "vxlan", "remote": "192.0.2.9", "vni": 1}, None


@settings(deadline=None, max_examples=50)
@given(
    parts=SESSIONS,
    turns=st.lists(st.tuples(st.permutations(range(12)), st.integers(0, 12), st.booleans()), min_size=1, max_size=4),
    overlap=st.sampled_from(["all", "first"]),
)
@example(parts=[ALIKE] * 3, turns=[(range(12), 3, False), (range(12), 3, True)], overlap="all")
def test_sessions_that_stay_are_planned_as_if_all_were_new(parts: list[Any], turns: list[Any], overlap: str) -> None:
    """The same objects in another company, in another order, by another filter."""
    links = {name: Link(name, number, 1500) for number, name in enumerate(["tap1", "tap2", "em0", "out0"], 1)}
    view = View(links=links, namespaces={"ns": View(links=links)})
    planner, tunnels = Planner(), Tunnels()
    whole = mirror_of(parts, overlap)
    named = [one.model_copy(update={"filter": ("tcp", "udp", None)[n % 3]}) for n, one in enumerate(whole.sessions)]
    for order, count, changed in turns:
        there = tuple(named[place] for place in order[:count] if place < len(named))
        filters = {**FILTERS, "udp": FILTERS["tcp" if changed else "udp"]}
        mirror = whole.model_copy(update={"sessions": there})
        config = Config.model_validate({"filters": filters, "mirrors": {"m": mirror}})
        assert planner.make(config, view) == make(config, view)
        assert tunnels(config).packed == Tunnels()(config).packed


def test_a_bond_that_comes_to_be_a_source_is_told_of_on_its_devices() -> None:
    links = {"em0": Link("em0", 1, 1500, master=2), "bond0": Link("bond0", 2, 1500, kind="bond")}
    end = {"type": "vxlan", "remote": "192.0.2.9"}
    one, bond = ({"name": of, "source": of, "destination": {**end, "vni": n}} for n, of in enumerate(links))
    before, planner, view = loaded({"sessions": [one]}), Planner(), View(links=links)
    after = loaded({"sessions": [one, bond]}, before).config
    for config in (before.config, after, before.config):
        assert planner.make(config, view) == make(config, view)
    assert [one.code for one in make(after, view)["m", "em0", "em0"].warnings] == ["seen_twice"]  # type: ignore[index]


def test_a_session_more_is_planned_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a tap of its own, or on one that others have, too: only where it comes before these do they mind."""
    planned = []
    entry = plan._entry

    def see(resolved: Resolved, key: Key, *rest: Any, **named: Any) -> Entry:
        planned.append(key.session)
        return entry(resolved, key, *rest, **named)

    monkeypatch.setattr(plan, "_entry", see)
    few = sessions(100)
    planner, before = Planner(), loaded({"sessions": few})
    planner.make(before.config, VIEW)
    for more in (
        {"name": "apart", "source": "tap300", "destination": {"type": "vxlan", "remote": "192.0.2.9", "vni": 900}},
        {"name": "beside", "source": "tap1", "destination": {"type": "vxlan", "remote": "192.0.2.9", "vni": 901}},
    ):
        planned.clear()
        planner.make(loaded({"sessions": [*few, more]}, before).config, VIEW)
        assert planned == [more["name"]]
    planned.clear()
    last = {"name": "last", "source": "tap1", "destination": {"type": "device", "device": "end"}}
    planner.make(loaded({"sessions": [*few, last]}, before).config, VIEW)
    assert planned == ["last"]  # "s3" is on tap1 and leads to the end, too, but stands before it
    planned.clear()
    planner.make(loaded({"sessions": few[1:]}, before).config, VIEW)
    assert planned == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(st.text(max_size=3), inner, max_size=5),
    max_leaves=60,
)


@given(JSON)
def test_json_in_pieces_is_json(value: Any) -> None:
    assert "".join(pieces(value)) == json.dumps(value)


@given(st.lists(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=40), min_size=1, max_size=4))
def test_an_object_that_changes_is_encoded_as_by_json(changes: list[list[tuple[int, bool]]]) -> None:
    """Its parts change, come and go, and some are equal and not the same."""
    parts = [{"name": f"s{number}", "of": [True, None, 1.5]} for number in range(41)]
    encoded = Encoded()
    for chosen in changes:
        listed = [parts[number] if same else copy.deepcopy(parts[number]) for number, same in chosen]
        written = {"description": '"', "sessions": listed, "few": [1], "none": []}
        assert encoded(written) == json.dumps(written)


def test_what_stays_of_an_object_is_not_encoded_again() -> None:
    parts, encoded = [{"name": f"s{n}", "source": {"device": ["tap0"]}} for n in range(1000)], Encoded()
    first = calls(lambda: encoded({"sessions": parts}))
    assert calls(lambda: encoded({"sessions": [*parts, {"name": "more"}]})) < first / 4


def test_a_long_list_deep_inside_is_taken_apart() -> None:
    listed = {"mirrors": [{"sessions": [{"name": f"s{n}", "counters": {"a": [n]}} for n in range(100)]}]}
    assert max(map(len, pieces(listed))) < 60


def test_an_iterator_is_a_list_that_is_made_as_it_is_read() -> None:
    made: list[int] = []

    def rows() -> Iterator[dict[str, int]]:
        for number in range(3):
            made.append(number)
            yield {"n": number}

    parts = pieces({"a": 1, "none": iter(()), "rows": rows()})
    begin = ""
    while not made:
        begin += next(parts)
    assert made == [0]
    assert json.loads(begin + "".join(parts)) == {"a": 1, "none": [], "rows": [{"n": 0}, {"n": 1}, {"n": 2}]}


@given(
    st.dictionaries(
        st.sampled_from(["mirror", "session", "reason", "frames"]),
        st.none() | st.integers() | st.booleans() | st.text(max_size=8) | st.lists(st.text(max_size=3), max_size=2),
    ),
    st.text(max_size=10),
    st.sampled_from(["debug", "info", "warning", "error", "critical"]),
)
def test_a_log_line_is_as_structlog_renders_it(keys: dict[str, Any], event: str, level: str) -> None:
    line = {"event": event, **keys, "level": level, "timestamp": "2026-01-31T12:00:00Z"}
    theirs = structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0, sort_keys=False)
    assert console(colors=False)(None, level, dict(line)) == theirs(None, level, dict(line))


def test_closers_wait_together_and_are_gone_afterwards() -> None:
    """Each job waits until a hundred are under way, as those who close sockets wait for the same grace period."""
    closers, meeting, done = Closers("closer"), threading.Barrier(100), []

    def job() -> None:
        meeting.wait(30)
        done.append(time.monotonic())

    for _ in range(200):
        closers.submit(job)
    closers.join(30)
    assert len(done) == 200
    wait_for(lambda: all(one.name != "closer" for one in threading.enumerate()), "their threads have ended")
