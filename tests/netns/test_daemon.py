"""The daemon as its operator meets it: start, errors, hot-plug, reload, the road's MTU, and the end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.conftest import MakeDaemon, MakeSniffer
from tests.support.ctl import ctl
from tests.support.daemon import ROOT, Daemon
from tests.support.send import ENDS, FRAME, send, udp_frame
from tests.support.topology import Host, Topology
from tests.support.uplink import tapped
from tests.support.wait import wait_for

MARK = 0x10000000
LONG = udp_frame(*ENDS, length=1400)


def session(name: str, source: str, vni: int, more: str = "") -> str:
    return f"""
[[mirrors.core.sessions]]
name = "{name}"
source = "{source}"
direction = "egress"
destination = {{ type = "vxlan", remote = "192.0.2.2", vni = {vni} }}
{more}
"""


@pytest.fixture
def dataplane() -> str:
    """One is enough here, except where a test asks for both."""
    return "native"


@pytest.fixture
def host(net: Topology) -> Host:
    """A host whose `up0` leads to a collector's `up0`, and whose `tap0` leads to a guest."""
    return tapped(net)[0]


def state(daemon: Daemon, name: str) -> tuple[str, str]:
    """A session's state and its reason, as the metrics tell them."""
    (labels,) = [dict(key[1]) for key in daemon.metrics().select("mirrord_session_info", session=name)]
    return labels["state"], labels["reason"]


def wait_mirrored(daemon: Daemon, name: str, frames: int) -> None:
    def done() -> bool:
        return daemon.metrics().total("mirrord_mirrored_frames_total", session=name) == frames

    wait_for(done, f"{frames} frames mirrored by {name}")


@pytest.mark.parametrize("dataplane", ["python", "native"])
def test_an_end_drains_prints_the_totals_and_leaves_nothing(host: Host, daemon: MakeDaemon) -> None:
    running = daemon(host, session("a", "tap0", 1))
    mode = running.socket.stat().st_mode
    assert oct(mode & 0o777) == "0o660"
    send(host, "tap0", FRAME, 1000)
    status, output = running.stop()
    assert status == 0, output
    (total,) = [line for line in output.splitlines() if "] total " in line]
    assert "mirror=core session=a source=tap0 captured=1000 " in total
    assert " mirrored=1000 sent_packets=1000 sent_bytes=150000 " in total  # 14 + 20 + 8 + 8 bytes before each 100
    assert not running.socket.exists()


@pytest.mark.parametrize("dataplane", ["python", "native"])
def test_a_device_may_come_later_and_go_and_come_again(net: Topology, host: Host, daemon: MakeDaemon) -> None:
    guest = net.host("late")
    running = daemon(host, session("a", "tap0", 1) + session("b", "tap9", 2), up=False)
    assert state(running, "b") == ("waiting", "no such device: tap9")
    for times in (1, 2):
        net.link(host, "tap9", guest, "eth0")
        running.wait_up()
        send(host, "tap9", FRAME, 10)
        wait_mirrored(running, "b", 10 * times)
        host.ip("link delete tap9")
        wait_for(lambda: state(running, "b") == ("waiting", "no such device: tap9"), "the session waiting again")
    cpu = running.metrics().total("process_cpu_seconds_total")
    send(host, "tap0", FRAME, 50, rate=50)  # a second in which nothing else is to be done
    assert running.metrics().total("process_cpu_seconds_total") - cpu < 0.5
    assert running.settle(70).total("mirrord_mirrored_frames_total", session="b") == 20
    assert running.stop()[0] == 0


def test_a_device_that_is_down_waits(host: Host, daemon: MakeDaemon) -> None:
    running = daemon(host, session("a", "tap0", 1))
    host.ip("link set tap0 down")
    wait_for(lambda: state(running, "a") == ("waiting", "device is down: tap0"), "the session waiting")
    host.ip("link set tap0 up")
    running.wait_up()
    send(host, "tap0", FRAME, 10)
    assert running.settle(10).total("mirrord_mirrored_frames_total") == 10


def test_a_default_route_device_is_refused_as_destination_while_it_is_one(host: Host, daemon: MakeDaemon) -> None:
    span = '[[mirrors.core.sessions]]\nname = "a"\nsource = "tap0"\ndestination = { type = "device", device = "up0" }\n'
    host.ip("route add default via 192.0.2.2")
    running = daemon(host, span, up=False)
    told, reason = state(running, "a")
    assert (told, reason.partition(",")[0]) == ("failed", "up0 holds a default route of this host")
    host.ip("route delete default")
    running.wait_up()


def test_a_reload_touches_only_what_changed(host: Host, daemon: MakeDaemon) -> None:
    running = daemon(host, session("a", "tap0", 1) + session("b", "up0", 2))
    send(host, "tap0", FRAME, 10)
    wait_mirrored(running, "a", 10)
    good = running.file.read_text()

    running.file.write_text(good + "nonsense = true\n[filters.f]\nrules = []\n")
    running.reload()
    wait_for(lambda: running.metrics().total("mirrord_config_last_reload_successful") == 0, "the reload refused")
    for problem in ("unknown key", "expected at least one rule"):
        assert problem in running.output()
        assert problem in ctl(running.socket, "reload", status=1)
    assert [state(running, name) for name in "ab"] == [("up", "")] * 2

    running.file.write_text(good.replace('source = "up0"', 'source = "up0"\nring_size = "1MiB"'))
    running.reload()
    wait_for(lambda: running.metrics().total("mirrord_config_last_reload_successful") == 1, "the reload taken over")
    (down,) = [line for line in running.output().splitlines() if "] session down " in line]
    assert "session=b source=up0" in down
    send(host, "tap0", FRAME, 10)
    wait_mirrored(running, "a", 20)  # counted on


@pytest.mark.parametrize("dataplane", ["python", "native"])
def test_a_session_loses_no_frame_while_what_it_selects_changes(host: Host, daemon: MakeDaemon) -> None:
    """Every reload here gives the session under load a filter that takes all it gets, or takes it away.

    With it comes and goes another tunnel, whose packets the session would take for copies.
    """
    running = daemon(host, session("a", "tap0", 1))
    without = running.file.read_text()
    udp = '[filters.udp]\nrules = [{ priority = 1, action = "accept", protocol = "udp" }]\n'
    more = session("b", "up0", 2).replace("192.0.2.2", "192.0.2.3") + udp
    filtered = without.replace('name = "a"\n', 'name = "a"\nfilter = "udp"\n')
    assert filtered != without
    sending = threading.Thread(target=send, args=(host, "tap0", FRAME, 6000, 4000))
    sending.start()
    for turn in range(1, 9):
        running.file.write_text(filtered + more if turn % 2 else without)
        running.reload()
        wait_for(lambda: running.output().count("] reloaded ") == turn, "the reload taken over")  # noqa: B023
    sending.join()
    metrics = running.settle(captured=6000)
    assert metrics.total("mirrord_captured_frames_total", session="a") == 6000  # mirrored, or the ring was full
    assert running.output().count("] session changed ") == 8
    assert "session=a source=tap0" not in [line for line in running.output().splitlines() if "session down" in line]


@pytest.mark.parametrize("dataplane", ["python", "native"])
def test_the_path_mtu_is_followed_without_losing_a_frame(host: Host, daemon: MakeDaemon, sniff: MakeSniffer) -> None:
    running = daemon(host, session("a", "tap0", 1))
    sniffer = sniff(host, "up0", "udp port 4789")
    send(host, "tap0", LONG)
    running.settle(1)
    host.ip("route change 192.0.2.0/24 dev up0 src 192.0.2.1 mtu 1000")
    wait_for(lambda: "session changed" in running.output(), "the new MTU")
    send(host, "tap0", LONG)
    running.settle(2)
    lengths = [row[0].split(",")[0] for row in sniffer.stop().fields("ip.len")]
    assert lengths == ["1436", "1000"]  # 1400 + 8 + 8 + 20; then the path MTU to the byte
    metrics = running.metrics()
    assert (metrics.total("mirrord_captured_frames_total"), metrics.total("mirrord_truncated_frames_total")) == (2, 1)


def test_mirrorctl_shows_what_is(host: Host, daemon: MakeDaemon, dataplane: str) -> None:
    running = daemon(host, '[mirrors.core]\ndescription = "the guest"\n' + session("a", "tap0", 7))
    send(host, "tap0", FRAME, 10)
    running.settle(10)
    status = json.loads(ctl(running.socket, "--json", "status"))
    assert (status["dataplane"], status["config"]["problems"]) == (dataplane, [])
    (shown,) = status["sessions"]
    assert (shown["mirror"], shown["session"], shown["source"], shown["state"]) == ("core", "a", "tap0", "up")
    assert shown["counters"]["mirrored_frames"] == 10
    assert shown["counters"]["read_frames"] == {"ingress": 0, "egress": 10}
    assert "vxlan 192.0.2.2 port 4789 vni 7" in ctl(running.socket, "status")
    head, row = (line.split() for line in ctl(running.socket, "list").splitlines())
    assert (head[4:6], row[:6]) == (["MIRRORED", "DROPPED"], ["core", "yes", "1", "1/1", "10", "0"])
    assert row[-2:] == ["the", "guest"]
    assert "sent_bytes" in ctl(running.socket, "show", "core")
    (mirror,) = json.loads(ctl(running.socket, "--json", "list"))
    assert mirror == json.loads(ctl(running.socket, "--json", "show", "core")) | {"sessions": mirror["sessions"]}
    assert ctl(running.socket, "show", "cora", status=1) == "mirrorctl: no such mirror: cora; did you mean 'core'?\n"
    assert "Usage" in ctl(running.socket, "show", status=2)
    running.stop()
    assert "cannot be reached" in ctl(running.socket, "status", status=3)


def test_errors_of_the_api_have_their_form(host: Host, daemon: MakeDaemon) -> None:
    running = daemon(host, session("a", "tap0", 1))
    for method, path, status, code in [
        ("GET", "/v1/mirrors/cora", 404, "not_found"),
        ("GET", "/v1/nothing", 404, "not_found"),
        ("DELETE", "/v1/status", 405, "method_not_allowed"),
    ]:
        done = subprocess.run(
            ["curl", "-s", "-X", method, "-w", "\n%{http_code}", "--unix-socket", str(running.socket), f"http://d{path}"],
            capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
        body, _, answered = done.stdout.rpartition("\n")
        error = json.loads(body)["error"]
        assert (int(answered), error["code"], set(error)) == (status, code, {"code", "message", "path"})


def fails(host: Host, file: Path, *before: str) -> list[str]:
    """The exit status of a daemon that does not run, and the lines that it prints."""
    script = 'env PYTHONPATH="$0" "$@"; echo "exit status $?"'
    command = [*before, sys.executable, "-m", "mirrord.control.daemon", "-c", str(file)]
    return host.run("sh", "-c", script, str(ROOT), *command, seconds=30).splitlines()


def write(directory: Path, text: str = "", **settings: str | int) -> Path:
    table = {"socket": str(directory / "s.sock"), "state": str(directory / "s.db"), "metrics": "", **settings}
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    (directory / "m.toml").write_text("\n".join(["[daemon]", "include = []", *lines, text]))
    return directory / "m.toml"


def test_what_keeps_it_from_running_is_said_in_one_line(net: Topology, tmp_path: Path) -> None:
    host = net.host("a")
    assert fails(host, tmp_path / "none") == [
        f"mirrord: {tmp_path}/none: cannot be read: No such file or directory",
        "exit status 2",
    ]
    assert fails(host, write(tmp_path), "setpriv", "--bounding-set=-net_raw") == [
        "mirrord: no privilege: needs CAP_NET_RAW; run it as root or by its systemd unit",
        "exit status 1",
    ]
    no_nice = ["prlimit", "--nice=0", "setpriv", "--bounding-set=-sys_nice"]
    assert fails(host, write(tmp_path, nice=-5), *no_nice) == [
        "mirrord: daemon.nice: -5 is not allowed: needs CAP_SYS_NICE, or LimitNICE=-5 in the systemd unit",
        "exit status 1",
    ]
    with host.open_socket(socket.AF_INET, socket.SOCK_STREAM) as other:
        other.bind(("127.0.0.1", 9817))
        other.listen()
        assert fails(host, write(tmp_path, metrics="127.0.0.1:9817")) == [
            "mirrord: daemon.metrics: 127.0.0.1 port 9817: the port is in use",
            "exit status 1",
        ]
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "s.sock"))
        other.listen()
        assert fails(host, write(tmp_path)) == [
            f"mirrord: daemon.socket: {tmp_path}/s.sock: another mirrord listens there",
            "exit status 1",
        ]
    assert fails(host, write(tmp_path, socket=str(tmp_path / "m.toml"))) == [
        f"mirrord: daemon.socket: {tmp_path}/m.toml: exists and is not a socket",
        "exit status 1",
    ]
    niced = ["nice", "-n", "5", "prlimit", "--nice=0", "setpriv", "--bounding-set=-sys_nice"]  # which is no hindrance
    assert fails(host, write(tmp_path, socket_group="nobody-has-it"), *niced) == [
        f"mirrord: daemon.socket: {tmp_path}/s.sock: no such group: nobody-has-it",
        "exit status 1",
    ]


def test_a_reload_that_comes_before_it_runs_is_done_when_it_does(net: Topology, tmp_path: Path) -> None:
    command = ("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "mirrord.control.daemon", "-c", str(write(tmp_path)))
    starting = net.host("a").spawn(*command)
    wait_for((tmp_path / "s.sock").exists, "the daemon half started")
    starting.send_signal(signal.SIGHUP)
    wait_for(lambda: starting.status() is not None or "] reloaded " in starting.output(), "the reload")
    assert starting.stop() == 0, starting.output()


def test_every_problem_of_a_file_is_told(net: Topology, tmp_path: Path) -> None:
    file = write(tmp_path, "colour = 1\n[filters.f]\nrules = []")
    *problems, status = fails(net.host("a"), file)
    assert status == "exit status 2"
    assert [line.split(": ")[:3] for line in problems] == [
        ["mirrord", str(file), "daemon.colour"],
        ["mirrord", str(file), "filters.f.rules"],
    ]


def test_the_socket_that_a_killed_daemon_left_is_taken_over(host: Host, daemon: MakeDaemon, tmp_path: Path) -> None:
    first = daemon(host, session("a", "tap0", 1))
    first.kill()
    assert first.socket.exists()
    second = Daemon(host, _made(tmp_path / "second"), session("a", "tap0", 1), socket=str(first.socket))
    second.socket = first.socket
    assert json.loads(ctl(second.socket, "--json", "status"))["pid"] != os.getpid()
    assert second.stop()[0] == 0


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory
