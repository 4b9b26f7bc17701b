"""Every encapsulation as others read it: taken by Open vSwitch's userspace datapath, told field by field by tshark.

client eth0 ---- nic [source] uplink ---- eth0, in the bridge phy [collector], and a bridge with a tunnel port for each
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from scapy.contrib.erspan import ERSPAN_I
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether

from tests.conftest import MakeDaemon, MakeOpenVSwitch, MakeSniffer
from tests.support.packets import LINK, V4
from tests.support.send import send
from tests.support.sniffer import Sniffer
from tests.support.source import OVER_IPV4, OVER_IPV6, Underlay
from tests.support.topology import Host, Topology, acquaint

FRAMES = [
    bytes(layers)
    for layers in (
        LINK / V4 / UDP(sport=1000, dport=2000) / b"whole".ljust(18, b"."),
        LINK / V4 / TCP(sport=1000, dport=80, flags="S"),
        LINK / IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(sport=1000, dport=2000) / b"six",
        LINK / Dot1Q(vlan=111, prio=5) / V4 / UDP(sport=3, dport=4) / b"tagged".ljust(18, b"."),
        Ether(src="02:00:00:00:00:01", dst="ff:ff:ff:ff:ff:ff") / ARP(pdst="10.0.0.2") / bytes(18),
        LINK / V4 / UDP(sport=1000, dport=2000) / bytes(n % 251 for n in range(1472)),  # all that an MTU of 1500 takes
    )
]
SNAPLEN = 1000  # of the ERSPAN sessions: only the last frame is cut
VLANS = ["0", "0", "0", "111", "0", "0"]
TRUNCATED = ["0", "0", "0", "0", "0", "1"]


class Tunnel(NamedTuple):
    """A destination, the port that takes it, and what tshark says of the copies, one value or one for each frame."""

    destination: str
    kind: str
    options: dict[str, int | str]
    overhead: int  # bytes between IP header and frame
    chosen: str  # tells these copies from the others
    fields: dict[str, str | list[str]]


GRE = {"gre.flags.version": "0", "gre.flags.checksum": "0", "gre.flags.routing": "0"}
PLAIN = {
    "gre": Tunnel('"gre"', "gre", {}, 4, "gre.flags.key == 0", {**GRE, "gre.proto": "0x6558", "gre.flags.key": "0"}),
    "grekey": Tunnel(
        '"gre", key = 4369',
        "gre",
        {"key": 0x1111},
        8,
        "gre.key",
        {**GRE, "gre.proto": "0x6558", "gre.key": "0x00001111"},
    ),
    "geneve": Tunnel(
        '"geneve", vni = 11259375, metadata = true',
        "geneve",
        {"key": 0xABCDEF},
        40,
        "geneve",
        {
            "udp.dstport": "6081",
            "geneve.version": "0",
            "geneve.flags": "0x00",
            "geneve.proto_type": "0x6558",
            "geneve.vni": "0xabcdef",
            "geneve.reserved": "0x00",
            "geneve.option.class": "0xff6d",
            "geneve.option.type": "0x01",
            "geneve.option.length": "24",  # its header included
            "geneve.option.type.critical": "0",
        },
    ),
    "vxlan": Tunnel(
        '"vxlan", vni = 11259375',
        "vxlan",
        {"key": 0xABCDEF},
        16,
        "vxlan",
        {"udp.dstport": "4789", "vxlan.flags": "0x0800", "vxlan.vni": "11259375", "vxlan.reserved8": "0"},
    ),
}
SPAN: dict[str, str | list[str]] = {
    "gre.flags.key": "0",
    "gre.flags.sequence_number": "1",
    "gre.sequence_number": [str(n) for n in range(len(FRAMES))],
    "erspan.vlan": VLANS,
    "erspan.cos": "5",
    "erspan.truncated": TRUNCATED,
}
ERSPAN = {
    "erspan2": Tunnel(
        '"erspan", erspan_type = "II", session_id = 677, cos = 5, index = 74565',
        "erspan",
        {"key": 677, "erspan_ver": 1, "erspan_idx": "0x12345"},
        16,
        "erspan.version == 1",
        {
            **GRE,
            **SPAN,
            "gre.proto": "0x88be",
            "erspan.version": "1",
            "erspan.encap": ["3" if vlan != "0" else "0" for vlan in VLANS],
            "erspan.spanid": "677",
            "erspan.index": "74565",
        },
    ),
    "erspan3": Tunnel(
        '"erspan", erspan_type = "III", session_id = 678, cos = 5, hardware_id = 42, sgt = 48879',
        "erspan",
        {"key": 678, "erspan_ver": 2, "erspan_dir": 0, "erspan_hwid": "0x2a"},
        20,
        "erspan.version == 2",
        {
            **GRE,
            **SPAN,
            "gre.proto": "0x22eb",
            "erspan.version": "2",
            "erspan.bso": "0",
            "erspan.spanid": "678",
            "erspan.sgt": "48879",
            "erspan.p": "1",
            "erspan.ft": "0",
            "erspan.hw": "42",
            "erspan.direction": "0",
            "erspan.gra": "1",
            "erspan.o": "0",
        },
    ),
}


def configuration(tunnels: dict[str, Tunnel], remote: str) -> str:
    return "".join(
        f"""
[[mirrors.m.sessions]]
name = "{name}"
direction = "ingress"
source = "nic"
destination = {{ type = {tunnel.destination}, remote = "{remote}", ttl = 33, dscp = 10 }}
snaplen = {SNAPLEN if tunnel.kind == "erspan" else 0}
"""
        for name, tunnel in tunnels.items()
    )


def connect(net: Topology, underlay: Underlay) -> tuple[Host, Host, Host]:
    client, source, collector = net.host("client"), net.host("source"), net.host("collector")
    net.link(client, "eth0", source, "nic")
    net.link(source, "uplink", collector, "eth0", mtu=1600, offloads=False)
    give(source, "uplink", underlay.source, underlay.length)
    return client, source, collector


def give(host: Host, device: str, address: str, length: int) -> None:
    if ":" in address:
        host.run("sysctl", "-qw", f"net.ipv6.conf.{device}.disable_ipv6=0")
    host.ip(f"address add {address}/{length} dev {device} {'nodad' if ':' in address else ''}")


def told(outer: Sniffer, chosen: str, names: list[str]) -> dict[str, list[str]]:
    """What tshark says of the copies: of each field the outermost one, copy by copy."""
    rows = outer.fields(*names, expression=f"{chosen} && !icmp && !icmpv6")
    return {name: [row[n].split(",")[0] for row in rows] for n, name in enumerate(names)}


@pytest.mark.parametrize("underlay", [OVER_IPV4, OVER_IPV6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("tunnels", [PLAIN, ERSPAN], ids=["gre-geneve-vxlan", "erspan"])  # OVS takes gre or erspan
def test_open_vswitch_takes_every_copy(
    net: Topology,
    sniff: MakeSniffer,
    daemon: MakeDaemon,
    ovs: MakeOpenVSwitch,
    tunnels: dict[str, Tunnel],
    underlay: Underlay,
) -> None:
    client, source, collector = connect(net, underlay)
    switch = ovs(collector)
    switch.add_bridge("phy", "eth0")
    give(collector, "phy", underlay.collector, underlay.length)
    acquaint(source, "uplink", underlay.source, collector, "phy", underlay.collector)
    for name, tunnel in tunnels.items():
        switch.add_bridge(f"to-{name}")
        switch.add_tunnel(f"to-{name}", name, tunnel.kind, underlay.source, **tunnel.options)
    outer = sniff(collector, "eth0", f"src host {underlay.source} and (ip proto 47 or ip6 proto 47 or udp)")
    inner = {name: sniff(collector, f"to-{name}") for name in tunnels}
    mirrord = daemon(source, configuration(tunnels, underlay.collector))

    for frame in FRAMES:
        send(client, "eth0", frame)
    metrics = mirrord.settle(captured=len(FRAMES) * len(tunnels))
    mirrord.stop()
    outer.stop()

    outermost = {
        OVER_IPV4: {"ip.ttl": "33", "ip.dsfield.dscp": "10"},
        OVER_IPV6: {"ipv6.hlim": "33", "ipv6.tclass.dscp": "10"},
    }
    for name, tunnel in tunnels.items():
        kept = [frame[:SNAPLEN] if tunnel.kind == "erspan" else frame for frame in FRAMES]
        assert sorted(inner[name].stop().frames()) == sorted(kept), name
        fields = outermost[underlay] | tunnel.fields
        expected = {field: [value] * len(kept) if isinstance(value, str) else value for field, value in fields.items()}
        assert told(outer, tunnel.chosen, list(expected)) == expected, name
        labels = {"mirror": "m", "session": name}
        assert metrics.total("mirrord_mirrored_frames_total", **labels) == len(kept)
        headers = 14 + underlay.ip_header + tunnel.overhead
        assert metrics.total("mirrord_sent_bytes_total", **labels) == sum(headers + len(frame) for frame in kept)
        assert metrics.total("mirrord_truncated_frames_total", **labels) == int(tunnel.kind == "erspan")
    assert sum(map(len, outer.frames())) == metrics.total("mirrord_sent_bytes_total")


def test_erspan_i_is_gre_alone_and_iii_tells_time_and_direction(
    net: Topology, sniff: MakeSniffer, daemon: MakeDaemon
) -> None:
    underlay = OVER_IPV4
    client, source, collector = connect(net, underlay)
    give(collector, "eth0", underlay.collector, underlay.length)
    acquaint(source, "uplink", underlay.source, collector, "eth0", underlay.collector)
    outer = sniff(collector, "eth0", f"src host {underlay.source} and ip proto 47")
    three = f'type = "erspan", erspan_type = "III", remote = "{underlay.collector}"'
    mirrord = daemon(
        source,
        f"""
[[mirrors.m.sessions]]
name = "one"
source = "nic"
destination = {{ type = "erspan", erspan_type = "I", remote = "{underlay.collector}" }}

[[mirrors.m.sessions]]
name = "host"
source = "nic"
destination = {{ {three}, session_id = 1 }}

[[mirrors.m.sessions]]
name = "guest"
source = {{ type = "device", device = "nic", perspective = "guest" }}
destination = {{ {three}, session_id = 2, session_id_egress = 3 }}
""",
    )

    received, sent = FRAMES[:2]
    send(client, "eth0", received)
    mirrord.settle(captured=3)
    send(source, "nic", sent)
    metrics = mirrord.settle(captured=6)
    mirrord.stop()

    outer.stop()
    ones = [Ether(data) for data in outer.frames("ip[22:2] = 0x88be")]
    assert [bytes(one[ERSPAN_I].payload) for one in ones] == [received, sent]
    assert {int(one["GRE"].fields["seqnum_present"]) for one in ones} == {0}
    assert outer.fields("gre.flags_and_version", "udp.srcport", "tcp.srcport", expression="gre.proto == 0x88be") == [
        ["0x0000", "1000", ""],
        ["0x0000", "", "1000"],
    ]
    for sessions, directions in ((["1", "1"], ["0", "1"]), (["3", "2"], ["1", "0"])):
        rows = outer.fields(
            *("erspan.spanid", "erspan.direction", "erspan.timestamp", "frame.time_epoch"),
            expression=f"erspan.spanid in {{{', '.join(sessions)}}}",
        )
        assert [row[0] for row in rows] == sessions
        assert [row[1] for row in rows] == directions
        for *_, stamp, epoch in rows:  # 100 ns each, of 32 bits: it comes round every 429 s
            later = (int(float(epoch) * 10_000_000) - int(stamp)) % (1 << 32)
            assert later < 50_000_000, (stamp, epoch)
    assert metrics.total("mirrord_read_frames_total", session="guest", direction="egress") == 1
