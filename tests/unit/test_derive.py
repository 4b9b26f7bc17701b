"""Which part of a cluster's sessions is a host's: from the store's records and what is on the host."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from mirrord.cluster import records
from mirrord.cluster.allocation import free_vnis
from mirrord.cluster.derive import Here, Part
from mirrord.cluster.derive import derive as derive_from
from mirrord.cluster.ends import Ends
from mirrord.cluster.etcd import Found
from mirrord.cluster.keys import Keys
from mirrord.cluster.leaving import QUIET_SECONDS, Leaving
from mirrord.cluster.reader import snapshot_of
from mirrord.cluster.records import End, SessionKey, Vnis
from mirrord.cluster.snapshot import Snapshot
from mirrord.control.guests.inventory import Answer, Guest, GuestNic, Place

KEYS = Keys("/mirrord")
VM = {"type": "vm", "vm": "VM-2", "nic": 0}
TO_VM = {"type": "vm", "vm": "VM-1", "nic": 1}
NETWORK = {"addresses": "192.0.2.10-192.0.2.20/24", "gateway": "192.0.2.1"}
END = {("core", "s"): {"b": End("b", "192.0.2.11", 9)}}


def snapshot(*sessions: Mapping[str, Any], mirror: Mapping[str, Any] | None = None, **more: Any) -> Snapshot:
    objects = {KEYS.object("flow_networks", "flow0"): NETWORK, **more}
    objects[KEYS.object("mirrors", "core")] = {"flow_network": "flow0"} if mirror is None else mirror
    objects |= {KEYS.object("sessions", f"s{n or ''}", "core"): one for n, one in enumerate(sessions)}
    config = {key: Found(records.record(one), n + 1, n + 1, 0) for n, (key, one) in enumerate(objects.items())}
    return snapshot_of(KEYS, config)


def look(leaving: Leaving, here: frozenset[SessionKey], ends: Any, received: Any, now: float) -> dict[SessionKey, bool]:
    return leaving.look(here, Ends.of(ends), received, now)


def derive(config: Snapshot, ends: Mapping[SessionKey, Mapping[str, End]], host: Here) -> Part:
    return derive_from(config, Ends.of(ends), host)


def here(*vms: str, host: str = "a", moves: str = "", **more: Any) -> Here:
    guests = tuple(
        Guest(name, f"uuid-{name}", runs=True, nics=(GuestNic("", "", "vnet0"),), moves=name == moves) for name in vms
    )
    there = {Place("vm", "qemu:///system"): Answer(guests)}
    return Here(host, **{"devices": {"flow0": "em02"}, "addresses": {"flow0": "192.0.2.10"}, "guests": there, **more})


def sessions(part: Part) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for mirror in part.objects["mirrors"].values() for one in mirror["sessions"]}


def reasons(part: Part) -> list[tuple[str, str]]:
    return [(half.side, half.reason) for half in part.halves]


ONE = snapshot({"source": VM, "destination": TO_VM, "filter": None, "snaplen": 128, "vni": 5001})


def test_the_sources_host_sends_to_the_destinations() -> None:
    part = derive(ONE, END, here("VM-2"))
    assert sessions(part)["s"]["destination"] == {"type": "vxlan", "remote": "192.0.2.11", "vni": 5001}
    assert sessions(part)["s"]["snaplen"] == 128
    assert part.objects["mirrors"]["core"]["flow_network"] == "flow0"
    network = {"device": "em02", "addresses": "192.0.2.10/24", "gateway": "192.0.2.1"}
    assert part.objects["flow_networks"] == {"flow0": network}
    assert reasons(part) == [("source", "")]
    assert not part.ends


def test_the_destinations_host_listens_and_says_where() -> None:
    part = derive(ONE, {}, here("VM-1"))
    assert sessions(part) == {
        "s.in": {
            "name": "s.in",
            "source": {"type": "vxlan", "flow_network": "flow0", "vni": 5001},
            "direction": "ingress",
            "destination": {**TO_VM, "original_vlan": "keep"},
        }
    }
    assert part.ends == {("core", "s"): "flow0"}
    assert reasons(part) == [("destination", "")]


def test_both_on_one_host_need_no_tunnel_but_it_listens_for_when_the_source_is_elsewhere() -> None:
    part = derive(ONE, END, here("VM-1", "VM-2"))
    assert sessions(part)["s"]["destination"] == TO_VM
    assert sorted(sessions(part)) == ["s", "s.in"]
    assert reasons(part) == [("both", ""), ("destination", "")]


def test_a_host_with_neither_does_nothing() -> None:
    part = derive(ONE, END, here("VM-3"))
    assert not sessions(part)
    assert not part.halves


def test_a_host_that_a_vm_may_come_to_has_an_address_before_it_comes() -> None:
    part = derive(ONE, END, here("VM-3"))
    assert part.objects["flow_networks"].keys() == {"flow0"}
    assert part.objects["mirrors"] == {"core": {"sessions": [], "flow_network": "flow0"}}
    part = derive(ONE, END, here("VM-3", addresses={}))
    assert part.ahead == {"flow0"}
    assert not part.lacking
    assert not part.objects["mirrors"]
    assert not derive(ONE, END, here("VM-3", devices={})).ahead
    device = {"type": "device", "device": "tap2", "host": "a"}
    fixed = snapshot({"source": device, "destination": {**device, "host": "b"}, "vni": 5001})
    assert not derive(fixed, END, here(host="c")).objects["mirrors"]
    off = snapshot({"source": VM, "destination": TO_VM, "vni": 1}, mirror={"flow_network": "flow0", "enabled": False})
    assert not derive(off, END, here("VM-3", addresses={})).ahead


def test_what_is_lacking_is_told_and_keeps_no_other_session_back() -> None:
    two = snapshot(
        {"source": VM, "destination": TO_VM, "vni": 1},
        {"source": VM, "destination": {"type": "vxlan", "remote": "192.0.2.9", "vni": 7}},
    )
    assert "is on no host" in dict(reasons(derive(ONE, {}, here("VM-2"))))["source"]
    gone = {("core", "s"): {"b": End("b", "", 9)}}
    part = derive(two, gone, here("VM-2"))
    assert "'VM-1' is on no host" in reasons(part)[0][1]
    assert list(sessions(part)) == ["s1"]
    part = derive(ONE, END, here("VM-2", devices={}))
    assert "no device for flow network 'flow0'" in reasons(part)[0][1]
    part = derive(ONE, END, here("VM-2", addresses={}))
    assert part.lacking == {"flow0"}
    assert not sessions(part)
    alone = snapshot({"source": VM, "destination": TO_VM}, mirror={})
    assert "no flow network" in reasons(derive(alone, END, here("VM-2")))[0][1]
    assert reasons(derive(alone, END, here("VM-1", "VM-2")))[0] == ("both", "")
    unknown = snapshot({"source": VM, "destination": TO_VM, "vni": 1, "filter": "gone"})
    assert "no filter 'gone'" in reasons(derive(unknown, END, here("VM-2")))[0][1]


def test_disabled_runs_nowhere() -> None:
    for mirror, enabled in (({"flow_network": "flow0", "enabled": False}, True), ({"flow_network": "flow0"}, False)):
        off = snapshot({"source": VM, "destination": TO_VM, "vni": 1, "enabled": enabled}, mirror=mirror)
        assert not derive(off, END, here("VM-1", "VM-2")).halves


def test_devices_are_those_of_the_hosts_that_are_named() -> None:
    ends = {
        "source": {"type": "device", "device": "tap2", "host": "a"},
        "destination": {"type": "device", "device": "tap1", "host": "b"},
    }
    one = snapshot({**ends, "vni": 5001})
    part = derive(one, END, here())
    assert sessions(part)["s"]["source"] == {"type": "device", "device": "tap2"}
    assert sessions(part)["s"]["destination"]["remote"] == "192.0.2.11"
    part = derive(one, {}, here(host="b"))
    assert sessions(part)["s.in"]["destination"] == {"type": "device", "device": "tap1", "original_vlan": "keep"}
    assert not derive(one, END, here(host="c")).halves


def test_of_several_ends_the_last_one_counts_and_one_that_lives_before_one_that_may_not() -> None:
    def remote(*ends: End) -> str:
        part = derive(ONE, {("core", "s"): {end.host: end for end in ends}}, here("VM-2"))
        return str(sessions(part)["s"]["destination"]["remote"])

    old, new = End("b", "192.0.2.11", 9), End("c", "192.0.2.12", 10)
    assert remote(old, new) == "192.0.2.12"
    assert remote(old, new._replace(stale=True)) == "192.0.2.11"
    assert remote(old, new._replace(address="")) == "192.0.2.11"
    assert remote(old._replace(stale=True)) == "192.0.2.11", "a lease that expired stops no source"


def test_a_destination_that_arrives_is_listened_for_and_sent_to_only_when_it_runs() -> None:
    """Libvirt's states on both hosts of a live migration."""
    key = ("core", "s")
    at_b = {key: {"b": End("b", "192.0.2.11", 9)}}
    arrives = derive(ONE, at_b, here("VM-1", moves="VM-1"))
    assert "s.in" in sessions(arrives)
    assert not arrives.ends
    with_source = derive(ONE, at_b, here("VM-1", "VM-2", moves="VM-1"))
    assert sessions(with_source)["s"]["destination"]["remote"] == "192.0.2.11"
    leaves = derive(ONE, at_b, here("VM-1", host="b", moves="VM-1"))
    assert leaves.ends == {key: "flow0"}, "until another host has it"
    stale = {key: {"a": End("a", "192.0.2.10", 3, stale=True), **at_b[key]}}
    assert not derive(ONE, stale, here("VM-1", moves="VM-1")).ends, "what is left of an earlier time says nothing"
    assert derive(ONE, at_b, here("VM-1")).ends == {key: "flow0"}


def test_a_source_that_arrives_is_mirrored_before_it_runs() -> None:
    assert sessions(derive(ONE, END, here("VM-2", moves="VM-2"))).keys() == {"s"}


def test_a_destination_that_has_left_is_listened_for() -> None:
    key = ("core", "s")
    for told in (True, False):
        part = derive(ONE, END, here(left={key: told, ("core", "gone"): True}))
        assert sessions(part).keys() == {"s.in"}
        assert part.ends == ({key: "flow0"} if told else {})
        assert not part.destinations


def test_whoever_has_left_is_listened_for_until_nothing_comes_any_more() -> None:
    key = ("core", "s")
    here_, nowhere = frozenset({key}), frozenset[tuple[str, str]]()
    own = {key: {"a": End("a", "192.0.2.10", 5)}}
    at_b = {key: {**own[key], "b": End("b", "192.0.2.11", 6)}}
    withdrawn = {key: {**at_b[key], "a": End("a", "", 7)}}

    leaving = Leaving("a")
    assert look(leaving, here_, own, {}, 0.0) == {}
    assert look(leaving, nowhere, own, {key: 5}, 100.0) == {key: True}, "nobody else has it yet"
    assert look(leaving, nowhere, at_b, {key: 9}, 101.0) == {key: False}
    assert look(leaving, nowhere, withdrawn, {key: 9}, 101.0 + QUIET_SECONDS - 1) == {key: False}
    assert look(leaving, nowhere, withdrawn, {key: 10}, 120.0) == {key: False}, "some source has not heard of it"
    assert look(leaving, nowhere, withdrawn, {key: 10}, 120.0 + QUIET_SECONDS) == {}

    leaving = Leaving("a")
    assert look(leaving, nowhere, own, {}, 0.0) == {key: True}, "as of before the agent's start"
    assert look(leaving, nowhere, own, {}, QUIET_SECONDS) == {key: False}, "it went for good"
    assert look(leaving, nowhere, own, {}, 1000.0) == {key: False}, "the store cannot be told: sources send here still"
    assert look(leaving, here_, own, {}, 1001.0) == {}, "it came again"
    old = {key: {**own[key], "b": End("b", "192.0.2.11", 4)}}
    assert look(leaving, nowhere, old, {}, 1002.0) == {key: True}, "where it was before says nothing"


def test_a_collector_is_sent_to_from_wherever_the_source_is() -> None:
    one = snapshot(
        {"source": {"type": "vm", "vm": "web-*"}, "destination": {"type": "vxlan", "remote": "192.0.2.9", "vni": 7}}
    )
    for name in ("web-1", "web-2"):
        assert sessions(derive(one, {}, here(name)))["s"]["destination"]["remote"] == "192.0.2.9"
    assert not derive(one, {}, here("db-1")).halves


def test_for_each_session_with_both_vms_there_is_one_listener_and_one_way_to_it() -> None:
    """VMs anywhere on five hosts: every VNI that is sent to an address is listened for there, and no other is."""
    chosen = random.Random(19)
    hosts = {f"h{n}": f"192.0.2.{10 + n}" for n in range(5)}
    for _ in range(50):
        at = {f"VM-{n}": chosen.choice(list(hosts)) for n in range(8)}
        pairs = [chosen.sample(list(at), 2) for _ in range(12)]
        all_of_them = snapshot(
            *(
                {"source": {"type": "vm", "vm": a}, "destination": {"type": "vm", "vm": b, "nic": 1}, "vni": n + 1}
                for n, (a, b) in enumerate(pairs)
            )
        )
        ends: dict[tuple[str, str], dict[str, End]] = {}

        def part(host: str) -> Part:
            vms = [vm for vm, there in at.items() if there == host]  # noqa: B023 (called here)
            return derive(all_of_them, ends, here(*vms, host=host, addresses={"flow0": hosts[host]}))  # noqa: B023

        for host, address in hosts.items():
            for key in part(host).ends:
                ends.setdefault(key, {})[host] = End(host, address, 1)
        sent, heard, local = set(), set(), 0
        for host, address in hosts.items():
            for one in sessions(part(host)).values():
                if one["destination"]["type"] == "vxlan":
                    sent.add((one["destination"]["remote"], one["destination"]["vni"]))
                elif one["source"]["type"] == "vxlan":
                    heard.add((address, one["source"]["vni"]))
                else:
                    local += 1
        assert sent <= heard
        assert len(sent) + local == len(pairs)
        assert len(heard) == len(pairs)


def test_vnis_are_the_lowest_ones_that_are_free() -> None:
    assert free_vnis(Vnis(10, 12), {11}) == [10, 12]
    assert free_vnis(Vnis(10, 12), {10, 11, 12}) == []
    assert len(free_vnis(Vnis(5000, 5999), ())) == 16
