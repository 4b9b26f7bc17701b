"""What a daemon that root starts keeps of its capabilities, in every thread, and what it then refuses.

[host] tap0 ---- eth0 [guest]; up0 ---- up0 [collector]
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import MakeDaemon
from tests.support.api import Api
from tests.support.captures import count
from tests.support.ctl import invoke
from tests.support.daemon import Daemon
from tests.support.send import FRAME, send
from tests.support.topology import Host, Topology
from tests.support.uplink import CORE, mirror, tapped
from tests.support.wait import wait_for

NET_ADMIN, NET_RAW, SYS_ADMIN, SYS_PTRACE, SYS_NICE = 12, 13, 21, 19, 23  # linux/capability.h
CHOWN, DAC_OVERRIDE, FOWNER, NET_BIND_SERVICE = 0, 1, 3, 10
OTHER = 64009  # a user


@pytest.fixture
def hosts(net: Topology) -> tuple[Host, Host]:
    return tapped(net)


def capabilities(mirrord: Daemon, *sets: str) -> set[frozenset[int]]:
    """Those of these sets of each thread, proc(5)."""
    found = set()
    for thread in Path(f"/proc/{mirrord.pid}/task").iterdir():
        lines = dict(line.split(":\t", 1) for line in (thread / "status").read_text().splitlines())
        found |= {frozenset(bit for bit in range(64) if int(lines[one], 16) >> bit & 1) for one in sets}
    return found


def session(source: str) -> str:
    return CORE.replace('source = "tap0"', f"source = {source}")


def test_root_keeps_two_and_refuses_what_needs_more(hosts: tuple[Host, Host], daemon: MakeDaemon) -> None:
    host, collector = hosts
    mirrord = daemon(host, CORE)
    assert capabilities(mirrord, "CapPrm", "CapEff", "CapBnd") == {frozenset({NET_ADMIN, NET_RAW})}
    assert capabilities(mirrord, "CapInh", "CapAmb") == {frozenset()}
    assert len(list(Path(f"/proc/{mirrord.pid}/task").iterdir())) > 2
    said = invoke(mirrord.socket, "doctor").stdout.splitlines()
    assert said[-1] == "capabilities of the daemon: CAP_NET_ADMIN, CAP_NET_RAW"
    send(host, "tap0", FRAME, 5)
    assert mirrord.settle(5).total("mirrord_mirrored_frames_total") == 5

    there = mirror("tap0", 2)
    there["sessions"][0]["source"] = {"type": "device", "device": "up0", "netns": collector.name}
    why = "needs CAP_SYS_ADMIN, which mirrord gave up at its start: "
    refused = Api(mirrord.socket)("PUT", "mirrors/there", there)
    assert (refused.status, refused.code) == (409, "refused")
    assert (
        f"mirrors.there.sessions[0].source.netns: to enter a network namespace {why}define it in a file"
        in refused.message
    )
    text = mirrord.file.read_text()
    mirrord.file.write_text(
        text.replace('source = "tap0"', f'source = {{ device = "up0", netns = "{collector.name}" }}')
    )
    reloaded = Api(mirrord.socket)("POST", "reload")
    assert (reloaded.status, reloaded.code) == (409, "refused")
    assert f"{mirrord.file}: mirrors.core.sessions[0].source.netns: " in reloaded.message
    assert f"{why}restart it" in reloaded.message
    mirrord.file.write_text(text.replace('name = "a"', 'name = "b"'))
    assert Api(mirrord.socket)("POST", "reload").status == 200  # what root owns can be read
    assert Api(mirrord.socket)("PUT", "mirrors/more", mirror("tap0", 3)).status == 201  # and written


@pytest.mark.parametrize("dataplane", ["native"])
def test_what_the_configuration_names_is_kept(hosts: tuple[Host, Host], daemon: MakeDaemon, tmp_path: Path) -> None:
    host, collector = hosts
    captures = tmp_path / "captures"
    captures.mkdir(mode=0o700)
    os.chown(captures, OTHER, OTHER)
    more = f"""
[[mirrors.there.sessions]]
name = "netns"
source = {{ device = "up0", netns = "{collector.name}" }}
destination = {{ type = "file", path = "{captures}/a.pcapng" }}

[[mirrors.there.sessions]]
name = "low"
source = {{ type = "vxlan", local = "192.0.2.1", port = 500 }}
destination = {{ type = "vxlan", remote = "192.0.2.2", vni = 9 }}
"""
    mirrord = daemon(host, CORE + more, capture_directories=[str(captures)], nice=-5)
    kept = frozenset({NET_ADMIN, NET_RAW, SYS_ADMIN, SYS_NICE, NET_BIND_SERVICE, DAC_OVERRIDE, CHOWN, FOWNER})
    assert capabilities(mirrord, "CapPrm", "CapEff", "CapBnd") == {kept}
    send(collector, "up0", FRAME, 5)
    wait_for(lambda: count(captures / "a.pcapng") == 5, "the frames in the other user's directory")


@pytest.mark.parametrize("dataplane", ["native"])
def test_a_process_of_another_user_may_be_named(hosts: tuple[Host, Host], daemon: MakeDaemon) -> None:
    host, collector = hosts
    process = collector.spawn("setpriv", f"--reuid={OTHER}", "--clear-groups", "sleep", "1000")
    wait_for(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n", "the other user's process")
    source = f'{{ device = "up0", netns = "{process.pid}" }}'
    mirrord = daemon(host, session(source))
    assert capabilities(mirrord, "CapPrm", "CapBnd") == {frozenset({NET_ADMIN, NET_RAW, SYS_ADMIN, SYS_PTRACE})}
    send(collector, "up0", FRAME, 5)
    assert mirrord.settle(5).total("mirrord_mirrored_frames_total") >= 5
