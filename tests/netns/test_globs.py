"""Sources by list and glob: what is there, what comes later, and never the session's own destination.

g0, g1, sensor (eth0) ---- nic, tap1, tap9 [host]
"""

from __future__ import annotations

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.api import Api
from tests.support.daemon import Daemon
from tests.support.send import send, udp_frame
from tests.support.topology import Topology
from tests.support.wait import wait_for

CONFIGURATION = """
[[mirrors.m.sessions]]
name = "taps"
source = { type = "device", device = ["nic", "tap*"] }
destination = { type = "device", device = "tap9" }
"""
FRAMES = [
    udp_frame(("02:00:00:00:00:01", "10.1.0.1", n), ("02:00:00:00:00:02", "10.1.0.2", 9), length=60) for n in (1, 2, 3)
]


def sources(mirrord: Daemon) -> dict[str, float]:
    """What is mirrored, by device: 1 running, 0 waiting."""
    samples = mirrord.metrics().select("mirrord_session_up")
    return {dict(labels)["source"]: value for (_, labels), value in samples.items()}


def test_a_pattern_means_what_matches_now_and_later(net: Topology, sniff: MakeSniffer, daemon: MakeDaemon) -> None:
    host, sensor, guests = net.host("host"), net.host("sensor"), [net.host("g0"), net.host("g1")]
    net.link(guests[0], "eth0", host, "nic")
    net.link(sensor, "eth0", host, "tap9")
    received = sniff(sensor, "eth0", "udp and src host 10.1.0.1")
    mirrord = daemon(host, CONFIGURATION, up=False)
    assert sources(mirrord) == {"nic": 1, "tap*": 0}

    net.link(guests[1], "eth0", host, "tap1")
    wait_for(lambda: sources(mirrord) == {"nic": 1, "tap1": 1}, "the device that came later")
    send(guests[0], "eth0", FRAMES[0])
    send(guests[1], "eth0", FRAMES[1])
    received.wait_lines(2)
    send(sensor, "eth0", FRAMES[2])  # received by the destination: nobody's copy
    host.ip("link delete tap1")
    wait_for(lambda: sources(mirrord) == {"nic": 1, "tap*": 0}, "the device gone")
    assert mirrord.settle(captured=1).total("mirrord_captured_frames_total", source="nic") == 1
    mirrord.stop()
    assert sorted(received.stop().frames()) == sorted(FRAMES)  # the third is the sensor's own


def test_a_pattern_leaves_out_what_cannot_be_captured(net: Topology, daemon: MakeDaemon) -> None:
    host, sensor, guest = net.host("host"), net.host("sensor"), net.host("guest")
    net.link(guest, "eth0", host, "tap1")
    net.link(sensor, "eth0", host, "tap9")
    host.ip("tuntap add dev tap-l3 mode tun")
    host.ip("link set dev tap-l3 up")
    note = "no packet of tap-l3, which has no Ethernet, has a VLAN tag: the pattern leaves it out"
    mirrord = daemon(host, CONFIGURATION.replace('["nic", "tap*"]', '"tap*", vlan = 7'))
    assert sources(mirrord) == {"tap1": 1}
    ask = Api(mirrord.socket)
    other = {
        "name": "s",
        "source": {"device": "tap*", "vlan": 7},
        "destination": {"type": "device", "device": "tap9", "vlan": 5},
    }
    assert ask("PUT", "mirrors/made", {"sessions": [other]}).status == 201
    told = ask("GET", "status").body["sessions"]
    assert [(one["mirror"], one["source"], one["state"], one["warnings"]) for one in told] == [
        ("m", "tap1", "up", [note]),
        ("made", "tap1", "up", [note]),
    ]
    found = ask("GET", "doctor").body["doctor"]
    assert [(one["mirror"], one["problem"]) for one in found if one["code"] == "left_out"] == [
        ("m", note), ("made", note),
    ]  # fmt: skip
    assert mirrord.output().count(note) == 2  # once for each session
    named = ask("PUT", "mirrors/named", {"sessions": [other | {"source": {"device": "tap-l3", "vlan": 7}}]})
    assert (named.status, named.code) == (409, "refused")
