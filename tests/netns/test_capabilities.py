"""docs/security.md: each call with the capability that the table names alone, and with all others but that.

[host] eth0 ---- eth0 [other]
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection
from importlib import import_module
from pathlib import Path

import pytest

from mirrord.control.privileges import held
from tests.support.topology import Host, Topology

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
NEEDS = dict(re.findall(r"^\| `([^`]+)` \| (CAP_\w+) \|", PAGE, re.MULTILINE))
LIMITS = re.findall(r"^\| `([\w.]+)\.(\w+)` \| [^|]+ \| (\d+) \|", PAGE, re.MULTILINE)
IP = "subprocess.run(['ip', *{!r}.split()], check=True, capture_output=True)"
TRIES = {
    "socket(AF_PACKET, SOCK_RAW)": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)",
    "socket(AF_INET, SOCK_RAW)": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 47)",
    "setsockopt(SO_RCVBUFFORCE)": "socket.socket(socket.AF_UNIX).setsockopt(socket.SOL_SOCKET, 33, 1 << 26)",
    "bind to a device's queueing (tc)": "subprocess.run('tc qdisc replace dev eth0 clsact'.split(), check=True)",
    "add an address (RTM_NEWADDR)": IP.format("address replace 192.0.2.9/24 dev eth0"),
    "keep a neighbour (RTM_NEWNEIGH)": IP.format("neighbour replace 192.0.2.7 lladdr 02:00:00:00:00:09 dev eth0"),
    "take a port off its bridge (RTM_SETLINK)": IP.format("link set eth0 nomaster"),
    "setns(CLONE_NEWNET)": "assert not ctypes.CDLL(None).setns(os.open('/proc/self/ns/net', 0), 0x40000000)",
    "open(/proc/PID/ns/net) of another user": "os.readlink('/proc/{pid}/ns/net')",
    "bind to a port below 1024": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).bind(('127.0.0.1', 500))",
    "setpriority below 0": "os.setpriority(os.PRIO_PROCESS, 0, -5)",
    "files of another user": "open('{file}', 'a').close()",
}
"""What the table's calls are, in Python or by iproute2."""


@pytest.fixture
def host(net: Topology) -> Host:
    host, other = net.host("host"), net.host("other")
    net.link(host, "eth0", other, "eth0")
    return host


def tried(host: Host, code: str, capabilities: Collection[str]) -> bool:
    """Whether it goes well for another user with these capabilities alone."""
    bounding = ",".join(["-all", *(f"+{one.removeprefix('CAP_').lower()}" for one in capabilities)])
    user = ["--reuid=64009", "--regid=64009", "--clear-groups"]
    allowed = f"--bounding-set={bounding}", f"--inh-caps={bounding}", f"--ambient-caps={bounding}"
    program = f"import ctypes, os, socket, subprocess\n{code}\nprint('done')"
    said = host.run("setpriv", *user, *allowed, sys.executable, "-S", "-c", program, check=False)
    return said.endswith("done\n")


def test_every_call_needs_what_the_table_says(host: Host, tmp_path: Path) -> None:
    assert NEEDS.keys() == TRIES.keys()
    (file := tmp_path / "secret").write_text("x")
    file.chmod(0o600)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o755)
    tmp_path.chmod(0o755)
    for call, capability in NEEDS.items():
        code = TRIES[call].replace("{pid}", str(os.getpid())).replace("{file}", str(file))
        assert tried(host, code, {capability}), f"{call}: {capability} is not enough"
        assert not tried(host, code, held() - {capability}), f"{call}: {capability} is not needed"
    assert tried(host, "", held())


@pytest.mark.parametrize(("module", "name", "value"), LIMITS, ids=str)
def test_every_limit_is_what_the_table_says(module: str, name: str, value: str) -> None:
    assert getattr(import_module(f"mirrord.{module}"), name) == int(value)


def test_the_limits_are_there() -> None:
    assert len(LIMITS) > 15
