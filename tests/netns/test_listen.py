"""The receiving end: what other senders wrapped comes out of a local device, as for Suricata, frame by frame.

sender eth0 ---- eth0 [appliance] mon0 ---- mon1
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from scapy.contrib.erspan import ERSPAN_II, ERSPAN_III, ERSPAN_PlatformSpecific
from scapy.contrib.geneve import GENEVE, GeneveOptions
from scapy.contrib.tzsp import TZSP, TZSPTagEnd
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import GRE, Ether
from scapy.layers.vxlan import VXLAN

from mirrord.dataplane.frame.checksum import checksum
from mirrord.dataplane.frame.wire import VNET, VNET_GSO_NONE, VNET_GSO_TCPV4, VNET_NEEDS_CSUM
from mirrord.kernel import PACKET_VNET_HDR, SOL_PACKET
from tests.conftest import MakeDaemon, MakeOpenVSwitch, MakeSniffer
from tests.support.appliance import FRAMES, Bench, geneve, gre, marked, missing, pair, session, vxlan
from tests.support.packets import LINK, V4
from tests.support.send import send
from tests.support.topology import Topology
from tests.support.wait import wait_for

SENDERS: dict[str, tuple[str, Callable[[bytes], Any]]] = {
    "vxlan": ('{ type = "vxlan", local = "10.99.0.2", vni = 7 }', lambda frame: vxlan(7, frame)),
    "vxlan6": (
        '{ type = "vxlan", local = "2001:db8:99::2", vni = 7, allow = ["2001:db8:99::/64"] }',
        lambda frame: (
            IPv6(src="2001:db8:99::1", dst="2001:db8:99::2")
            / UDP(sport=50000, dport=4789)
            / VXLAN(vni=7, flags="Instance")
            / frame
        ),
    ),
    "geneve": ('{ type = "geneve", local = "10.99.0.2", vni = 7 }', lambda frame: geneve(7, frame)),
    "tzsp": (
        '{ type = "tzsp", local = "10.99.0.2", allow = "10.99.0.1" }',
        lambda frame: IP(src="10.99.0.1", dst="10.99.0.2") / UDP(dport=37008) / TZSP() / TZSPTagEnd() / frame,
    ),
    "gre": (
        '{ type = "gre", local = "10.99.0.2", key = 7 }',
        lambda frame: gre(GRE(proto=0x6558, chksum_present=1, key_present=1, key=7), frame),
    ),
    "gre6": (
        '{ type = "gre", local = "2001:db8:99::2" }',
        lambda frame: IPv6(src="2001:db8:99::1", dst="2001:db8:99::2", nh=47) / GRE(proto=0x6558) / frame,
    ),
    "erspan I": ('{ type = "erspan", local = "10.99.0.2" }', lambda frame: gre(GRE(proto=0x88BE), frame)),
    "erspan II": (
        '{ type = "erspan", local = "10.99.0.2", session_id = 7 }',
        lambda frame: gre(GRE(proto=0x88BE, seqnum_present=1), ERSPAN_II(session_id=7), frame),
    ),
    "erspan III": (
        '{ type = "erspan", local = "10.99.0.2", session_id = 7 }',
        lambda frame: gre(
            GRE(proto=0x22EB, seqnum_present=1), ERSPAN_III(session_id=7, o=1), ERSPAN_PlatformSpecific(), frame
        ),
    ),
}


@pytest.fixture
def bench(net: Topology, sniff: MakeSniffer) -> Bench:
    return Bench(net, sniff)


@pytest.mark.parametrize(("source", "wrap"), SENDERS.values(), ids=SENDERS)
def test_what_scapy_wraps_comes_out_of_a_local_device(bench: Bench, daemon: MakeDaemon, source: str, wrap: Any) -> None:
    mirrord = daemon(bench.appliance, session("s", source))
    bench.send(wrap(frame) for frame in FRAMES)
    assert bench.captured(mirrord, len(FRAMES)) == FRAMES


def test_sessions_share_a_port_by_vni_and_allow_confines_the_peers(bench: Bench, daemon: MakeDaemon) -> None:
    mirrord = daemon(
        bench.appliance,
        session("seven", '{ type = "vxlan", local = "10.99.0.2", vni = 7, allow = ["10.99.0.0/30", "10.99.0.9"] }')
        + session("all", '{ type = "vxlan", local = "10.99.0.2" }'),
    )
    sent = [(7, "10.99.0.1"), (8, "10.99.0.1"), (7, "10.99.0.9"), (7, "10.99.0.4"), (9, "10.99.0.77")]
    bench.send(vxlan(vni, marked(n), source) for n, (vni, source) in enumerate(sent))
    metrics = mirrord.settle(captured=7)
    assert metrics.total("mirrord_captured_frames_total", session="all") == len(sent)
    assert metrics.total("mirrord_captured_frames_total", session="seven", source="vxlan:10.99.0.2:4789") == 2
    assert sorted(bench.captured(mirrord, 7)) == sorted([*map(marked, range(5)), marked(0), marked(2)])


def test_ip_in_geneve_gets_an_ethernet_header_and_what_is_anothers_is_left_out(
    bench: Bench, daemon: MakeDaemon
) -> None:
    mirrord = daemon(
        bench.appliance,
        session("geneve", '{ type = "geneve", local = "10.99.0.2", vni = 7, allow = "10.99.0.1" }')
        + session("tzsp", '{ type = "tzsp", local = "10.99.0.2" }'),
    )
    six = IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(sport=1000, dport=2000) / b"six"
    four = V4 / UDP(sport=1000, dport=2000) / b"four"
    stranger = geneve(7, marked(2))
    stranger[IP].src = "10.99.0.9"
    keepalive = IP(src="10.99.0.1", dst="10.99.0.2") / UDP(dport=37008) / TZSP(type=4) / TZSPTagEnd()
    bench.send(
        [
            *(keepalive, stranger, geneve(8, marked(3))),
            *(geneve(7, four, 0x0800), geneve(7, six, 0x86DD), geneve(7, bytes(64), 0x8847)),
        ]
    )
    metrics = mirrord.settle(captured=3)
    assert metrics.total("mirrord_dropped_frames_total", session="geneve", reason="malformed") == 1
    nowhere = {"src": "00:00:00:00:00:00", "dst": "00:00:00:00:00:00"}
    assert bench.captured(mirrord, 3) == [bytes(Ether(**nowhere) / four), bytes(Ether(**nowhere) / six)]


def test_what_comes_to_an_address_that_a_source_names_is_its_alone(bench: Bench, daemon: MakeDaemon) -> None:
    bench.appliance.ip("address add 10.99.0.3/24 dev eth0")
    any_address = (
        session("vxlan", '{ type = "vxlan", local = "0.0.0.0" }')
        + session("vxlan6", '{ type = "vxlan", local = "::" }')
        + session("gre", '{ type = "gre", local = "0.0.0.0" }')
        + session("erspan", '{ type = "erspan", local = "0.0.0.0" }')
    )
    named = (
        session("vxlan", '{ type = "vxlan", local = "10.99.0.2", vni = 7 }')
        + session("vxlan6", '{ type = "vxlan", local = "2001:db8:99::2" }')
        + session("gre", '{ type = "gre", local = "10.99.0.2" }')
        + session("erspan", '{ type = "erspan", local = "10.99.0.2" }')
    ).replace("mirrors.m.", "mirrors.named.")
    mirrord = daemon(bench.appliance, any_address + "[mirrors.named]\nenabled = true\n" + named)
    to_named = [
        *(vxlan(7, marked(0)), SENDERS["vxlan6"][1](marked(1))),
        *(gre(GRE(proto=0x6558), marked(2)), gre(GRE(proto=0x88BE), marked(3))),
    ]
    to_another = [vxlan(7, marked(4)), gre(GRE(proto=0x6558), marked(5)), gre(GRE(proto=0x88BE), marked(6))]
    for packet in to_another:
        packet.dst = "10.99.0.3"
    to_nobody = vxlan(8, marked(7))
    packets = [*to_named, *to_another, to_nobody]
    bench.send(packets)
    metrics = mirrord.settle(captured=7)
    taken = {
        (mirror, one): metrics.total("mirrord_captured_frames_total", mirror=mirror, session=one)
        for mirror in ("m", "named")
        for one in ("vxlan", "vxlan6", "gre", "erspan")
    }
    assert taken == dict.fromkeys(taken, 1) | {("m", "vxlan6"): 0}

    mirrord.file.write_text(mirrord.file.read_text().replace("enabled = true", "enabled = false"))
    mirrord.reload()
    wait_for(lambda: "reloaded" in mirrord.output(), "the reload")
    bench.send(packets)
    taken_by_any = 3 + len(packets)
    assert mirrord.settle(captured=taken_by_any).total("mirrord_captured_frames_total", mirror="m") == taken_by_any
    assert sorted(bench.captured(mirrord, taken_by_any)) == sorted(map(marked, [*range(7), *range(8)]))


def test_fragments_of_a_tunnel_are_put_together(net: Topology, sniff: MakeSniffer, daemon: MakeDaemon) -> None:
    bench = Bench(net, sniff, mtu=1280)
    mirrord = daemon(
        bench.appliance,
        session("v4", '{ type = "vxlan", local = "10.99.0.2" }')
        + session("v6", '{ type = "vxlan", local = "2001:db8:99::2" }'),
    )
    long = bytes(LINK / V4 / UDP(sport=1, dport=2) / (bytes(range(256)) * 5))
    six = IPv6(src="2001:db8:99::1", dst="2001:db8:99::2") / IPv6ExtHdrFragment(id=9)
    six = six / UDP(sport=50000, dport=4789) / VXLAN(flags="Instance") / long
    bench.send(fragment(IP(bytes(vxlan(7, long, id=9))), 1200))
    bench.send(fragment6(IPv6(bytes(six)), 1280))
    assert bench.captured(mirrord, 2) == [long, long]


def test_malformed_packets_are_counted_and_left_out(bench: Bench, daemon: MakeDaemon) -> None:
    mirrord = daemon(
        bench.appliance,
        session("vxlan", '{ type = "vxlan", local = "10.99.0.2", vni = 7 }')
        + session("gre", '{ type = "gre", local = "10.99.0.2", key = 7 }')
        + session("erspan", '{ type = "erspan", local = "10.99.0.2", session_id = 7 }'),
    )
    to = IP(src="10.99.0.1", dst="10.99.0.2")
    bench.send(
        [
            vxlan(7, marked(0)),
            to / UDP(sport=50000, dport=4789) / VXLAN(vni=7, flags=0) / marked(1),
            to / UDP(sport=50000, dport=4789) / b"\x08\0\0",
            vxlan(7, b"short"),
            gre(GRE(proto=0x6558, key_present=1, key=7, routing_present=1), marked(2)),
            gre(bytes(GRE(proto=0x6558, key_present=1, key=7))[:6]),
            gre(GRE(proto=0x6558, key_present=1, key=8), marked(3)),  # another's
            gre(GRE(proto=0x6558), marked(4)),  # no key
            gre(GRE(proto=0x88BE, seqnum_present=1), ERSPAN_II(ver=3, session_id=7), marked(5)),
            gre(GRE(proto=0x22EB, seqnum_present=1), ERSPAN_III(ft=2, session_id=7), marked(6)),
            gre(GRE(proto=0x88BE), marked(7)),  # type I has no session id
            gre(GRE(proto=0x6558, key_present=1, key=7), marked(8)),
        ]
    )
    metrics = mirrord.settle(captured=9)
    for name, count in (("vxlan", 3), ("gre", 2), ("erspan", 2)):
        assert metrics.total("mirrord_dropped_frames_total", session=name, reason="malformed") == count
    assert metrics.total("mirrord_dropped_frames_total") == 7
    assert bench.captured(mirrord, 9) == [marked(0), marked(8)]


def test_a_filter_and_the_loop_guard_look_at_the_frames_inside(bench: Bench, daemon: MakeDaemon) -> None:
    rules = '[filters.f]\nrules = [ { priority = 1, action = "accept", protocol = "udp" } ]\n'
    source = '{ type = "vxlan", local = "10.99.0.2" }'
    mirrord = daemon(bench.appliance, rules + session("s", source, more='filter = "f"'))
    a_copy = bytes(LINK / vxlan(1, marked(0)))  # our own listener's packet, seen on a wire that somebody mirrors
    bench.send(vxlan(7, frame) for frame in (*FRAMES, a_copy))
    metrics = mirrord.settle(captured=len(FRAMES) + 1)
    assert metrics.total("mirrord_skipped_frames_total", reason="unmatched") == len(FRAMES) - 3
    assert metrics.total("mirrord_skipped_frames_total", reason="own_copy") == 1
    assert bench.captured(mirrord, len(FRAMES) + 1) == [FRAMES[0], FRAMES[2], FRAMES[4]]


def test_what_is_lost_on_the_road_is_counted_by_the_numbers_of_what_came(bench: Bench, daemon: MakeDaemon) -> None:
    """By sender and id; packets that overtake each other, come twice or have no number are none of it."""

    def ours(number: int, vni: int = 7, source: str = "10.99.0.1") -> Any:
        option = GeneveOptions(classid=0xFF6D, type=1, data=bytes(16) + number.to_bytes(4, "big"))
        outer = IP(src=source, dst="10.99.0.2") / UDP(sport=50000, dport=6081, chksum=0)
        return outer / GENEVE(vni=vni, proto=0x6558, options=[option]) / marked(number)

    def numbered(number: int, **key: int) -> Any:
        return gre(GRE(proto=0x6558, seqnum_present=1, sequence_number=number, **key), marked(number))

    def erspan(number: int) -> Any:
        outer = GRE(proto=0x88BE, seqnum_present=1, sequence_number=number)
        return gre(outer, ERSPAN_II(session_id=7), marked(number & 0xFFFF))

    mirrord = daemon(
        bench.appliance,
        "".join(
            session(name, f'{{ type = "{name}", local = "10.99.0.2" }}')
            for name in ("geneve", "gre", "erspan", "vxlan")
        ),
    )
    packets = [
        *map(ours, (0, 1, 5, 4, 4, 9)),  # 2, 3, 6, 7 and 8 do not come
        *(ours(number, vni=8) for number in (100, 101)),
        *(ours(number, source="10.99.0.9") for number in (3000, 3001, 3005)),  # another's
        geneve(7, marked(0)),
        *map(numbered, (5, 8)),
        *(numbered(number, key_present=1, key=1) for number in (20, 21)),
        gre(GRE(proto=0x6558), marked(0)),
        *map(erspan, (2**32 - 1, 1)),
        *(vxlan(7, marked(n)) for n in (0, 5)),
    ]
    bench.send(packets)
    expected = {"geneve": 5 + 3, "gre": 2, "erspan": 1}
    wait_for(lambda: {name: missing(mirrord, name) for name in expected} == expected, "what is missing")
    assert not mirrord.metrics().select("mirrord_tunnel_missing_packets_total", session="vxlan")  # which has no numbers
    assert len(bench.captured(mirrord, len(packets))) == len(packets)


def test_what_a_kernel_leaves_to_devices_comes_out_as_the_wire_would_have_carried_it(
    bench: Bench, daemon: MakeDaemon
) -> None:
    """A kernel vxlan device leaves inner checksums and splitting to the NIC; a veth hands both on, as GRO would."""
    bench.appliance.ip("link set dev mon0 mtu 1500")
    mirrord = daemon(bench.appliance, session("s", '{ type = "vxlan", local = "10.99.0.2", vni = 7 }'))
    bench.sender.ip("link add vx0 mtu 1500 type vxlan id 7 dstport 4789 remote 10.99.0.2 local 10.99.0.1")
    bench.sender.run("sysctl", "-qw", "net.ipv6.conf.vx0.disable_ipv6=1")
    bench.sender.ip("link set vx0 up")
    payload = bytes(range(256)) * 40

    def segment(at: int, length: int, number: int) -> bytes:
        tcp = TCP(sport=1000, dport=80, seq=at, flags="A")
        return bytes(LINK / IP(src="10.0.0.1", dst="10.0.0.2", id=number) / tcp / payload[at : at + length])

    with bench.sender.open_socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        out.bind(("vx0", 0))
        for length, gso_type, gso_size in ((100, VNET_GSO_NONE, 0), (len(payload), VNET_GSO_TCPV4, 1460)):
            pseudo = bytes([10, 0, 0, 1, 10, 0, 0, 2, 0, 6]) + (20 + length).to_bytes(2, "big")
            frame = bytearray(segment(0, length, 1))
            frame[50:52] = (checksum(pseudo) ^ 0xFFFF).to_bytes(2, "big")
            out.send(VNET.pack(VNET_NEEDS_CSUM, gso_type, 54, gso_size, 34, 16) + frame)
    assert bench.captured(mirrord, 2) == [
        segment(0, 100, 1),
        *(segment(at, 1460, 1 + at // 1460) for at in range(0, len(payload), 1460)),
    ]


def test_a_kernel_vxlan_device_on_the_port_is_told(bench: Bench, daemon: MakeDaemon) -> None:
    bench.appliance.ip("link add vx0 type vxlan id 9 dstport 4789")
    bench.appliance.ip("link set vx0 up")
    mirrord = daemon(bench.appliance, session("s", '{ type = "vxlan", local = "10.99.0.2" }'), up=False)
    why = "UDP port 4789 is in use, perhaps by a kernel vxlan device: ip -d link show type vxlan"
    wait_for(lambda: why in mirrord.output(), why)
    bench.appliance.ip("link delete vx0")
    mirrord.wait_up()
    bench.send([vxlan(7, marked(1))])
    assert bench.captured(mirrord, 1) == [marked(1)]


def test_a_session_waits_for_its_address_and_answers_no_sender_with_icmp(
    bench: Bench, daemon: MakeDaemon, sniff: MakeSniffer
) -> None:
    bench.appliance.ip("address delete 10.99.0.2/24 dev eth0")
    mirrord = daemon(bench.appliance, session("s", '{ type = "vxlan", local = "10.99.0.2" }'), up=False)
    wait_for(lambda: "10.99.0.2 is not an address of this host" in mirrord.output(), "waiting, and why")
    bench.appliance.ip("address add 10.99.0.2/24 dev eth0")
    mirrord.wait_up()
    errors = sniff(bench.sender, "eth0", "icmp")
    bench.send([vxlan(7, marked(1)), vxlan(7, marked(2))])
    assert bench.captured(mirrord, 2) == [marked(1), marked(2)]
    assert errors.stop().lines() == []


def test_open_vswitchs_own_mirror_to_gre_is_received(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon, ovs: MakeOpenVSwitch
) -> None:
    switch, appliance = net.host("switch"), net.host("appliance")
    net.link(switch, "vb", appliance, "eth0", ("", "10.99.0.2/24"), mtu=1600, offloads=False)
    pair(appliance, "mon0", "mon1")
    pair(switch, "p1", "client")
    vswitch = ovs(switch)
    vswitch.add_bridge("phy", "vb", address="10.99.0.1/24")
    vswitch.add_bridge("br0", "p1")
    vswitch.add_tunnel("br0", "gre0", "gre", "10.99.0.2", key=0x1111)
    vswitch.vsctl(
        *["--", "--id=@p1", "get", "port", "p1", "--", "--id=@gre0", "get", "port", "gre0"],
        *["--", "--id=@m", "create", "mirror", "name=m", "select-src-port=@p1", "output-port=@gre0"],
        *["--", "set", "bridge", "br0", "mirrors=@m"],
    )  # fmt: skip
    out = sniff(appliance, "mon1")
    mirrord = daemon(appliance, session("s", '{ type = "gre", local = "10.99.0.2", key = 0x1111 }'))
    switch.run("ping", "-c", "1", "-W", "5", "10.99.0.2")  # so that the switch knows the appliance's MAC address

    for frame in FRAMES:
        send(switch, "client", frame)
    metrics = mirrord.settle(captured=len(FRAMES))
    mirrord.stop()

    assert metrics.total("mirrord_captured_frames_total") == len(FRAMES)
    assert out.stop().frames() == FRAMES
