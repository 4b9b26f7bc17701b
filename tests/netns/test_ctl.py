"""mirrorctl beside its commands on mirrors: filters, flow networks, shell completion, top on a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap

from tests.conftest import MakeDaemon
from tests.support.ctl import COMMAND, ROOT, ctl, run
from tests.support.daemon import Daemon
from tests.support.send import FRAME, send
from tests.support.topology import Topology
from tests.support.wait import wait_for

CONFIG = """
[filters.web]
rules = [
  { priority = 9, action = "reject" },
  { priority = 1, action = "accept", protocol = "tcp", source = ["10.0.0.0/8", "::/0"], destination_ports = "80" },
]

[mirrors.core]
description = "the [core]"
[[mirrors.core.sessions]]
name = "nic"
source = "tap0"
direction = "egress"
destination = { type = "device", device = "out0" }
mirror_tunnels = true
"""


@pytest.fixture
def dataplane() -> str:
    """One is enough: how frames go is not the question."""
    return "native"


@pytest.fixture
def running(net: Topology, daemon: MakeDaemon) -> Daemon:
    """A daemon that mirrors what `tap0` sends."""
    host, guest = net.host("host"), net.host("guest")
    net.link(host, "tap0", guest, "eth0")
    net.link(host, "out0", guest, "eth1")
    return daemon(host, CONFIG)


def test_filters_and_flow_networks(running: Daemon) -> None:
    assert "; mirror_tunnels true" in ctl(running.socket, "show", "core")  # in the words of the TOML
    lines = [line.split() for line in ctl(running.socket, "filter", "show", "web").splitlines()]
    assert lines[1:] == [
        ["PRIORITY", "DIRECTION", "ACTION", "MATCH"],
        ["1", "both", "accept", "protocol=tcp,source=10.0.0.0/8,source=::/0,destination_ports=80"],
        ["9", "both", "reject", "every", "frame"],
    ]
    match = lines[2][3]  # what is shown can be typed again
    ctl(running.socket, "filter", "create", "copy", "--rule", f"priority=1,action=accept,{match}")
    made = json.loads(ctl(running.socket, "--json", "filter", "show", "copy"))
    shown = json.loads(ctl(running.socket, "--json", "filter", "show", "web"))
    assert made["rules"] == [shown["rules"][1]]
    assert [one["name"] for one in json.loads(ctl(running.socket, "--json", "filter", "list"))] == ["web", "copy"]
    assert json.loads(ctl(running.socket, "filter", "show", "--json", "copy")) == made
    assert ctl(running.socket, "filter", "delete", "copy") == "copy: deleted\n"

    network = ("--device", "em02", "--addresses", "192.0.2.10-192.0.2.20/24", "--gateway", "192.0.2.1")
    assert ctl(running.socket, "network", "create", "capture", *network) == "capture: created\n"
    for command in (("list",), ("show", "capture")):
        row = ctl(running.socket, "network", *command).splitlines()[1].split()
        assert row == ["capture", "em02", "192.0.2.10-192.0.2.20/24", "192.0.2.1", "run", "time"]
    assert ctl(running.socket, "network", "delete", "capture") == "capture: deleted\n"


def test_the_daemons_filter_is_explained(running: Daemon, tmp_path: Path) -> None:
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    web = ether / IP(src="10.1.0.1", dst="10.1.0.2") / TCP(sport=1000, dport=80)
    wrpcap(str(tmp_path / "two.pcap"), [web, Ether(FRAME)])
    lines = ctl(running.socket, "explain", "web", "--pcap", str(tmp_path / "two.pcap")).splitlines()
    assert lines[0].split() == ["1", "ingress", "rule", "1", "accepts", "tcp", "10.1.0.1:1000", ">", "10.1.0.2:80"]
    assert lines[1].endswith("udp 10.1.0.1:1000 > 10.1.0.2:2000; rule 1: protocol is udp, not tcp")
    assert "no such filter" in ctl(running.socket, "explain", "wob", "--pcap", str(tmp_path / "two.pcap"), status=1)


def complete(line: str, shell: str = "bash") -> list[str]:
    """What the shell is told when the last word of this line is to be completed."""
    words = line.split(" ")
    at = words[-1] if shell == "fish" else str(len(words) - 1)
    lines = run(_MIRRORCTL_COMPLETE=f"{shell}_complete", COMP_WORDS=line, COMP_CWORD=at).stdout.splitlines()
    if shell == "zsh":  # type, word and help on a line each
        return lines[1::3]
    return [line.split(",")[1].split("\t")[0] for line in lines if line]


def test_shells_complete_the_daemons_names(running: Daemon) -> None:
    start = f"mirrorctl --socket {running.socket}"
    assert complete(f"{start} en") == ["enable"]
    assert complete(f"{start} show c", "zsh") == ["core"]
    assert complete(f"{start} session delete core ", "fish") == ["nic"]
    assert complete(f"{start} session add core x --direction in") == ["ingress"]
    assert complete(f"{start} explain w") == ["web"]
    assert complete(f"mirrorctl --socket {running.socket}x show ") == []
    for shell in ("bash", "zsh", "fish"):
        assert "_MIRRORCTL_COMPLETE" in run(_MIRRORCTL_COMPLETE=f"{shell}_source").stdout


class Terminal:
    """mirrorctl on a terminal of 160 columns."""

    def __init__(self, *arguments: str) -> None:
        self._screen, end = pty.openpty()
        self.process = subprocess.Popen(
            ["env", "--default-signal=INT", "setsid", "--ctty", *COMMAND, *arguments],
            stdin=end, stdout=end, stderr=end, cwd=ROOT,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "160", "LINES": "40"},
        )  # fmt: skip
        os.close(end)
        self.text = ""

    def shows(self, text: str) -> bool:
        """Whether it has printed this by now."""
        while select.select([self._screen], [], [], 0)[0]:
            try:
                self.text += os.read(self._screen, 65536).decode(errors="replace")
            except OSError:  # the other end is closed
                break
        return text in self.text

    def press(self, key: bytes) -> None:
        os.write(self._screen, key)

    def ended(self) -> int | None:
        """Its exit status; it can only end while what it prints is read."""
        self.shows("")
        return self.process.poll()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._screen)


def test_top_is_live_on_a_terminal_and_one_table_elsewhere(running: Daemon) -> None:
    send(running.host, "tap0", FRAME, 7)
    running.settle(7)
    row = ctl(running.socket, "top").splitlines()[2].split()
    assert (row[:4], row[6:8]) == (["core", "nic", "tap0", "up"], ["7", "0"])
    once = run("--socket", str(running.socket), "top", "--once")
    assert (once.returncode, "\x1b" in once.stdout) == (0, False)  # no colours where nobody looks
    assert json.loads(ctl(running.socket, "--json", "top"))["sessions"][0]["counters"]["captured_frames"] == 7

    gone = Terminal("--socket", str(running.socket), "top")
    try:
        wait_for(lambda: gone.shows("core"), "the table")
        gone.press(b"x")  # no key that does something
        running.stop()
        wait_for(lambda: gone.ended() is not None, "the end")
        assert (gone.process.returncode, "cannot be reached" in gone.text) == (3, True)
    finally:
        gone.close()


def test_top_is_quit_by_a_key(running: Daemon) -> None:
    for key in (b"q", b"\x03"):  # the last is Ctrl-C
        before = int(running.metrics().total("mirrord_captured_frames_total"))
        top = Terminal("--socket", str(running.socket), "top")
        try:
            wait_for(lambda: top.shows(f" {before} "), "the table")  # noqa: B023 (called in this turn only)
            assert "\x1b[32mup" in top.text  # green
            send(running.host, "tap0", FRAME, 1000)
            wait_for(lambda: top.shows(f" {before + 1000} "), "the next table")  # noqa: B023
            top.press(key)
            wait_for(lambda: top.ended() is not None, "the end")  # noqa: B023
            assert (top.process.returncode, "Traceback" in top.text) == (0, False)
        finally:
            top.close()
