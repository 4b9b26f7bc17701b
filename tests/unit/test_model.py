"""The vocabulary: every key and its default, what is refused, and that what is shown can be used again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mirrord import model
from mirrord.model import Config, Daemon, FlowNetwork, Mirror, Model, Rule, Session
from mirrord.model.validation import examine

# The keys and defaults of the design, section 2. REQUIRED and OPTIONAL (no value) are how it marks the others.
REQUIRED, OPTIONAL = object(), None
SESSION: dict[str, object] = {
    "name": REQUIRED,
    "description": "",
    "enabled": True,
    "priority": OPTIONAL,
    "direction": "both",
    "source": REQUIRED,
    "filter": OPTIONAL,
    "destination": REQUIRED,
    "snaplen": 0,
    "payload": "keep",
    "sampling_rate": 1,
    "flow_limit": OPTIONAL,
    "rate_limit": "0",
    "packet_limit": 0,
    "overload": "frames",
    "on_mtu_exceeded": "truncate",
    "count_rules": False,
    "mirror_tunnels": False,
    "capture": "auto",
    "ring_size": OPTIONAL,
    "workers": 1,
    "transmit": "auto",
    "gso": "auto",
    "pause_above": "",
    "recorder": "0",
}
DAEMON: dict[str, object] = {
    "socket": "/run/mirrord/mirrord.sock",
    "socket_group": "",
    "read_only_socket": "",
    "read_only_group": "",
    "metrics": "127.0.0.1:9817",
    "state": "/var/lib/mirrord/state.db",
    "include": ["/etc/mirrord/conf.d/*.toml"],
    "capture_directories": ["/var/lib/mirrord/captures"],
    "mark": 0x10000000,
    "mark_mask": 0x10000000,
    "dataplane": "auto",
    "ring_size": "8MiB",
    "nice": 0,
    "latency": "1ms",
    "cpu_limit": "0",
    "memory_limit": "0",
    "log_level": "info",
}
TAGGED = {"original_vlan": "keep", "vlan_tpid": OPTIONAL}
TUNNEL = TAGGED | {
    "remote": REQUIRED,
    "spread": "flow",
    "liveness": "auto",
    "local": OPTIONAL,
    "dscp": 0,
    "ttl": 64,
    "netns": OPTIONAL,
}
RECEIVED = {"local": REQUIRED, "flow_network": OPTIONAL, "allow": []}
INSIDE = {"inside": OPTIONAL, "strip": False, "inside_port": OPTIONAL, "vni": OPTIONAL, "key": OPTIONAL}
DOCUMENTED: dict[type[Model], dict[str, object]] = {
    Daemon: DAEMON,
    FlowNetwork: {"description": "", "device": REQUIRED, "addresses": REQUIRED, "gateway": OPTIONAL},
    model.Filter: {"description": "", "rules": REQUIRED},
    Rule: {"priority": REQUIRED, "direction": "both", "action": REQUIRED}
    | dict.fromkeys(("family", "protocol", "source", "destination", "source_ports", "destination_ports"))
    | {"vlan": OPTIONAL, "ethertype": OPTIONAL}
    | dict.fromkeys(("source_mac", "destination_mac", "length", "dscp", "tcp_flags", "icmp_type", "icmp_code")),
    Mirror: {
        "description": "",
        "flow_network": OPTIONAL,
        "enabled": True,
        "expires": OPTIONAL,
        "overlap": "all",
        "duplicates": "keep",
        "duplicate_window": "1ms",
        "sessions": [],
    },
    Session: SESSION,
    model.FlowLimit: {"packets": OPTIONAL, "bytes": OPTIONAL, "then": "skip", "idle": "60s", "flows": 65536},
    model.DeviceSource: {
        "type": "device",
        "device": REQUIRED,
        "vlan": OPTIONAL,
        "netns": OPTIONAL,
        "perspective": "host",
        "promiscuous": False,
    }
    | INSIDE,
    model.BridgeSource: {"type": "bridge", "bridge": REQUIRED, "vlan": OPTIONAL} | INSIDE,
    model.VxlanSource: RECEIVED | {"type": "vxlan", "port": 4789, "vni": OPTIONAL},
    model.GeneveSource: RECEIVED | {"type": "geneve", "port": 6081, "vni": OPTIONAL},
    model.TzspSource: RECEIVED | {"type": "tzsp", "port": 37008},
    model.GreSource: RECEIVED | {"type": "gre", "key": OPTIONAL},
    model.ErspanSource: RECEIVED | {"type": "erspan", "session_id": OPTIONAL},
    model.DeviceDestination: {
        "type": "device",
        "device": REQUIRED,
        "vlan": OPTIONAL,
        "original_vlan": "keep",
        "vlan_tpid": OPTIONAL,
        "netns": OPTIONAL,
        "normal_io": True,
        "isolate": False,
        "allow_default_route": False,
    },
    model.VxlanDestination: TUNNEL
    | {"type": "vxlan", "vni": REQUIRED, "vni_egress": OPTIONAL, "port": 4789, "shared_vni": False},
    model.GeneveDestination: TUNNEL
    | {"type": "geneve", "vni": REQUIRED, "vni_egress": OPTIONAL, "port": 6081, "metadata": False},
    model.GreDestination: TUNNEL | {"type": "gre", "key": OPTIONAL, "key_egress": OPTIONAL},
    model.ErspanDestination: TUNNEL
    | {"type": "erspan", "erspan_type": REQUIRED, "session_id": 7, "cos": 0, "index": 0, "hardware_id": 0, "sgt": 0}
    | {"session_id_egress": OPTIONAL},
    model.FileDestination: TAGGED
    | {"type": "file", "path": REQUIRED, "rotate_size": "0", "rotate_seconds": 0, "keep": 0},
    model.PcapDestination: TAGGED
    | {
        "type": "pcap",
        "remote": REQUIRED,
        "port": REQUIRED,
        "listen": OPTIONAL,
        "format": "pcapng",
        "tls": OPTIONAL,
        "buffer": "64MiB",
        "allow": [],
    },
    model.Tls: {"ca": OPTIONAL, "certificate": OPTIONAL, "key": OPTIONAL, "server_name": OPTIONAL},
}
VXLAN = {"type": "vxlan", "remote": "192.168.0.164", "vni": 1}
STREAM = {"type": "pcap", "remote": "192.0.2.2", "port": 7}
AWAY = {"type": "device", "device": "b", "netns": "blue"}
# A value for each required key.
GIVEN: dict[str, object] = {
    "name": "vm2",
    "source": "eth0",
    "destination": VXLAN,
    "device": "eth1",
    "addresses": "192.168.29.10-192.168.29.20/24",
    "rules": [{"priority": 1, "action": "accept"}],
    "priority": 1,
    "action": "accept",
    "bridge": "br0",
    "local": "192.0.2.1",
    "remote": "192.0.2.2",
    "port": 7,
    "vni": 1,
    "erspan_type": "II",
    "path": "/var/lib/mirrord/captures/a.pcapng",
}


@pytest.mark.parametrize("kind", DOCUMENTED)
def test_every_documented_key_exists_with_its_default(kind: type[Model]) -> None:
    keys = DOCUMENTED[kind]
    assert set(kind.model_fields) == set(keys)
    written = {key: GIVEN[key] for key, default in keys.items() if default is REQUIRED}
    if kind is model.FlowLimit:
        written["packets"] = keys["packets"] = 20  # it, or bytes
    if kind is model.ErspanDestination:
        written["session_id"] = 7  # required by the types that carry one
    shown = kind.model_validate(written).model_dump(mode="json")
    assert {key: shown[key] for key, default in keys.items() if default is not REQUIRED} == {
        key: default for key, default in keys.items() if default is not REQUIRED
    }
    for key in written:
        with pytest.raises(ValidationError):
            kind.model_validate({other: value for other, value in written.items() if other != key})


def rule(**keys: object) -> dict[str, object]:
    return {"priority": 1, "action": "accept"} | keys


def session(**keys: object) -> dict[str, object]:
    return {"name": "a", "source": "eth0", "destination": VXLAN} | keys


@pytest.mark.parametrize(
    ("kind", "written", "why"),
    [
        (Rule, rule(destination_ports="80"), "name tcp, udp or sctp"),
        (Rule, rule(protocol="icmp", source_ports="80"), "icmp has no ports"),
        (Rule, rule(source="10.0.0.0/8", destination="fd00::/8"), "IPv6 only, but source is IPv4 only"),
        (Rule, rule(family="ipv4", source=["fd00::/8"]), "IPv6 only, but family is IPv4 only"),
        (Rule, rule(family="ipv6", ethertype=0x0800), "IPv4 only, but family is IPv6 only"),
        (Rule, rule(family="ipv6", protocol="icmp"), "IPv4 only, but family"),
        (Rule, rule(protocol="tcp", ethertype=0x0806), "0x0806 is not IP"),
        (Rule, rule(dscp=46, ethertype=0x0806), "0x0806 is not IP"),
        (Rule, rule(dscp=64), "from 0 to 63"),
        (Rule, rule(tcp_flags="syn"), "tcp_flags needs a protocol: name tcp"),
        (Rule, rule(protocol="udp", tcp_flags="syn"), "udp has no tcp_flags"),
        (Rule, rule(protocol="tcp", tcp_flags=""), 'such as "syn" or "syn,!ack", of fin, syn, rst'),
        (Rule, rule(protocol="tcp", tcp_flags=2), 'such as "syn" or "syn,!ack"'),
        (Rule, rule(protocol="tcp", tcp_flags="syn,push"), 'such as "syn" or "syn,!ack"'),
        (Rule, rule(protocol="tcp", tcp_flags="syn,!syn"), "syn is there twice"),
        (Rule, rule(icmp_type=8), "name icmp or icmpv6"),
        (Rule, rule(protocol="tcp", icmp_code=0), "tcp has no icmp_code"),
        (Rule, rule(protocol="icmp", icmp_type=256), "from 0 to 255"),
        (Rule, rule(family="ipv6", protocol="icmp", icmp_type=8), "IPv4 only, but family"),
        (Rule, rule(source_mac="52:54:00:12:34"), "a MAC address such as"),
        (Rule, rule(destination_mac=["52-54-00-12-34-56"]), "a MAC address such as"),
        (Rule, rule(length="128-64"), 'lengths in bytes such as "64"'),
        (Rule, rule(length="-"), 'lengths in bytes such as "64"'),
        (Rule, rule(length=-1), 'lengths in bytes such as "64"'),
        (Rule, rule(length=[]), "at least one value"),
        (Rule, rule(protocol="ah"), 'add family = "ipv4"'),
        (Session, session(recorder="64KiB"), 'a size of at least "1MiB"'),
        (Rule, rule(priority=0), "from 1 to 65535"),
        (Rule, rule(priority=65536), "from 1 to 65535"),
        (Rule, rule(ethertype=0x05FF), "from 1536 to 65535"),
        (model.Filter, {"rules": []}, "at least one rule"),
        (model.Filter, {"rules": [rule(), rule()]}, "priority 1 is used more than once"),
        (Session, session(source={"type": "bridge", "bridge": "br0"}, direction="ingress"), 'must be "both"'),
        (Session, session(source={"type": "gre", "local": "::1"}, direction="both"), 'must be "ingress"'),
        (Session, session(sampling_rate=0), "sampling_rate"),
        (Session, session(snaplen=-1), "snaplen"),
        (Session, session(snaplen="headers+"), "for 64 bytes behind them"),
        (Session, session(snaplen="headers+65536"), "snaplen"),
        (Session, session(workers=0), "workers"),
        (Session, session(flow_limit={"flows": 9}), "by packets, by bytes or by both"),
        (Session, session(flow_limit={"packets": 0}), "from 1 to"),
        (Session, session(flow_limit={"bytes": "0"}), "at least"),
        (Session, session(flow_limit={"packets": 1, "flows": 1 << 25}), "from 1 to 16777216"),
        (Session, session(flow_limit={"packets": 1, "idle": "0s"}), "a time of at most 24h"),
        (Session, session(flow_limit={"packets": 1, "idle": "25h"}), "a time of at most 24h"),
        (Session, session(flow_limit={"packets": 1, "idle": 60}), "a time of at most 24h"),
        (Session, session(flow_limit={"packets": 1, "then": "drop"}), "then"),
        (Session, session(destination={"type": "file", "path": "/a"}, pause_above="80%"), "has no link"),
        (Session, session(source={"type": "gre", "local": "::1"}, workers=2), "one socket, which one worker reads"),
        (Session, session(destination={"type": "file", "path": "/a"}, workers=2), "written by one worker"),
        (Session, session(destination=STREAM, workers=2), "filled by one worker"),
        (Session, session(destination=STREAM, pause_above="80%"), "has no link"),
        (Session, session(destination=STREAM, transmit="packet"), "does not apply"),
        (Session, session(destination=STREAM, gso="on"), "has no UDP"),
        (model.PcapDestination, {}, "either remote and port, or listen"),
        (model.PcapDestination, {"remote": "192.0.2.2"}, "required with remote"),
        (model.PcapDestination, STREAM | {"listen": "127.0.0.1:7"}, "either remote and port, or listen"),
        (model.PcapDestination, STREAM | {"remote": "0.0.0.0"}, "not the address of a host"),
        (model.PcapDestination, STREAM | {"allow": ["10.0.0.0/8"]}, "it needs listen"),
        (model.PcapDestination, STREAM | {"buffer": "64KiB"}, 'at least "128KiB"'),
        (model.PcapDestination, STREAM | {"tls": {"certificate": "/a"}}, "go together"),
        (model.PcapDestination, {"listen": "7"}, "an address and a port"),
        (model.PcapDestination, {"listen": "localhost:7"}, "an IPv4 or IPv6 address"),
        (model.PcapDestination, {"listen": "127.0.0.1:7", "port": 7}, "listen has its own"),
        (model.PcapDestination, {"listen": "127.0.0.1:7", "allow": ["fd00::/8"]}, "listen is IPv4"),
        (model.PcapDestination, {"listen": "127.0.0.1:7", "tls": {"ca": "/a"}}, "shows a certificate"),
        (model.PcapDestination, {"listen": "192.0.2.1:7"}, "whoever connects gets the traffic"),
        (model.PcapDestination, {"listen": "0.0.0.0:7", "allow": ["10.0.0.0/8"]}, "whoever connects gets the traffic"),
        (
            model.PcapDestination,
            {"listen": "[2001:db8::1]:7", "tls": {"certificate": "/a", "key": "/b"}},
            "whoever connects gets the traffic",
        ),
        (
            model.PcapDestination,
            {"listen": "127.0.0.1:7", "tls": {"certificate": "/a", "key": "/b", "server_name": "x"}},
            "the collector's",
        ),
        (Session, session(count_rules=True), "needs a filter"),
        (Session, session(destination={"type": "device", "device": "b"}, transmit="socket"), "does not apply"),
        (Session, session(destination={"type": "device", "device": "b"}, on_mtu_exceeded="fragment"), "no IP header"),
        (Session, session(destination=VXLAN | {"vni": 1 << 24}), "from 0 to 16777215"),
        (Session, session(destination=VXLAN | {"port": 0}), "from 1 to 65535"),
        (Session, session(destination=VXLAN | {"dscp": 64}), "from 0 to 63"),
        (Session, session(destination=VXLAN | {"ttl": 0}), "from 1 to 255"),
        (Session, session(destination=VXLAN | {"local": "fd00::1"}), "remote is IPv4"),
        (Session, session(destination=VXLAN | {"remote": ["192.0.2.1", "192.0.2.1"]}), "used more than once"),
        (Session, session(destination=VXLAN | {"remote": ["192.0.2.1", "0.0.0.0"]}), "0.0.0.0 is not the address"),
        (Session, session(destination=VXLAN | {"remote": []}), "at least one value"),
        (Session, session(destination=VXLAN | {"remote": [f"192.0.2.{n}" for n in range(17)]}), "at most 16, not 17"),
        (
            Session,
            session(destination=VXLAN | {"remote": ["192.0.2.1", "fd00::1"], "local": "192.0.2.9"}),
            "remote fd00::1 is IPv6",
        ),
        (Session, session(destination=VXLAN | {"spread": "some"}), "'flow' or 'all'"),
        (Session, session(destination=VXLAN | {"liveness": "tcp:65536"}), "tcp:PORT"),
        (Session, session(destination=VXLAN | {"remote": "239.1.1.1", "liveness": "icmp"}), "nobody answers for it"),
        (Session, session(destination=VXLAN | {"remote": "0.0.0.0"}), "not the address of a host"),
        (Session, session(destination=VXLAN | {"remote": "fe80::1"}), "link-local: no route leads to it"),
        (Session, session(destination={"type": "device", "device": "b"}, snaplen=13), "no frame shorter than"),
        (Session, session(destination="eth1"), "destination"),
        (Session, session(destination=AWAY | {"normal_io": False}), "cannot be reserved"),
        (Session, session(destination=AWAY | {"isolate": True}), "cannot be taken off its bridge"),
        (model.VxlanSource, {"local": "192.0.2.1", "allow": ["fd00::/8"]}, "local is IPv4"),
        (model.ErspanDestination, {"remote": "::1", "erspan_type": "II"}, "required by type II"),
        (model.ErspanDestination, {"remote": "::1", "erspan_type": "II", "session_id": 1024}, "from 0 to 1023"),
        (model.ErspanDestination, {"remote": "::1", "erspan_type": "III", "session_id": 1, "index": 1}, "not carry"),
        (model.FileDestination, {"path": "/a", "keep": 3}, "rotate"),
        (FlowNetwork, {"device": "a", "addresses": "192.0.2.9/24", "gateway": "192.0.3.1"}, "not in 192.0.2.0/24"),
        (FlowNetwork, {"device": "a", "addresses": "192.0.2.9/24", "gateway": "192.0.2.9"}, "one of the addresses"),
        (FlowNetwork, {"device": "a", "addresses": "192.0.2.9/24", "gateway": "fe80::1"}, "not in 192.0.2.0/24"),
        (Daemon, {"mark": 0x30000000}, "outside mark_mask"),
        (Daemon, {"nice": 20}, "from -20 to 19"),
        (Daemon, {"latency": "1s"}, "a time of at most 10 ms"),
        (Daemon, {"latency": "11ms"}, "a time of at most 10 ms"),
        (Daemon, {"latency": 1}, "a time of at most 10 ms"),
        (Mirror, {"duplicates": "drop", "sessions": [session(workers=2)]}, "one worker reads all sources"),
        (Mirror, {"duplicate_window": "0ms"}, "a time of at most 1 s"),
        (Mirror, {"duplicate_window": "2s"}, "a time of at most 1 s"),
        (Mirror, {"duplicate_window": 1}, "a time of at most 1 s"),
        (Mirror, {"sessions": [session(), session()]}, "name 'a' is used more than once"),
        (Mirror, {"descripton": "x"}, "Extra inputs"),
        (model.DeviceSource, {"device": "a", "strip": True}, "needs `inside`"),
        (model.DeviceSource, {"device": "a", "inside": "gre", "vni": 5}, 'needs inside = "vxlan" or'),
        (model.VmSource, {"vm": "a", "inside": "any", "key": 5}, 'needs inside = "gre"'),
        (model.ContainerSource, {"container": "a", "inside": "any", "inside_port": 8472}, 'needs inside = "vxlan" or'),
        (
            Mirror,
            {"overlap": "first", "sessions": [session(source={"device": "a", "inside": "gre"}), session(name="b")]},
            'does not go with overlap = "first"',
        ),
        (Config, {"mirrors": {"a b": {}}}, "expected a name"),
    ],
)
def test_refused(kind: type[Model], written: object, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        kind.model_validate(written)


def test_the_direction_of_a_tunnel_is_ingress_and_of_the_rest_both() -> None:
    tunnel = {"type": "vxlan", "local": "192.0.2.1"}
    assert Session.model_validate(session(source=tunnel)).direction == "ingress"
    assert Session.model_validate(session()).direction == "both"


def test_a_vlan_of_the_destination_takes_the_original_ones_place() -> None:
    span = {"type": "device", "device": "eth1"}
    assert model.DeviceDestination.model_validate(span).original_vlan == "keep"
    assert model.DeviceDestination.model_validate(span | {"vlan": 111}).original_vlan == "strip"


def test_a_family_that_is_left_is_enough() -> None:
    mixed = rule(family="ipv4", source=["10.0.0.0/8", "fd00::/8"], destination="192.0.2.0/24", ethertype=0x0800)
    Rule.model_validate(mixed)


def test_models_are_frozen_and_have_a_json_schema() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Daemon().nice = 1
    assert "vni" in json.dumps(Config.model_json_schema())
    assert "vni" in json.dumps(Config.model_json_schema(mode="serialization"))


# Whatever validates is shown in the same vocabulary, and what is shown validates to the same.

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True)
DEVICES = st.from_regex(r"[a-z][a-z0-9.-]{0,13}[a-z0-9]", fullmatch=True)
V4 = st.ip_addresses(v=4).map(str).filter(lambda address: address not in ("0.0.0.0", "255.255.255.255"))
V6 = st.integers(1, 2**100).map(lambda n: f"2001:db8::{n & 0xFFFF:x}")
HOSTS = V4.filter(lambda address: int(address.split(".")[0]) < 224)  # no multicast group
CIDR = st.one_of(V4, st.integers(0, 255).map(lambda n: f"{n}.0.0.0/8"))
PORTS = st.one_of(
    st.integers(0, 65535), st.integers(0, 65535).map(str), st.integers(0, 60000).map(lambda n: f"{n}-65535")
)
VLANS = st.integers(1, 4094)


def some(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(items, st.lists(items, min_size=1, max_size=3))


def keys(required: dict[str, Any], **optional: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=optional)


RATES = st.sampled_from(["0", "200Mbit", "1.5gbit", "50mbps", 9600])
SIZES = st.sampled_from(["8MiB", "64KiB", "1GB", 4096, "5000"])
TUNNELLED: Any = {
    "spread": st.sampled_from(["flow", "all"]),
    "dscp": st.integers(0, 63),
    "ttl": st.integers(1, 255),
    "netns": NAMES,
}
VNIS = st.integers(0, (1 << 24) - 1)
SOURCES = st.one_of(
    DEVICES,
    keys(
        {"type": st.just("device"), "device": some(st.one_of(DEVICES, st.just("tap*")))},
        vlan=some(VLANS),
        netns=NAMES,
        perspective=st.sampled_from(["host", "guest"]),
        promiscuous=st.booleans(),
    ),
    keys({"type": st.just("bridge"), "bridge": DEVICES}, vlan=some(VLANS)),
    keys({"type": st.just("vxlan"), "local": V4}, vni=VNIS, allow=st.lists(CIDR, max_size=2)),
    keys({"type": st.just("erspan"), "local": V6}, session_id=st.integers(0, 1023)),
)
DESTINATIONS = st.one_of(
    keys({"type": st.just("device"), "device": DEVICES}, vlan=VLANS, normal_io=st.booleans(), isolate=st.booleans()),
    keys({"type": st.just("vxlan"), "remote": HOSTS, "vni": VNIS}, local=HOSTS),
    keys({"type": st.just("geneve"), "remote": V6, "vni": VNIS}, **TUNNELLED),
    keys({"type": st.just("gre"), "remote": HOSTS}, key=st.integers(0, (1 << 32) - 1), **TUNNELLED),
    keys(
        {"type": st.just("erspan"), "remote": HOSTS, "erspan_type": st.just("III"), "session_id": st.integers(0, 1023)},
        cos=st.integers(0, 7),
        hardware_id=st.integers(0, 63),
        sgt=st.integers(0, 65535),
    ),
    keys({"type": st.just("file"), "path": st.just("/var/lib/mirrord/captures/a.pcapng")}, rotate_size=SIZES),
    keys({"type": st.just("pcap"), "remote": HOSTS, "port": st.integers(1, 65535)}, format=st.just("pcap")),
    keys(
        {"type": st.just("pcap"), "listen": st.sampled_from(["127.0.0.1:7", "[::1]:7"])},
        buffer=st.sampled_from(["128KiB", "64MiB"]),
        tls=st.just({"ca": "/ca", "certificate": "/a", "key": "/b"}),
    ),
)
MACS = st.integers(0, (1 << 48) - 1).map(lambda n: n.to_bytes(6, "big").hex(":"))
LENGTHS = st.sampled_from([64, "64", "64-1518", "1519-", "-63", "0-0", "0-"])
TCP_FLAGS = st.sampled_from(["syn", "syn,!ack", "!ack , SYN", "fin,psh,urg", "!fin,!syn,!rst,!psh,!ack,!urg,!ece,!cwr"])
OF_TRANSPORT = st.one_of(
    keys({"protocol": st.sampled_from(["tcp", 6])}, source_ports=some(PORTS), tcp_flags=some(TCP_FLAGS)),
    keys({"protocol": st.sampled_from([17, "132"])}, source_ports=some(PORTS), destination_ports=some(PORTS)),
    keys({"protocol": st.just("icmp")}, icmp_type=some(st.integers(0, 255)), icmp_code=some(st.integers(0, 255))),
)
RULES = keys(
    {
        "priority": st.integers(1, 65535),
        "action": st.sampled_from(["accept", "reject"]),
    },
    direction=st.sampled_from(["ingress", "egress", "both"]),
    source=some(CIDR),
    destination=some(CIDR),
    vlan=VLANS,
    source_mac=some(MACS),
    destination_mac=some(MACS),
    length=some(LENGTHS),
    dscp=some(st.integers(0, 63)),
).flatmap(lambda one: OF_TRANSPORT.map(lambda other: one | other))
FLOW_LIMITS = keys(
    {"packets": st.integers(1, 100)}, bytes=st.sampled_from(["64KiB", "1GB"]), idle=st.sampled_from(["50ms", "1m"])
)
SESSIONS = keys(
    {"name": NAMES, "source": SOURCES, "destination": DESTINATIONS},
    flow_limit=FLOW_LIMITS,
    overload=st.sampled_from(["frames", "flows"]),
    priority=st.integers(1, 65535),
    filter=NAMES,
    snaplen=st.sampled_from([0, "headers", "headers+64"])
    | st.integers(14, 65535),  # a device takes no less than an Ethernet header
    payload=st.sampled_from(["keep", "zero", "tls"]),
    rate_limit=RATES,
    ring_size=SIZES,
    pause_above=st.sampled_from(["", "80%"]),
    recorder=st.sampled_from(["0", "1MiB", "64MiB"]),
).filter(lambda one: one["destination"]["type"] not in ("file", "pcap") or not one.get("pause_above"))
EXPIRES = st.sampled_from(["90s", "120m", "1w", "2027-01-31T18:00:00Z", "2027-01-31t18:00:00.5+01:30"])
CONFIGS = keys(
    {},
    flow_networks=st.dictionaries(
        NAMES,
        keys({"device": DEVICES, "addresses": st.sampled_from(["192.0.2.9/24", "2001:db8::1-2001:db8::9/64"])}),
        max_size=1,
    ),
    filters=st.dictionaries(
        NAMES,
        keys({"rules": st.lists(RULES, min_size=1, max_size=3, unique_by=lambda one: one["priority"])}),
        max_size=2,
    ),
    mirrors=st.dictionaries(
        NAMES,
        keys(
            {},
            expires=EXPIRES,
            duplicate_window=st.sampled_from(["50us", "1s"]),
            sessions=st.lists(SESSIONS, max_size=3, unique_by=lambda one: one["name"]),
        ),
        max_size=2,
    ),
)


@given(CONFIGS)
def test_what_is_shown_is_read_as_the_same(written: dict[str, Any]) -> None:
    config = Config.model_validate(written)
    shown = json.loads(json.dumps(config.model_dump(mode="json")))
    again = Config.model_validate(shown)
    assert again == config
    assert again.model_dump(mode="json") == shown


def test_what_is_shown_is_the_documented_vocabulary() -> None:
    written = rule(protocol="tcp", source="192.168.0.161/32", destination_ports=["80", "1000-2000"], vlan=7)
    shown = Rule.model_validate(written).model_dump(mode="json")
    assert {key: shown[key] for key in written} == written
    written = rule(
        protocol="tcp",
        tcp_flags=["syn,!ack", "fin"],
        dscp=46,
        length=["64", "65-70", "-63", "1519-"],
        source_mac="52:54:00:12:34:56",
    )
    shown = Rule.model_validate(written | {"source_mac": "52:54:00:12:34:56".upper()}).model_dump(mode="json")
    assert {key: shown[key] for key in written} == written
    written = session(rate_limit="200Mbit", ring_size="8MiB", pause_above="80%", source="tap*")
    shown = Session.model_validate(written).model_dump(mode="json")
    assert {key: shown[key] for key in ("rate_limit", "ring_size", "pause_above")} == {
        key: written[key] for key in ("rate_limit", "ring_size", "pause_above")
    }
    assert shown["source"]["device"] == "tap*"
    assert shown["destination"] | VXLAN == shown["destination"]


def test_a_table_with_a_device_needs_no_type() -> None:
    ends = {"source": {"device": ["lo", "tap*"], "netns": "a"}, "destination": {"device": "eth1", "vlan": 5}}
    session = Session.model_validate({"name": "s", **ends})
    assert session.source == model.DeviceSource(device=("lo", "tap*"), netns="a")
    assert session.destination == model.DeviceDestination(device="eth1", vlan=5)


@pytest.mark.parametrize(
    ("side", "end"), [("source", {"bridge": "br0"}), ("destination", {"remote": "192.0.2.1", "vni": 1})]
)
def test_any_other_table_has_to_tell_its_type(side: str, end: dict[str, object]) -> None:
    ends: dict[str, object] = {"source": "a", "destination": {"device": "b"}, side: end}
    (problem,) = examine(Session, {"name": "s", **ends}, "").problems
    assert problem.path == f"{side}.type"
    assert problem.expectation.startswith("expected one of device, ")
