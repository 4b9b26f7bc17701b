"""The daemon under what its systemd unit promises: another user, two capabilities, few system calls, no writing.

client eth0 ---- nic [host] up0   ---- eth0  [collector]
                            span0 ---- span0
                            flow0 ---- flow0
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pytest

from tests.conftest import MakeSniffer
from tests.support.api import Api
from tests.support.captures import count
from tests.support.daemon import ROOT, Daemon
from tests.support.root import Root
from tests.support.send import FRAME, send
from tests.support.topology import Host, Topology, acquaint, receive_vxlan
from tests.support.unit import Unit
from tests.support.wait import wait_for

UNIT, DROP_IN = ROOT / "systemd" / "mirrord.service", ROOT / "systemd" / "netns.conf"
USER = 64009  # nobody's: Debian gives 60000-64999 to packages, on demand
FRAMES = 50
SESSIONS = """
[flow_networks.f]
device = "flow0"
addresses = "203.0.113.1/24"

[[mirrors.m.sessions]]
name = "ring"
source = { type = "device", device = "nic", promiscuous = true }
destination = { type = "vxlan", remote = "192.0.2.2", vni = 1 }
capture = "ring"
ring_size = "64MiB"
[[mirrors.m.sessions]]
name = "socket"
source = "nic"
destination = { type = "gre", remote = "192.0.2.2", key = 7 }
capture = "socket"
[[mirrors.m.sessions]]
name = "span"
source = "nic"
destination = { type = "device", device = "span0", normal_io = false }
[[mirrors.m.sessions]]
name = "file"
source = "nic"
destination = { type = "file", path = "{directory}/nic.pcapng" }
[[mirrors.m.sessions]]
name = "relay"
source = { type = "vxlan", local = "192.0.2.1", vni = 9 }
direction = "ingress"
destination = { type = "geneve", remote = "192.0.2.2", vni = 2 }

[mirrors.f]
flow_network = "f"
[[mirrors.f.sessions]]
name = "flow"
source = "nic"
destination = { type = "vxlan", remote = "203.0.113.2", vni = 3 }
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """What is the daemon's own: its StateDirectory and RuntimeDirectory."""
    made = tmp_path / "mirrord"
    made.mkdir()
    os.chown(made, USER, USER)
    return made


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host]:
    host, collector, client = net.host("host"), net.host("collector"), net.host("client")
    net.link(client, "eth0", host, "nic")
    net.link(host, "up0", collector, "eth0", ("192.0.2.1/24", "192.0.2.2/24"), mtu=1600)
    net.link(host, "span0", collector, "span0")
    net.link(host, "flow0", collector, "flow0", ("", "203.0.113.2/24"), mtu=1600)
    acquaint(host, "up0", "192.0.2.1", collector, "eth0", "192.0.2.2")
    receive_vxlan(collector)
    return host, collector


class Under(Protocol):
    def __call__(self, *files: Path) -> Sequence[str]: ...


@pytest.fixture
def under(directory: Path, hosts: tuple[Host, Host]) -> Iterator[Under]:  # noqa: ARG001 (a root has what was there before)
    """Makes the words that put a command under the promises of a unit and its drop-ins."""
    with Root(directory) as root:
        for path in (sys.base_prefix, ROOT, directory):  # not everyone's to enter, where the tests are root's
            for parent in Path(path).parents:
                (root / str(parent)).chmod(0o755)
        root.run("mount", "-o", "remount,ro", "/")  # ProtectSystem=strict

        def make(*files: Path) -> Sequence[str]:
            confine = [sys.executable, str(ROOT / "tests/support/unit.py"), *map(str, files), "--"]
            bare = ["env", "--ignore-environment", f"PATH={os.environ['PATH']}"]  # as systemd's; no coverage either
            return [*root.enter, *bare, *Unit(*files).setpriv(USER), *confine]

        yield make


def test_every_kind_of_session_runs_under_the_units_promises(
    hosts: tuple[Host, Host], under: Under, directory: Path, dataplane: str, sniff: MakeSniffer
) -> None:
    host, collector = hosts
    uplink = sniff(collector, "eth0", "udp port 4789 or udp port 6081 or ip proto gre")
    span, flow = sniff(collector, "span0"), sniff(collector, "flow0", "udp port 4789")
    daemon = Daemon(
        host, directory, SESSIONS.replace("{directory}", str(directory)), under=under(UNIT),
        dataplane=dataplane, nice=5, capture_directories=[str(directory)],
    )  # fmt: skip
    try:
        assert daemon.socket.stat().st_uid == USER
        send(host, "nic", FRAME, FRAMES)
        daemon.settle(6 * FRAMES - FRAMES)
        daemon.reload()
        wait_for(lambda: "] reloaded " in daemon.output(), "the reload")
        send(host, "nic", FRAME, FRAMES)
        metrics = daemon.settle(2 * 5 * FRAMES)
        assert metrics.total("mirrord_dropped_frames_total") == 0
    finally:
        status, output = daemon.stop()
    assert status == 0, output
    assert "error" not in output.lower(), output
    kinds = [tuple(row) for row in uplink.stop().fields("vxlan.vni", "gre.key")]
    assert sorted(set(kinds)) == [("", "0x00000007"), ("1", "")]
    assert [len(kinds), *(len(each.stop().fields("frame.number")) for each in (span, flow))] == [
        4 * FRAMES, 2 * FRAMES, 2 * FRAMES,
    ]  # fmt: skip
    assert count(directory / "nic.pcapng") == 2 * FRAMES


def test_what_the_unit_does_not_promise_is_not_to_be_had(hosts: tuple[Host, Host], under: Under) -> None:
    """The confinement of the test above is one."""
    tried = "\n".join(
        f"try: {attempt}\nexcept OSError as error: print(error.errno)\nelse: print('done')"
        for attempt in (
            "os.setpriority(os.PRIO_PROCESS, 0, 5)",
            "socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)",
            "socket.socket(socket.AF_CAN, socket.SOCK_RAW, 0)",
            "os.sched_setaffinity(0, {0})",
            "os.setuid(0)",
            "open('/var/lib/anything', 'w')",
            "os.kill(1, 0)",
        )
    )
    said = hosts[0].run(*under(UNIT), sys.executable, "-c", f"import os, socket\n{tried}").split()
    assert said == ["done", "done", "97", "1", "1", "30", "1"]  # EAFNOSUPPORT, EPERM, EPERM, EROFS, EPERM


def test_other_namespaces_are_reached_with_the_drop_in_alone(
    hosts: tuple[Host, Host], under: Under, directory: Path
) -> None:
    host, collector = hosts
    session = f"""
[[mirrors.m.sessions]]
name = "there"
source = {{ type = "device", device = "eth0", netns = "{collector.name}" }}
direction = "egress"
destination = {{ type = "vxlan", remote = "203.0.113.2", vni = 3 }}
"""
    daemon = Daemon(host, directory, session, up=False, under=under(UNIT))
    (told,) = [dict(key[1])["reason"] for key in daemon.metrics().select("mirrord_session_info")]
    assert told.endswith("needs CAP_SYS_ADMIN, which the drop-in netns.conf adds to the systemd unit")
    assert daemon.stop()[0] == 0
    host.ip("address add 203.0.113.1/24 dev flow0")
    daemon = Daemon(host, directory, session, under=under(UNIT, DROP_IN))
    send(collector, "eth0", FRAME, FRAMES)
    assert daemon.settle(FRAMES).total("mirrord_mirrored_frames_total") == FRAMES
    assert daemon.stop()[0] == 0
    daemon = Daemon(host, directory, "", up=False, under=under(UNIT, DROP_IN))
    assert Api(daemon.socket)("GET", "status").body["capabilities"] == ["CAP_NET_ADMIN", "CAP_NET_RAW"]
    assert daemon.stop()[0] == 0
