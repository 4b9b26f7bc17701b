"""Which rule takes a packet, asked by the API: as `mirrorctl explain` says it, and what is no packet is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.utils import wrpcap

from tests.conftest import MakeDaemon
from tests.support.api import Api
from tests.support.ctl import ctl
from tests.support.topology import Topology

HUAWEI = """
[[filters.web_in.rules]]
priority = 1
direction = "ingress"
action = "accept"
protocol = "tcp"
source = "192.168.0.161/32"
destination = "192.168.0.230/32"
destination_ports = "1234"

[[filters.web_in.rules]]
priority = 2
action = "reject"
protocol = "icmp"
"""
LINK = Ether(src="fa:16:3e:7e:d6:77", dst="fa:16:3e:7e:d6:bc")
ENDS = IP(src="192.168.0.161", dst="192.168.0.230")
FRAMES = [
    LINK / ENDS / TCP(sport=38944, dport=1234),
    LINK / ENDS / TCP(sport=38944, dport=1235),
    LINK / Dot1Q(vlan=7) / ENDS / UDP(sport=1, dport=1234) / b"x",
    LINK / ENDS / ICMP(),
]


@pytest.fixture
def dataplane() -> str:
    """One is enough: no frame is moved."""
    return "native"


def test_it_is_explained_as_mirrorctl_does(net: Topology, daemon: MakeDaemon, tmp_path: Path) -> None:
    mirrord = daemon(net.host("host"), HUAWEI, up=False)
    api = Api(mirrord.socket)
    wrpcap(str(tmp_path / "some.pcap"), FRAMES)
    asked = {"packets": [{"data": bytes(one).hex(" "), "direction": "ingress"} for one in FRAMES]}
    answer = api("POST", "filters/web_in/explain", asked).body
    assert [(one["rule"], one["action"]) for one in answer["packets"]] == [
        *((1, "accept"), (None, "unmatched"), (None, "unmatched"), (2, "reject")),
    ]  # document 001: incoming TCP to port 1234 alone
    assert answer["packets"][1]["passed_over"][0] == {
        "rule": 1,
        "field": "destination_ports",
        "wanted": "1234",
        "found": "1235",
    }
    told = json.loads(ctl(mirrord.socket, "--json", "explain", "web_in", "--pcap", str(tmp_path / "some.pcap")))
    assert answer["packets"] == told["packets"]
    assert answer["totals"] == {**told["totals"], "undirected": 0}
    outgoing = {"packets": [{"data": bytes(FRAMES[0]).hex(":"), "direction": "egress", "length": 1500}]}
    (one,) = api("POST", "filters/web_in/explain", outgoing).body["packets"]
    assert (one["rule"], one["passed_over"][0]["field"]) == (None, "direction")

    assert api("POST", "filters/web_ni/explain", asked).message == "no such filter: web_ni; did you mean 'web_in'?"
    wrong: list[tuple[Any, str]] = [
        ({}, "packets"),
        ({"packets": []}, "packets"),
        ({"packets": [{"data": "00"}] * 1001}, "packets"),
        ({"packets": [7]}, "packets[0]"),
        ({"packets": [{"data": "00", "port": 1}]}, "packets[0]"),
        ({"packets": [{"data": "00"}, {"data": "0"}]}, "packets[1].data"),
        ({"packets": [{"data": ""}]}, "packets[0].data"),
        ({"packets": [{"data": None}]}, "packets[0].data"),
        ({"packets": [{"data": "00", "direction": "in"}]}, "packets[0].direction"),
        ({"packets": [{"data": "0000", "length": 1}]}, "packets[0].length"),
        ({"packets": [{"data": "00", "length": True}]}, "packets[0].length"),
        ({"packets": [{"data": "00"}], "filter": "x"}, "filter"),
    ]
    for body, path in wrong:
        refused = api("POST", "filters/web_in/explain", body)
        assert (refused.status, refused.code, refused.body["error"]["path"]) == (400, "bad_request", path), body
    rules = [{"priority": n, "action": "accept", "protocol": "tcp"} for n in range(1, 1002)]
    assert api("PUT", "filters/long", {"rules": rules}).status == 201
    assert "at most 499 packets" in api("POST", "filters/long/explain", {"packets": [{"data": "00"}] * 500}).message
    (one,) = api("POST", "filters/long/explain", {"packets": [{"data": bytes(FRAMES[3]).hex()}]}).body["packets"]
    assert [each["rule"] for each in one["passed_over"]] == list(range(902, 1002))
