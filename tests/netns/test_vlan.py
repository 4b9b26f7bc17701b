"""VLANs in and out: which frames a source's VLANs choose, and which tags the copies wear. Expected frames by scapy.

client eth0 ---- nic [source] out0, out1, ... ---- eth0, eth1, ... [analyser]
"""

from __future__ import annotations

import socket

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.send import send
from tests.support.topology import Topology, acquaint

C7, C111, C112, PRIORITY = Dot1Q(vlan=7), Dot1Q(vlan=111, prio=5), Dot1Q(vlan=112), Dot1Q(vlan=0, prio=3)
S7, S111 = Dot1AD(vlan=7), Dot1AD(vlan=111)
WRITES, WRITE = 8, 60_000
RSPAN = Dot1Q(vlan=200)
STACKS: list[tuple[Packet, ...]] = [(), (C7,), (C111,), (C112,), (PRIORITY,), (S111, C7), (C7, C111)]


def frame(*tags: Packet) -> bytes:
    layers: Packet = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    for tag in tags:
        layers /= tag.copy()
    return bytes(layers / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=9, dport=9) / b"discard".ljust(26, b"."))


# Keys of the source, keys of the destination, and the tags of the copies of STACKS.
SESSIONS: list[tuple[str, str, list[tuple[Packet, ...]]]] = [
    ("", "", STACKS),
    (", vlan = [7, 111]", "", [(), (), (C7,), (C111,)]),
    (", vlan = 111", ', original_vlan = "keep"', [(C111,), (S111, C7)]),
    ("", ', original_vlan = "strip"', [(), (), (), (), (), (C7,), (C111,)]),
    ("", ", vlan = 200", [(RSPAN, *rest) for rest in ((), (), (), (), (), (C7,), (C111,))]),
    ("", ', vlan = 200, original_vlan = "keep"', [(RSPAN, *stack) for stack in STACKS]),
    ("", ", vlan_tpid = 0x8100", [*STACKS[:5], (Dot1Q(vlan=111), C7), (C7, C111)]),
    ("", ', original_vlan = "strip", vlan_tpid = 0x88A8', [(), (), (), (), (), (S7,), (Dot1AD(vlan=111, prio=5),)]),
]


def test_tags_choose_frames_and_are_taken_off_and_put_on(net: Topology, sniff: MakeSniffer, daemon: MakeDaemon) -> None:
    client, host, analyser = net.host("client"), net.host("source"), net.host("analyser")
    net.link(client, "eth0", host, "nic")
    configuration, sniffers = "", []
    for n, (source, destination, _) in enumerate(SESSIONS):
        net.link(host, f"out{n}", analyser, f"eth{n}")
        sniffers.append(sniff(analyser, f"eth{n}"))
        configuration += f"""
[[mirrors.m.sessions]]
name = "{n}"
source = {{ type = "device", device = "nic"{source} }}
destination = {{ type = "device", device = "out{n}"{destination} }}
"""
    mirrord = daemon(host, configuration)
    for stack in STACKS:
        send(client, "eth0", frame(*stack))
    metrics = mirrord.settle(captured=sum(len(expected) for _, _, expected in SESSIONS))
    mirrord.stop()

    for sniffer, (source, destination, expected) in zip(sniffers, SESSIONS, strict=True):
        assert sniffer.stop().frames() == [frame(*stack) for stack in expected], source + destination
    assert metrics.total("mirrord_truncated_frames_total") == 0


def test_a_super_frames_segments_each_wear_the_tag(net: Topology, sniff: MakeSniffer, daemon: MakeDaemon) -> None:
    client, host, analyser = net.host("client"), net.host("source"), net.host("analyser")
    net.link(client, "eth0", host, "nic", ("10.0.0.1/24", "10.0.0.2/24"))
    acquaint(client, "eth0", "10.0.0.1", host, "nic", "10.0.0.2")
    net.link(host, "out", analyser, "eth0")
    received = sniff(analyser, "eth0")
    mirrord = daemon(
        host,
        """
[[mirrors.m.sessions]]
name = "s"
source = "nic"
direction = "egress"
destination = { type = "device", device = "out", vlan = 200 }
""",
    )
    with client.open_socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("10.0.0.1", 4000))
        listener.listen()
        with host.open_socket(socket.AF_INET, socket.SOCK_STREAM) as sender:
            sender.connect(("10.0.0.1", 4000))
            receiver, _ = listener.accept()
            with receiver:
                for _ in range(WRITES):
                    sender.sendall(bytes(WRITE))
                    assert len(receiver.recv(WRITE, socket.MSG_WAITALL)) == WRITE
    metrics = mirrord.settle(captured=WRITES)
    mirrord.stop()

    assert metrics.total("mirrord_segmented_frames_total") > 0, "the kernel made no super-frame"
    fields = ("vlan.id", "frame.len", "tcp.checksum.status", "tcp.len")
    check = ("-o", "tcp.check_checksum:TRUE", "-T", "fields", *(part for name in fields for part in ("-e", name)))
    rows = [line.split("\t") for line in received.stop().tshark(*check).splitlines()]
    assert {row[0] for row in rows} == {"200"}
    assert max(int(row[1]) for row in rows) == 1518  # 1500, and 14 + 4 before it
    assert {row[2] for row in rows} == {"1"}, "1: good"
    assert sum(int(row[3]) for row in rows) == WRITES * WRITE
