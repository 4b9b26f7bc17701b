"""Sessions as interfaces of Wireshark: the real tshark finds them and captures from them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import MakeDaemon
from tests.support.topology import Topology
from tests.support.wait import wait_for

CORE = """
[[mirrors.core.sessions]]
name = "vm2"
source = "eth0"
destination = { type = "device", device = "out" }

[[mirrors.core.sessions]]
name = "both"
source = { type = "device", device = ["eth0", "other"] }
destination = { type = "vxlan", remote = "127.0.0.1", vni = 7 }
"""


@pytest.fixture
def dataplane() -> str:
    return "native"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose Wireshark has the program, as `mirrorctl extcap install` leaves it."""
    environment = {**os.environ, "HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "mirrord.cli", "extcap", "install"]
    told = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert told.count("installed") == 2
    return tmp_path / "home"


def test_tshark_lists_sessions_and_captures_one(net: Topology, daemon: MakeDaemon, home: Path, tmp_path: Path) -> None:
    host, client, sink = net.host("host"), net.host("client"), net.host("sink")
    net.link(host, "eth0", client, "eth0", ("10.0.0.1/24", "10.0.0.2/24"))
    net.link(host, "other", sink, "other")
    net.link(host, "out", sink, "in")
    mirrord = daemon(host, CORE)
    tshark = ["env", f"HOME={home}", f"MIRRORD_SOCKET={mirrord.socket}", "tshark"]
    listed = host.run(*tshark, "-D")
    for shown in ("mirrord: core/vm2", "mirrord: core/both on eth0", "mirrord: core/both on other"):
        assert f"({shown})" in listed, listed
    file = tmp_path / "seen.pcapng"
    running = host.spawn(*tshark, "-i", "mirrord:core/vm2", "-c", "4", "-w", str(file))
    pings = host.spawn("ping", "-i", "0.2", "10.0.0.2")
    wait_for(lambda: running.status() is not None, "four packets", 30)
    pings.close()
    assert running.status() == 0, running.output()
    decoded = host.run("tshark", "-r", str(file), "-T", "fields", "-e", "frame.interface_name", "-e", "icmp.type")
    assert {line for line in decoded.splitlines() if line[-1:].isdigit()} == {"eth0\t0", "eth0\t8"}, decoded


def test_a_capture_filter_is_applied(net: Topology, daemon: MakeDaemon, tmp_path: Path) -> None:
    host, client = net.host("host"), net.host("client")
    net.link(host, "eth0", client, "eth0", ("10.0.0.1/24", "10.0.0.2/24"))
    net.link(host, "out", client, "in")
    mirrord = daemon(host, CORE.split("\n\n", maxsplit=1)[0])
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    extcap = (sys.executable, "-m", "mirrord.cli.extcap", "--socket", str(mirrord.socket))
    wanted = ("--extcap-interface", "mirrord:core/vm2", "--fifo", str(fifo), "--extcap-capture-filter", "icmp[0] == 0")
    running = host.spawn(*extcap, "--capture", *wanted)
    reader = host.spawn("tcpdump", "-c", "3", "-nr", str(fifo))
    pings = host.spawn("ping", "-i", "0.2", "10.0.0.2")
    wait_for(lambda: reader.status() is not None, "three replies", 30)
    lines = [line for line in reader.output().splitlines() if " IP " in line]
    assert len(lines) == 3
    assert all("echo reply" in line for line in lines), lines
    wait_for(lambda: running.status() is not None, "it ends with its reader", 30)
    pings.close()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "Wireshark runs this program"),
        (("--capture", "--extcap-interface", "mirrord:a/b"), "needs --fifo"),
        (("--capture", "--extcap-interface", "mirrord-ssh", "--fifo", "x"), "needs --host and --session"),
    ],
)
def test_wrong_use_is_told(arguments: tuple[str, ...], why: str) -> None:
    command = [sys.executable, "-m", "mirrord.cli.extcap", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert why in done.stderr


def test_what_wireshark_asks_first_is_answered_without_a_daemon(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mirrord.cli.extcap", "--socket", str(tmp_path / "none")]
    listed = subprocess.run([*command, "--extcap-interfaces"], check=True, capture_output=True, text=True).stdout
    assert "interface {value=mirrord-ssh}" in listed
    options = subprocess.run(
        [*command, "--extcap-interface", "mirrord-ssh", "--extcap-config"], check=True, capture_output=True, text=True
    ).stdout
    assert [line.split("call=")[1].split("}")[0] for line in options.splitlines()] == [
        "--host", "--session", "--source", "--socket",
    ]  # fmt: skip
