"""The page /metrics of a real daemon: to the letter after known traffic, and how long a large one takes.

client eth0 ---- nic [source] uplink, narrow ---- eth0, eth1 [collector]
"""

from __future__ import annotations

import subprocess
import threading
import time
from itertools import zip_longest
from pathlib import Path
from statistics import median

import pytest

from mirrord import __version__
from tests.conftest import MakeDaemon
from tests.support.send import ENDS, send, udp_frame
from tests.support.source import source_and_collector
from tests.support.topology import Topology, acquaint
from tests.support.wait import wait_for

GOLDEN = Path(__file__).with_name("scrape.txt")
CONFIGURATION = """
[filters.none_of_it]
rules = [{ priority = 1, action = "reject" }]

[filters.udp]
rules = [{ priority = 7, action = "accept", protocol = "udp" }]

[[mirrors.core.sessions]]
name = "both"
source = "nic"
direction = "both"
destination = { type = "vxlan", remote = "10.99.0.2", vni = 1 }
snaplen = 200
capture = "ring"
transmit = "socket"
gso = "off"

[[mirrors.core.sessions]]
name = "narrow"
source = "nic"
direction = "egress"
filter = "udp"
count_rules = true
destination = { type = "gre", remote = "10.98.0.2", key = 7 }
on_mtu_exceeded = "drop"
capture = "socket"
transmit = "socket"
gso = "off"

[[mirrors.guest.sessions]]
name = "vm"
source = { type = "device", device = "tap0", perspective = "guest" }
direction = "ingress"
filter = "none_of_it"
capture = "ring"
destination = { type = "device", device = "nic" }
"""


def test_the_page_is_the_golden_one(net: Topology, daemon: MakeDaemon, dataplane: str) -> None:
    """The client sent 20 frames of 100 bytes, the source 5 of 300; a copy has 50 bytes more in VXLAN, 42 in keyed GRE.

    `both` cuts the long ones to 200 bytes; `narrow` sees only them, and a path MTU of 250 carries none of them.
    """
    client, source, collector = source_and_collector(net)
    net.link(source, "narrow", collector, "eth1", ("10.98.0.1/24", "10.98.0.2/24"), mtu=250)
    acquaint(source, "narrow", "10.98.0.1", collector, "eth1", "10.98.0.2")
    mirrord = daemon(source, CONFIGURATION, up=False)
    wait_for(lambda: mirrord.metrics().total("mirrord_session_up", mirror="core") == 2, "both sessions up")
    send(client, "eth0", udp_frame(*ENDS, length=100), 20)
    send(source, "nic", udp_frame(*ENDS, length=300), 5)
    mirrord.settle(captured=30)

    golden = GOLDEN.read_text().replace("VERSION", __version__).replace("DATAPLANE", dataplane)
    page = mirrord.scrape()
    for expected, found in zip_longest(golden.splitlines(), page.splitlines()):
        series, _, value = expected.rpartition(" ")
        if value == "*":  # a time, or of this process
            assert (series, True) == (found.rpartition(" ")[0], float(found.rpartition(" ")[2]) >= 0)
        else:
            assert found == expected
    promtool = ["promtool", "check", "metrics"]
    done = subprocess.run(promtool, input=page, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def spans(count: int) -> str:
    return "".join(
        f"""
[[mirrors.mirror{n // 10}.sessions]]
name = "session-{n}"
source = "tap{n}"
destination = {{ type = "device", device = "out" }}
capture = "{"socket" if n else "ring"}"
ring_size = "{"1MiB" if n else "64MiB"}"
"""
        for n in range(count)
    )


@pytest.mark.alone
@pytest.mark.parametrize("dataplane", ["native"])
def test_500_sessions_are_scraped_at_once_and_no_frame_waits_for_it(
    net: Topology, daemon: MakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # else it is the tracer's time that is measured
    source, other = net.host("source"), net.host("other")
    net.link(source, "out", other, "eth0")
    pairs = (f"link add tap{n} up type veth peer tap{n + 1}\nlink set tap{n + 1} up\n" for n in range(0, 40, 2))
    source.run("ip", "-batch", "-", stdin="".join(pairs))  # the other 460 cost a scrape the same, and the end nothing
    mirrord = daemon(source, spans(500), up=False)
    wait_for(lambda: mirrord.metrics().total("mirrord_session_up") == 40, "the sessions that have a device")

    frame = udp_frame(*ENDS, length=100)
    sending = threading.Thread(target=send, args=(source, "tap0", frame, 4000, 2000))
    sending.start()
    taken = []
    while sending.is_alive():
        begun = time.monotonic()
        page = mirrord.scrape()
        taken.append(time.monotonic() - begun)
        time.sleep(0.1)
    assert len(taken) > 5
    assert page.count("\nmirrord_session_up{") == 500
    assert median(taken) < 0.1

    metrics = mirrord.settle(captured=8000)  # tap1 takes in what tap0 sends
    assert metrics.total("mirrord_dropped_frames_total", session="session-0", reason="ring_full") == 0
    quick = metrics.total("mirrord_forward_latency_seconds_bucket", session="session-0", le="0.0256")
    assert quick > 0.95 * 4000
