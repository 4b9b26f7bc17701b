"""mirrorctl beside its commands on mirrors: filters, flow networks, shell completion, top on a terminal."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap

from tests.conftest import MakeDaemon
from tests.support.ctl import COMMAND, ROOT, complete, ctl, run
from tests.support.daemon import Daemon
from tests.support.send import FRAME, send
from tests.support.terminal import Terminal
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

    network = (
        "--device",
        "em02",
        "--addresses",
        "192.0.2.10-192.0.2.20/24",
        "--gateway",
        "192.0.2.1",
        "--description",
        "for copies",
    )
    assert ctl(running.socket, "network", "create", "capture", *network) == "capture: created\n"
    for command in (("list",), ("show", "capture")):
        row = ctl(running.socket, "network", *command).splitlines()[1].split()
        assert row == ["capture", "em02", "192.0.2.10-192.0.2.20/24", "192.0.2.1", "run", "time", "for", "copies"]
    assert ctl(running.socket, "network", "delete", "capture") == "capture: deleted\n"


def test_the_daemons_filter_is_explained(running: Daemon, tmp_path: Path) -> None:
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    web = ether / IP(src="10.1.0.1", dst="10.1.0.2") / TCP(sport=1000, dport=80)
    wrpcap(str(tmp_path / "two.pcap"), [web, Ether(FRAME)])
    lines = ctl(running.socket, "explain", "web", "--pcap", str(tmp_path / "two.pcap")).splitlines()
    assert lines[0].split() == ["1", "ingress", "rule", "1", "accepts", "tcp", "10.1.0.1:1000", ">", "10.1.0.2:80"]
    assert lines[1].endswith("udp 10.1.0.1:1000 > 10.1.0.2:2000; rule 1: protocol is udp, not tcp")
    assert "no such filter" in ctl(running.socket, "explain", "wob", "--pcap", str(tmp_path / "two.pcap"), status=1)


def inside(running: Daemon, line: str) -> list[str]:
    """As `complete`, in the daemon's network namespace."""
    environment = ("_MIRRORCTL_COMPLETE=bash_complete", f"COMP_WORDS={line}", "COMP_CWORD=0", f"PYTHONPATH={ROOT}")
    return [one.partition(",")[2] for one in running.host.run("env", *environment, *COMMAND).splitlines()]


def test_bash_completes_what_has_signs_in_it(running: Daemon, tmp_path: Path) -> None:
    """Bash ends a word at = and : by itself, which no other way of asking shows."""
    command = tmp_path / "mirrorctl"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {" ".join(COMMAND)} "$@"\n')
    command.chmod(0o755)
    with Terminal(["bash", "--norc", "--noprofile"], columns=300, PATH=f"{tmp_path}:{os.environ['PATH']}") as shell:
        shell.press(b'eval "$(_MIRRORCTL_COMPLETE=bash_source mirrorctl)"; echo re""ady\n')
        wait_for(lambda: shell.shows("ready"), "the completion")
        shell.press(f"mirrorctl --socket {running.socket} session add core x --destination type=vx\t".encode())
        wait_for(lambda: "--destination type=vxlan" in shell.plain, "the type")
        shell.press(b",remote=2001:db8::1,po\t7 --fil\tw\t")
        wait_for(lambda: "type=vxlan,remote=2001:db8::1,port=7 --filter web" in shell.plain, "key, option and name")


def test_shells_complete_the_daemons_names(running: Daemon) -> None:
    start = f"mirrorctl --socket {running.socket}"
    assert complete(f"{start} en") == ["enable"]
    assert complete(f"{start} show c", "zsh") == ["core"]
    assert complete(f"{start} session delete core ", "fish") == ["nic"]
    assert complete(f"{start} session add core x --direction in") == ["ingress"]
    assert complete(f"{start} explain w") == ["web"]
    assert complete(f"mirrorctl --socket {running.socket}x show ") == []
    add = f"{start} session add core x"
    assert {"lo", "tap0", "out0"} <= set(inside(running, f"{add} --source "))
    assert complete(f"{add} --source type=br") == ["type=bridge"]
    assert complete(f"{add} --source type=bridge,br") == ["type=bridge,bridge="]
    assert complete(f"{add} --destination type=vxlan,vn") == ["type=vxlan,vni=", "type=vxlan,vni_egress="]
    assert complete(f"{add} --destination type=vxlan,shared_vni=t") == ["type=vxlan,shared_vni=true"]
    assert complete(f"{start} filter create f --rule priority=1,act") == ["priority=1,action="]
    assert complete(f"{start} filter rule delete web ") == ["9", "1"]
    ctl(running.socket, "filter", "create", "zürich", "--rule", "priority=5,action=accept")
    assert complete(f"{start} filter rule delete zürich ") == ["5"]
    assert complete(f"{start} create m --session name=a,source.type=device,source.persp") == [
        "name=a,source.type=device,source.perspective="
    ]
    for shell in ("bash", "zsh", "fish"):
        assert "_MIRRORCTL_COMPLETE" in run(_MIRRORCTL_COMPLETE=f"{shell}_source").stdout


def test_top_is_live_on_a_terminal_and_one_table_elsewhere(running: Daemon) -> None:
    send(running.host, "tap0", FRAME, 7)
    running.settle(7)
    row = ctl(running.socket, "top").splitlines()[2].split()
    assert (row[:4], row[6:8]) == (["core", "nic", "tap0", "up"], ["7", "0"])
    once = run("--socket", str(running.socket), "top", "--once")
    assert (once.returncode, "\x1b" in once.stdout) == (0, False)  # no colours where nobody looks
    assert json.loads(ctl(running.socket, "--json", "top"))["sessions"][0]["counters"]["captured_frames"] == 7

    with Terminal([*COMMAND, "--socket", str(running.socket), "top"]) as gone:
        wait_for(lambda: gone.shows("core"), "the table")
        gone.press(b"x")  # no key that does something
        running.stop()
        assert "cannot be reached" in gone.wait()
        assert gone.process.returncode == 3


def test_top_is_quit_by_a_key(running: Daemon) -> None:
    for key in (b"q", b"\x03"):  # the last is Ctrl-C
        before = int(running.metrics().total("mirrord_captured_frames_total"))
        with Terminal([*COMMAND, "--socket", str(running.socket), "top"]) as top:
            wait_for(lambda: top.shows(f" {before} "), "the table")  # noqa: B023 (called in this turn only)
            assert "\x1b[32mup" in top.text  # green
            send(running.host, "tap0", FRAME, 1000)
            wait_for(lambda: top.shows(f" {before + 1000} "), "the next table")  # noqa: B023
            top.press(key)
            assert "Traceback" not in top.wait()
            assert top.process.returncode == 0
