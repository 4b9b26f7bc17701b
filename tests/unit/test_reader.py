"""What is kept up one record at a time is what reading all of them gives; and what it is written to a file as, too."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrord.cluster import records, state
from mirrord.cluster.ends import Ends, KeptEnds
from mirrord.cluster.etcd import Found
from mirrord.cluster.keys import Keys
from mirrord.cluster.reader import Reader, snapshot_of
from mirrord.cluster.records import ClusterSession, End
from mirrord.cluster.snapshot import Snapshot, Users
from mirrord.model import DeviceDestination, VmDestination, VmSource

KEYS = Keys("/mirrord")

VMS = ("a", "b", "web-*")
SOURCES = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("vm"), "vm": st.sampled_from(VMS)}, optional={"connection": st.just("qemu:///x")}
    ),
    st.fixed_dictionaries(
        {"type": st.just("device"), "device": st.just("tap0")}, optional={"host": st.sampled_from("hk")}
    ),
)
DESTINATIONS = st.one_of(
    st.fixed_dictionaries({"type": st.just("vm"), "vm": st.sampled_from("ab"), "nic": st.just(1)}),
    st.fixed_dictionaries(
        {"type": st.just("device"), "device": st.just("t")}, optional={"host": st.sampled_from("hk")}
    ),
    st.just({"type": "vxlan", "remote": "192.0.2.1", "vni": 7}),
)
SESSIONS = st.fixed_dictionaries(
    {"source": SOURCES, "destination": DESTINATIONS},
    optional={"enabled": st.booleans(), "vni": st.integers(5000, 5003), "colour": st.just("red")},
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "flow_networks": st.fixed_dictionaries({"addresses": st.sampled_from(("192.0.2.1-192.0.2.9/24", "none"))}),
    "filters": st.fixed_dictionaries({"description": st.sampled_from("xy")}, optional={"rules": st.just([])}),
    "mirrors": st.fixed_dictionaries({"enabled": st.booleans()}, optional={"flow_network": st.just("f")}),
    "sessions": SESSIONS,
    "newer": st.just({}),
}


@st.composite
def writes(draw: st.DrawFn) -> tuple[str, str | None]:
    """A key, and what is written to it; None: it is deleted."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from((KEYS.guard, KEYS.cluster))), records.record({"id": draw(st.sampled_from("12"))})
    section = draw(st.sampled_from(list(VALUES)))
    key = KEYS.object(
        section, draw(st.sampled_from("xyz")), draw(st.sampled_from("mn")) if section == "sessions" else ""
    )
    if draw(st.integers(0, 3)) == 0:
        return key, None
    torn = draw(st.integers(0, 9)) == 0
    return key, "{" if torn else records.record(draw(VALUES[section]))


def ordered(snapshot: Snapshot) -> Any:
    """With the order of what people are shown."""
    return snapshot, json.dumps(snapshot.written, default=str)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(writes(), max_size=5), max_size=12))
def test_what_is_kept_up_is_what_a_fresh_reading_of_all_gives(batches: list[list[tuple[str, str | None]]]) -> None:
    reader, config = Reader(KEYS), dict[str, Found]()
    before: list[tuple[Snapshot, Any]] = []
    for revision, batch in enumerate(batches, 1):
        for key, value in batch:
            made = config[key].made if key in config else revision
            found = None if value is None else Found(value, revision, made, 0)
            reader.put(key, found)
            config.pop(key, None)
            if found is not None:
                config[key] = found
        snapshot = reader.snapshot()
        assert ordered(snapshot) == ordered(snapshot_of(KEYS, config))
        assert_users(snapshot)
        before.append((snapshot, copy.deepcopy((snapshot.written, snapshot.sources, set(snapshot.sessions)))))
    for each, then in before:
        assert (each.written, each.sources, set(each.sessions)) == then, "a snapshot never changes"


def assert_users(snapshot: Snapshot) -> None:
    """What is looked up is what looking at all sessions finds."""

    def source(one: ClusterSession, host: str, vm: str) -> bool:
        end = one.session.source
        if isinstance(end, VmSource):
            return end.vm == vm or "*" in end.vm
        return one.source_host in (None, host)

    def destination(one: ClusterSession, host: str, vm: str) -> bool:
        end = one.session.destination
        if isinstance(end, VmDestination):
            return end.vm == vm
        return isinstance(end, DeviceDestination) and one.destination_host == host

    all_of_them: tuple[tuple[Users, Any], ...] = ((snapshot.sources, source), (snapshot.destinations, destination))
    for users, here in all_of_them:
        for host, vm in (("h", "a"), ("k", "b"), ("other", "other")):
            assert users.of(host, [vm]) == {key for key, one in snapshot.sessions.items() if here(one, host, vm)}
    moving = {
        one.mirror
        for one in snapshot.sessions.values()
        if one.session.enabled and {type(one.session.source), type(one.session.destination)} & {VmSource, VmDestination}
    }
    assert set(snapshot.follow) == moving


@given(st.lists(st.tuples(st.sampled_from("st"), st.sampled_from("hk"), st.none() | st.integers(1, 3))))
def test_ends_are_found_by_host_and_by_vni(written: list[tuple[str, str, int | None]]) -> None:
    kept, ends = KeptEnds(), dict[tuple[str, str], dict[str, End]]()
    for session, host, vni in written:
        end = None if vni is None else End(host, "192.0.2.1", 1, vni=vni)
        kept.put(("m", session), host, end)
        ends.setdefault(("m", session), {}).pop(host, None)
        if end is not None:
            ends["m", session][host] = end
        ends = {key: hosts for key, hosts in ends.items() if hosts}
    found = kept.read()
    assert found == Ends.of(ends)
    assert found.by_session == ends
    for host in "hk":
        assert found.of_host(host) == {key: hosts[host] for key, hosts in ends.items() if host in hosts}
    for vni in (1, 2, 3):
        others = {id(one) for one in found.others_by_vni(vni, {("m", "s"): None})}
        assert others == {id(one) for one in ends.get(("m", "t"), {}).values() if one.vni == vni}


ENTRIES = st.dictionaries(st.sampled_from("abcd"), st.none() | st.integers())


@settings(max_examples=50, deadline=None)
@given(news=st.lists(st.fixed_dictionaries({"config": ENTRIES, "ends": ENTRIES, "head": st.integers()}), min_size=1))
def test_the_file_has_what_was_added_line_by_line(
    tmp_path_factory: pytest.TempPathFactory, news: list[dict[str, Any]]
) -> None:
    file = state.StateFile(tmp_path_factory.mktemp("state") / "cluster.json")
    known: dict[str, Any] = {"config": {}, "ends": {}}
    for one in news:
        for key in ("config", "ends"):
            known[key] = {name: value for name, value in {**known[key], **one[key]}.items() if value is not None}
        known["head"] = one["head"]
        (file.write if file.whole else file.add)(known if file.whole else one)
        assert state.read(file.path) == known


def test_a_line_that_was_not_written_to_its_end_is_not_read_and_the_file_is_written_anew(tmp_path: Path) -> None:
    file = state.StateFile(tmp_path / "cluster.json")
    assert file.whole
    file.write({"config": {"a": 1}, "ends": {}, "head": 1})
    file.add({"config": {"b": 2}, "ends": {}, "head": 2})
    known = {"config": {"a": 1, "b": 2}, "ends": {}, "head": 2}
    whole = file.path.read_bytes()
    for length in range(len(whole) - 1, whole.index(b'"b"'), -1):
        file.path.write_bytes(whole[:length])
        assert state.read(file.path) == {"config": {"a": 1}, "ends": {}, "head": 1}
    file.path.unlink()
    with pytest.raises(FileNotFoundError):
        file.add({"config": {}, "ends": {}, "head": 3})
    assert file.whole
    file.write(known)
    assert state.read(file.path) == known
    file.path.write_text('{"version": 9}\n')
    with pytest.raises(ValueError, match="none of this agent's version"):
        state.read(file.path)


def test_a_file_that_has_doubled_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "LEAST_GROWTH", 100)
    file = state.StateFile(tmp_path / "cluster.json")
    file.write({"config": {str(n): n for n in range(50)}, "ends": {}})
    size, added = file.path.stat().st_size, 0
    while not file.whole:
        file.add({"config": {"0": added}, "ends": {}})
        added += 1
    assert 2 * size < file.path.stat().st_size < 3 * size


def test_a_file_of_another_version_is_known_as_such(tmp_path: Path) -> None:
    """Whole or on one line, as the first version had it: its agent begins anew, and another problem is no such."""
    file = tmp_path / "cluster.json"
    for text in ('{"version":1,"replica":{}}', '{"version":1}\n{"version":1}\n', '{"version":99}\n'):
        file.write_text(text)
        with pytest.raises(state.OtherVersionError):
            state.read(file)
    for text in ("", "[]\n", '{"version":2', "no JSON\n"):
        file.write_text(text)
        with pytest.raises(ValueError) as wrong:  # noqa: PT011 (json's own, too)
            state.read(file)
        assert not isinstance(wrong.value, state.OtherVersionError)
