"""`lo` as a source: each of its frames once, as what it receives; and what doctor advises for its large MTU.

[host] lo, up0 ---- up0 [collector]
"""

from __future__ import annotations

import json
import socket

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.api import Api
from tests.support.ctl import invoke
from tests.support.topology import Topology
from tests.support.uplink import REMOTE, mirror, uplinked
from tests.support.wait import wait_for

CONFIGURATION = f"""
[[mirrors.m.sessions]]
name = "lo"
source = {{ device = "lo" }}
destination = {{ type = "vxlan", remote = "{REMOTE}", vni = 1 }}
"""


def test_each_frame_is_mirrored_once(net: Topology, daemon: MakeDaemon, sniff: MakeSniffer) -> None:
    host, collector = uplinked(net)
    mirrord = daemon(host, CONFIGURATION)
    copies = sniff(collector, "up0", "udp port 4789", snaplen=65535)
    looped = sniff(host, "lo", "udp port 5000", snaplen=65535)  # libpcap leaves the first of the two sights out
    with (
        host.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        host.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        other.bind(("127.0.0.1", 5000))
        for n in range(20):
            one.sendto(bytes([n]) * 100, ("127.0.0.1", 5000))
    copies.wait_lines(20)
    inner = [copy[50:] for copy in copies.stop().frames()]
    assert len(inner) == 20
    assert [frame[42:] for frame in inner] == [frame[42:] for frame in looped.stop().frames()]
    metrics = mirrord.metrics()
    (source,) = {dict(labels)["source"] for _, labels in metrics.select("mirrord_session_up")}
    assert source == "lo"
    assert metrics.total("mirrord_read_frames_total", direction="ingress") >= 20
    assert metrics.total("mirrord_read_frames_total", direction="egress") == 0

    refused = Api(mirrord.socket)("PUT", "mirrors/out", mirror("lo", 2, direction="egress"))
    assert refused.status == 409
    assert "is captured as it receives" in refused.body["error"]["message"]


@pytest.mark.parametrize("dataplane", ["native"])
def test_what_doctor_advises_can_be_done(net: Topology, daemon: MakeDaemon) -> None:
    host, _ = uplinked(net)
    mirrord = daemon(host, CONFIGURATION)

    def found() -> list[dict[str, str]]:
        told: list[dict[str, str]] = json.loads(invoke(mirrord.socket, "--json", "doctor").stdout)
        return [one for one in told if one["code"] == "mtu"]

    (one,) = found()
    assert "an MTU of 65586" in one["problem"]  # 65536 and 14 of Ethernet, 50 of the tunnel less 14
    assert "no MTU of more than 65535" in one["problem"]  # RFC 791: the total length has 16 bits
    for step in one["remedy"].split("; ")[:2]:
        host.run(*step.removeprefix("and ").partition(",")[0].split())
    wait_for(lambda: found() == [], "nothing wrong with the MTU")
