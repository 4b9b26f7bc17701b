"""The Debian package under systemd as PID 1: start, reload, sockets, watchdog, hardening, crash, stop.

`make booted`; not one of `make test`, since it fetches a Debian 12.

[guest] eth0 ---- nic [the container's network] up0 ---- eth0 [collector]
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import MakeSniffer
from tests.netns.test_packages import deb, dist
from tests.support.container import Container
from tests.support.daemon import ROOT
from tests.support.send import FRAME, send
from tests.support.topology import Host, Topology, acquaint, receive_vxlan
from tests.support.unit import Unit
from tests.support.wait import wait_for

pytestmark = pytest.mark.timeout(600)

__all__ = ["deb", "dist"]  # fixtures

UNIT = Unit(ROOT / "systemd/mirrord.service")
MIRROR = """
[[mirrors.m.sessions]]
name = "s"
source = "nic"
direction = "ingress"
destination = { type = "vxlan", remote = "192.0.2.2", vni = 1 }
"""
HASTY = "[Service]\nWatchdogSec=4\n"  # the least that the unit's own words allow
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}  # linux/capability.h


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host, Host]:
    guest, host, collector = net.host("guest"), net.host("host"), net.host("collector")
    net.link(guest, "eth0", host, "nic")
    net.link(host, "up0", collector, "eth0", ("192.0.2.1/24", "192.0.2.2/24"), mtu=1600)
    acquaint(host, "up0", "192.0.2.1", collector, "eth0", "192.0.2.2")
    receive_vxlan(collector)
    return guest, host, collector


@pytest.fixture
def booted(hosts: tuple[Host, Host, Host], deb: Path, request: pytest.FixtureRequest) -> Iterator[Container]:
    """The system, with the package in it."""
    with Container(request.config.getoption("--booted").resolve(), hosts[1], deb.parent) as made:
        made.run("apt-get", "install", "-qy", "--no-install-recommends", str(deb), seconds=120)
        yield made


def show(booted: Container, *names: str) -> list[str]:
    """Properties of the service."""
    told = booted.run("systemctl", "show", "mirrord", *(f"--property={name}" for name in names)).splitlines()
    properties = dict(line.split("=", 1) for line in told)
    return [properties[name] for name in names]


def journal(booted: Container) -> str:
    return booted.run("journalctl", "--unit=mirrord", "--output=cat", "--no-pager")


def test_the_unit_under_systemd(hosts: tuple[Host, Host, Host], booted: Container, sniff: MakeSniffer) -> None:
    guest, _, collector = hosts
    copies = sniff(collector, "eth0", "udp port 4789")

    # start: the package's own installation has begun it
    wait_for(lambda: show(booted, "ActiveState", "SubState") == ["active", "running"], "the service", 30)
    assert show(booted, "NRestarts", "Type") == ["0", "notify"]

    # reload
    booted.write("/etc/mirrord/conf.d/mirror.toml", MIRROR)
    (main,) = show(booted, "MainPID")
    booted.run("systemctl", "reload", "mirrord")
    assert show(booted, "MainPID", "ActiveState") == [main, "active"]
    wait_for(lambda: states(booted) == ["up"], "the session")
    send(guest, "eth0", FRAME, 10)
    copies.wait_lines(10)
    booted.write("/etc/mirrord/conf.d/mirror.toml", "nonsense")
    booted.run("systemctl", "reload", "mirrord")
    assert "reload refused" in journal(booted)
    assert states(booted) == ["up"]
    booted.write("/etc/mirrord/conf.d/mirror.toml", MIRROR)
    booted.run("systemctl", "reload", "mirrord")

    # hardening: what the unit promises is what the kernel holds the process to
    status = dict(
        line.split(":\t", 1) for line in booted.run("cat", f"/proc/{main}/status").splitlines() if ":\t" in line
    )
    bits = sum(1 << CAPABILITIES[name] for name in UNIT.words("CapabilityBoundingSet"))
    assert {status[key].strip() for key in ("CapPrm", "CapEff", "CapBnd")} == {f"{bits:016x}"}
    assert (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) == ("1", "2")
    assert status["Uid"].split() == [booted.run("id", "-u", "mirrord").strip()] * 4
    enter = ("nsenter", f"--target={main}", "--mount")
    assert "Read-only file system" in booted.run(*enter, "touch", "/usr/bin/anything", check=False)
    assert booted.run(*enter, "ls", "/home") == booted.run(*enter, "ls", "/root", check=False) == ""

    # sockets: what asks while the daemon restarts waits for its answer
    booted.run("systemctl", "stop", "mirrord")
    booted.run("systemctl", "start", "mirrord.socket", "mirrord-read-only.socket")
    assert states(booted) == ["up"]  # the question began it
    assert booted.run("stat", "--format=%a %U %G", "/run/mirrord/mirrord.sock").split() == ["660", "root", "mirrord"]
    booted.run("systemctl", "restart", "--no-block", "mirrord")
    assert states(booted) == ["up"]

    # watchdog and crash: the service comes again, and goes on
    booted.write("/etc/systemd/system/mirrord.service.d/hasty.conf", HASTY)
    booted.run("systemctl", "daemon-reload")
    booted.run("systemctl", "restart", "mirrord")
    for signal, result in (("STOP", "Watchdog timeout"), ("KILL", "status=9/KILL")):
        (main,) = show(booted, "MainPID")
        booted.run("kill", f"-{signal}", main)
        wait_for(lambda main=main: show(booted, "MainPID")[0] not in (main, "0"), f"a new daemon after SIG{signal}", 40)  # type: ignore[misc]
        assert result in journal(booted)
        wait_for(lambda: states(booted) == ["up"], "the session", 30)
    before = len(copies.lines())
    send(guest, "eth0", FRAME, 10)
    copies.wait_lines(before + 10)

    # stop
    booted.run("systemctl", "stop", "mirrord.socket", "mirrord-read-only.socket", "mirrord")
    assert show(booted, "ActiveState", "Result", "ExecMainStatus") == ["inactive", "success", "0"]
    assert booted.run("systemctl", "--failed", "--no-legend") == ""


def states(booted: Container) -> list[str]:
    """Of each session."""
    return [one["state"] for one in json.loads(booted.run("mirrorctl", "--json", "status"))["sessions"]]
