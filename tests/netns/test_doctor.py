"""`mirrorctl doctor` beside real faults: each is told once, with what to do, and what to do mends it.

guest eth0 ---- tap0 [host] up0 ---- up0 [collector]
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeDaemon
from tests.support.ctl import ctl, invoke
from tests.support.daemon import Daemon
from tests.support.send import ENDS, send, udp_frame
from tests.support.topology import Host, Topology, receive_vxlan
from tests.support.uplink import tapped
from tests.support.wait import wait_for

FRAME = udp_frame(*ENDS, length=1000)
VXLAN = '{ type = "vxlan", remote = "192.0.2.2", vni = 1 }'


def session(name: str, destination: str, more: str = "") -> str:
    return f"""
[[mirrors.{name}.sessions]]
name = "s"
source = "tap0"
direction = "egress"
destination = {destination}
{more}
"""


@pytest.fixture
def dataplane() -> str:
    """One is enough: how frames go is not the question."""
    return "native"


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host]:
    """The host and the collector, which has a socket for what is sent there."""
    host, collector = tapped(net)
    receive_vxlan(collector)
    return host, collector


class Doctor:
    """What mirrorctl finds wrong; but for the clock, which is this machine's."""

    def __init__(self, running: Daemon, socket: Path | None = None) -> None:
        self._socket = socket or running.socket

    def codes(self, *mirror: str) -> list[str]:
        return [one["code"] for one in self._look(*mirror)[0]]

    def only(self, code: str, *mirror: str, status: int) -> tuple[str, str]:
        """Wait until this is what is wrong, and nothing else: the problem and the remedy."""
        wait_for(lambda: self.codes(*mirror) == [code], f"{code} alone")
        (one,), ended = self._look(*mirror)
        assert ended == status
        assert one["severity"] == ("error" if status else "warning")
        said = invoke(self._socket, "doctor", *mirror).stdout
        assert one["problem"] in said
        assert one["remedy"] in said
        return one["problem"], one["remedy"]

    def nothing(self, *mirror: str) -> None:
        """Wait until nothing is wrong."""
        wait_for(lambda: self._look(*mirror) == ([], 0), "nothing wrong")

    def _look(self, *mirror: str) -> tuple[list[Any], int]:
        done = invoke(self._socket, "--json", "doctor", *mirror)
        return [one for one in json.loads(done.stdout) if one["code"] != "clock"], done.exit_code


def mend(host: Host, remedy: str) -> None:
    """Do what a remedy says, up to its first comma."""
    host.run(*remedy.partition(",")[0].split())


def test_links_routes_and_next_hops(hosts: tuple[Host, Host], daemon: MakeDaemon) -> None:
    host, collector = hosts
    running = daemon(host, session("m", VXLAN))
    doctor = Doctor(running)
    doctor.nothing()

    host.ip("link set tap0 down")
    problem, remedy = doctor.only("device_down", status=1)
    assert problem == "device is down: tap0"
    mend(host, remedy)
    doctor.nothing()

    host.ip("link set up0 mtu 1500")
    problem, remedy = doctor.only("mtu", status=0)
    assert "up to 1514: longer ones are truncated" in problem
    assert "mtu 1550" in remedy  # 1514, VXLAN and UDP 8 each, IPv4 20: RFC 7348 5
    assert "carries frames of 1464 bytes" in problem
    mend(host, remedy)
    doctor.nothing()

    for device in ("up0", "tap0"):
        host.run("tc", "qdisc", "add", "dev", device, "root", "tbf", "rate", "1gbit", "burst", "1mb", "latency", "9ms")
        problem, remedy = doctor.only("shaped", status=0)
        assert f"device {device} is shaped (tbf)" in problem
        mend(host, remedy)
        doctor.nothing()

    host.ip("route delete 192.0.2.0/24 dev up0")
    problem, _ = doctor.only("no_route", status=1)
    assert "no route to 192.0.2.2" in problem
    host.ip("route add 192.0.2.0/24 dev up0")
    doctor.nothing()

    collector.ip("address delete 192.0.2.2/24 dev up0")
    host.ip("neighbour delete 192.0.2.2 dev up0")
    send(host, "tap0", FRAME)
    problem, remedy = doctor.only("next_hop", status=1)
    assert "192.0.2.2" in problem
    assert "does not answer" in problem
    assert host.run(*remedy.partition("; ")[2].split()[:5]).split()[-1] in ("INCOMPLETE", "FAILED")


def test_a_collector_without_a_socket_is_a_note_and_not_dead(hosts: tuple[Host, Host], daemon: MakeDaemon) -> None:
    host, collector = hosts
    running = daemon(host, session("m", VXLAN))
    collector.ip("link delete vxlan0")
    send(host, "tap0", FRAME, 10)
    problem, remedy = Doctor(running).only("unbound", status=0)
    assert problem == "192.0.2.2 says that its port is unreachable: nothing is bound to UDP port 4789 there"
    assert "a sensor" in remedy
    assert running.metrics().total("mirrord_remote_up") == 1

    running.file.write_text(running.file.read_text().replace("vni = 1", 'vni = 1, liveness = "tcp:9"'))
    running.reload()
    wait_for(lambda: running.metrics().total("mirrord_remote_up") == 0, "it does not answer there")
    problem, _ = Doctor(running).only("no_remote_up", status=1)
    assert problem == "the collector is not alive: TCP port 9: Connection refused; copies are sent all the same"


def test_destination_devices(net: Topology, hosts: tuple[Host, Host], daemon: MakeDaemon) -> None:
    host, collector = hosts
    host.ip("link add name br0 type bridge")
    for name in ("port0", "out0"):
        net.link(host, name, collector, name)
    host.ip("link set dev port0 master br0")
    host.ip("route add default via 192.0.2.2 dev up0")
    mirrors = [
        session("bridge", '{ type = "device", device = "port0" }'),
        session("default", '{ type = "device", device = "up0" }'),
        session("allowed", '{ type = "device", device = "up0", allow_default_route = true }'),
        session("missing", '{ type = "device", device = "out1" }'),
        session("down", '{ type = "device", device = "out0" }'),
        session("glob", '{ type = "device", device = "out0" }').replace("tap0", "nic*"),
        session("away", '{ type = "device", device = "out0", netns = "nowhere" }'),
        session("there", f'{{ type = "device", device = "out0", netns = "{collector.name}" }}'),
        "[mirrors.off]\nenabled = false\n[mirrors.empty]",
    ]
    running = daemon(host, "".join(mirrors), up=False)
    doctor = Doctor(running)
    problem, remedy = doctor.only("learning_bridge", "bridge", status=0)
    mend(host, remedy)
    doctor.nothing("bridge")
    assert "up0 holds a default route" in doctor.only("default_route", "default", status=1)[0]
    doctor.only("default_route", "allowed", status=0)
    assert "no such device: out1; did you mean 'out0'?" in doctor.only("device_missing", "missing", status=1)[0]
    doctor.nothing("down")
    host.ip("link set out0 down")
    problem, remedy = doctor.only("device_down", "down", status=1)
    assert problem == "out0, by which copies leave, is down"
    mend(host, remedy)
    doctor.nothing("down")
    collector.ip("link set out0 down")
    mend(collector, doctor.only("device_down", "there", status=1)[1])
    doctor.nothing("there")
    assert doctor.only("device_missing", "glob", status=1)[0] == "no device matches nic*"
    assert doctor.only("disabled", "off", status=0)[1] == "mirrorctl enable off"
    doctor.only("no_sessions", "empty", status=0)
    assert "no such network namespace: nowhere" in doctor.only("session_waiting", "away", status=1)[0]

    host.run("tc", "qdisc", "add", "dev", "out0", "root", "tbf", "rate", "8kbit", "burst", "2kb", "limit", "4kb")
    send(host, "tap0", FRAME, 50)
    wait_for(lambda: sorted(doctor.codes("down")) == ["send_error", "shaped"], "copies that the queue did not take")
    severities = [one["severity"] for one in json.loads(invoke(running.socket, "--json", "doctor").stdout)]
    assert severities == sorted(severities)


def test_losses_files_and_long_filters(hosts: tuple[Host, Host], daemon: MakeDaemon, tmp_path: Path) -> None:
    host, _ = hosts
    captures = tmp_path / "captures"
    captures.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(captures)], check=True)
    try:
        rules = "\n".join(
            f'{{ priority = {n}, action = "accept", source = "10.{n >> 8}.{n & 255}.0/24" }},' for n in range(1, 1500)
        )
        running = daemon(
            host,
            f"[filters.long]\nrules = [{rules}]\n"
            + session("ring", VXLAN, 'ring_size = "1MiB"')
            + session("file", f'{{ type = "file", path = "{captures}/f.pcapng" }}')
            + session("long", VXLAN.replace("vni = 1", "vni = 2"), 'filter = "long"'),
            capture_directories=[str(captures)],
        )
        doctor = Doctor(running)
        doctor.nothing("ring")
        doctor.nothing("file")
        problem, _ = doctor.only("coarse_filter", "long", status=0)
        assert "filter long is too long for the kernel" in problem

        (captures / "other").write_bytes(bytes(int(3.8 * 2**20)))
        problem, _ = doctor.only("space", "file", status=0)
        assert f"{captures} is nearly full" in problem
        (captures / "other").unlink()
        doctor.nothing("file")

        running.freeze()
        send(host, "tap0", FRAME, 5000)
        running.thaw()
        wait_for(lambda: running.metrics().total("mirrord_captured_frames_total", mirror="ring") == 5000, "all counted")
        lost = int(running.metrics().total("mirrord_dropped_frames_total", mirror="ring", reason="ring_full"))
        problem, remedy = doctor.only("ring_full", "ring", status=1)
        assert problem.startswith(f"{lost} of 5000 frames")
        assert remedy.startswith('ring_size = "4MiB"')
        running.stop()
    finally:
        subprocess.run(["umount", str(captures)], check=True)


def test_the_daemons_own_door_and_files(hosts: tuple[Host, Host], daemon: MakeDaemon, tmp_path: Path) -> None:
    host, _ = hosts
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"SQLite, once" * 100)
    first = daemon(host, session("m", VXLAN), state=str(damaged))
    assert "was damaged" in Doctor(first).only("state_database", status=1)[0]
    assert "state database: was damaged" in invoke(first.socket, "status").stdout
    first.stop()
    shutil.rmtree(first.file.parent)

    running = daemon(host, session("m", VXLAN), read_only_socket=str(tmp_path / "read.sock"))
    doctor = Doctor(running, tmp_path / "read.sock")
    doctor.nothing()
    running.socket.chmod(0o666)
    problem, remedy = doctor.only("socket_rights", status=1)
    assert "anybody" in problem
    mend(host, remedy)
    doctor.nothing()
    written = running.file.read_text()
    running.file.write_text(written.replace("tap0", "up0:0"))
    running.reload()
    problem, _ = doctor.only("reload_refused", status=1)
    assert "mirrors.m.sessions[0].source" in problem
    for text in (written.replace(str(running.socket), str(tmp_path / "later.sock")), written):
        running.file.write_text(text)
        ctl(running.socket, "reload")
        doctor.nothing()  # the socket is where it was when the daemon started
    assert running.output().count("takes effect at the next start") == 1
    running.socket.unlink()
    doctor.only("socket_gone", status=1)
    advice = invoke(running.socket, "doctor")
    assert (advice.exit_code, "is the daemon running" in advice.stderr) == (3, True)
